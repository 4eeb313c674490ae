"""``POST /v1/chat/completions``: a conversation in, text or speech out, whole or as it comes.

Source: OpenAI chat completions with audio (``input_audio`` parts, ``modalities``, ``audio``).
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

from echox.audio import is_silent
from echox.serving.conversation import Content, Item, model_messages, turns_of
from echox.serving.events import EventError, new_id, short, take
from echox.serving.http import (
    CONTENT_TYPES,
    Ending,
    Refusal,
    collected,
    decode,
    encode,
    first_event,
    json_object,
    unless_gone,
)
from echox.serving.json_input import aside
from echox.serving.options import check_tools, sampling
from echox.serving.replies import ReplyFeed
from echox.serving.service import Service
from echox.serving.wire import AudioFormat, WireWriter, decode_base64
from echox.streaming.events import AudioChunk, Event, Finished, ReplyBuilder, TextDelta
from echox.streaming.messages import Audio

log = logging.getLogger("echox.serving")


@dataclass
class _Asked:
    """A request, checked."""

    items: list[Item]
    settings: dict[str, Any]
    speaks: bool
    audio_kind: str
    streams: bool


async def completions(service: Service, request: Request, body: bytes) -> Any:
    """Answer one request."""
    asked = await unless_gone(request, _read(service, await json_object(body)))
    if len(body) > service.limits.max_text_bytes and not any(item.sound_s for item in asked.items):
        raise Refusal(
            413,
            "request_too_large",
            f"expected at most {service.limits.max_text_bytes} bytes without audio, found more",
        )
    turns = turns_of(asked.items)
    messages = model_messages(turns)
    if not messages or messages[-1].role != "user":
        raise Refusal(400, "invalid_value", "messages: expected a question of the user at the end", "messages")
    session = service.model.session()
    texts = [part for item in asked.items if item.role == "system" for part in item.model_parts]
    session.system = "\n".join(str(text) for text in texts) or None
    session.messages = messages[:-1]
    feed = ReplyFeed(session.submit, messages[-1:], **asked.settings)
    head = {"id": new_id("chatcmpl"), "created": int(time.time()), "model": service.name}
    rate = session.output_sampling_rate
    if asked.streams:
        # The first event decides whether there is a reply at all; what fails before it is answered with a status.
        events = feed.events()
        try:
            first = await first_event(request, events)
        except BaseException:
            feed.cancel()
            raise
        parts = _stream(service, head, asked, first, events, rate)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return Ending(StreamingResponse(parts, media_type="text/event-stream", headers=headers), feed.cancel)
    return await _whole(service, request, head, asked, feed, rate)


async def _whole(
    service: Service, request: Request, head: dict[str, Any], asked: _Asked, feed: ReplyFeed, rate: int
) -> JSONResponse:
    builder = await collected(request, feed, rate)
    reply = builder.build()
    service.metrics.rtf.observe(builder.timings.rtf or 0.0) if builder.timings.rtf else None
    message: dict[str, Any] = {"role": "assistant", "content": reply.text, "refusal": None}
    if asked.speaks:
        audio_id = new_id("audio")
        data = encode(reply.waveform, rate, asked.audio_kind)
        message["content"] = None
        message["audio"] = {
            "id": audio_id,
            "data": base64.b64encode(data).decode("ascii"),
            "transcript": reply.text,
            "expires_at": service.spoken_replies.keep(audio_id, reply.text),
        }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(reply.stopped)}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice]})


async def _stream(
    service: Service, head: dict[str, Any], asked: _Asked, first: Event | None, events: AsyncIterator[Event], rate: int
) -> AsyncIterator[str]:
    """Server-sent events: text as ``content``, or speech and its transcript as ``audio``."""
    audio_id = new_id("audio")
    writer = WireWriter(rate, AudioFormat())
    builder = ReplyBuilder(rate)

    def line(delta: dict[str, Any], reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"

    def sound(waveform: np.ndarray, last: bool = False) -> str:
        data = base64.b64encode(writer.write(waveform, last)).decode("ascii")
        return line({"audio": {"id": audio_id, "data": data}}) if data else ""

    async def all_events() -> AsyncIterator[Event]:
        if first is not None:
            yield first
        async for event in events:
            yield event

    yield line({"role": "assistant", **({} if asked.speaks else {"content": ""})})
    try:
        async for event in all_events():
            builder.add(event)
            if isinstance(event, TextDelta):
                spoken = {"audio": {"id": audio_id, "transcript": event.text}}
                yield line(spoken if asked.speaks else {"content": event.text})
            elif isinstance(event, AudioChunk):
                yield sound(event.waveform)
            elif isinstance(event, Finished):
                if asked.speaks:
                    yield sound(np.zeros(0, np.float32), last=True)
                    expires_at = service.spoken_replies.keep(audio_id, builder.text)
                    yield line({"audio": {"id": audio_id, "expires_at": expires_at}})
                yield line({}, _reason(event.stopped))
    except ValueError as error:
        body = {"type": "invalid_request_error", "code": "not_answerable", "message": " ".join(str(error).split())}
        yield f"data: {json.dumps({'error': body})}\n\n"
    except Exception:  # the status has left already: told where the client reads
        log.exception("a reply failed")
        body = {"type": "server_error", "code": "internal_error", "message": "the model failed; see the server's log"}
        yield f"data: {json.dumps({'error': body})}\n\n"
    yield "data: [DONE]\n\n"


def _reason(stopped: str) -> str:
    return "length" if stopped == "length" else "stop"


async def _read(service: Service, body: dict[str, Any]) -> _Asked:
    """Check a request and decode its sound.

    Raises:
        EventError: a value that is missing, wrong or not supported. ValueError: audio that cannot be decoded.
    """
    take(body, "model", str, default=service.name)  # any name: there is one model
    if take(body, "n", int, default=1) != 1:
        raise EventError("n: expected 1, found another number", "unsupported_value", "n")
    check_tools(body)
    wanted = take(body, "modalities", list, default=["text"])
    if not wanted or not all(item in ("text", "audio") for item in wanted if isinstance(item, str)):
        message = f"modalities: expected 'text' and 'audio', found {short(wanted)}"
        raise EventError(message, "invalid_value", "modalities")
    speaks, streams = "audio" in wanted, take(body, "stream", bool, default=False)
    audio = take(body, "audio", dict, default={})
    kind = take(audio, "format", str, "audio", "pcm16" if streams else "wav", tuple(CONTENT_TYPES))
    if speaks and streams and kind not in ("pcm16", "pcm"):
        message = f"audio.format: expected pcm16 when streaming, found {kind}"
        raise EventError(message, "unsupported_value", "audio.format")
    settings: dict[str, Any] = {**sampling(body), "speak": speaks}
    bounds = [service.limits.max_output_tokens, service.model.settings.max_new_tokens]
    bounds += [take(body, name, int, default=None, at_least=1) for name in ("max_tokens", "max_completion_tokens")]
    settings["max_new_tokens"] = min(bound for bound in bounds if bound is not None)
    messages = take(body, "messages", list)
    if not 0 < len(messages) <= service.limits.max_items:
        message = f"messages: expected 1 to {service.limits.max_items}, found {len(messages)}"
        raise EventError(message, "invalid_value", "messages")
    items, room_s = [], service.limits.max_upload_s
    for index, source in enumerate(messages):
        item = await _read_message(service, source, f"messages[{index}]", room_s)
        room_s -= item.sound_s
        items.append(item)
    return _Asked(items, settings, speaks, kind, streams)


async def _read_message(service: Service, source: Any, where: str, room_s: float) -> Item:
    if not isinstance(source, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    role = take(source, "role", str, where, choices=("system", "developer", "user", "assistant"))
    role = "system" if role == "developer" else role
    content = take(source, "content", (str, list), where, None)
    if content is None:
        spoken = take(source, "audio", dict, where, {}) if role == "assistant" else {}
        text = service.spoken_replies.find(take(spoken, "id", str, f"{where}.audio"), f"{where}.audio.id")
        return Item(new_id("item"), role, [Content("output_audio", text)])
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    found: list[Content] = []
    for index, part in enumerate(parts):
        found.append(await _read_part(service, part, role, f"{where}.content[{index}]", room_s))
        room_s -= found[-1].sound_s
    return Item(new_id("item"), role, found)


async def _read_part(service: Service, part: Any, role: str, where: str, room_s: float) -> Content:
    if not isinstance(part, dict):
        raise EventError(f"{where}: expected an object", "invalid_type", where)
    kinds = ("text", "input_audio") if role == "user" else ("text",)
    if take(part, "type", str, where, choices=kinds) == "text":
        text = take(part, "text", str, where)
        if len(text) > service.limits.max_text_chars:
            most = service.limits.max_text_chars
            message = f"{where}.text: expected at most {most} characters, found {len(text)}"
            raise EventError(message, "string_too_long", where)
        return Content("input_text", text)
    sound = take(part, "input_audio", dict, where)
    try:
        data = await aside(decode_base64, take(sound, "data", str, f"{where}.input_audio"))
    except EventError:
        raise
    except ValueError as error:
        raise EventError(f"{where}.input_audio.data: {error}", "invalid_value", f"{where}.input_audio.data") from error
    if take(sound, "format", str, f"{where}.input_audio", None) == "pcm16":
        samples = AudioFormat().decode(data[: len(data) // 2 * 2])
        data = encode(samples, AudioFormat().rate, "wav")
    waveform = await decode(service, data, max(room_s, 0.0))
    if is_silent(waveform):
        raise EventError(f"{where}: expected speech, found silence", "not_answerable", where)
    return Content("input_audio", audio=Audio(waveform, service.input_rate))
