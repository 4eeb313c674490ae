"""``POST /v1/chat/completions``: answers a conversation with text or speech, at once or streamed.

Source: OpenAI chat completions with audio (``input_audio`` parts, ``modalities``, ``audio``).
"""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import ASGIApp

from echox.serving.protocol.conversation import model_messages, turns_of
from echox.serving.protocol.events import new_id
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.usage import Usage
from echox.serving.rest.captions import WordObject, word_dict
from echox.serving.rest.chat_request import ChatRequest, read_chat
from echox.serving.rest.common import RequestError, ResponseWithCleanup, cancel_on_disconnect, event_line, json_object
from echox.serving.rest.encoders import encode, open_encoder
from echox.serving.service.replies import ReplyFeed
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import StopStringFeed
from echox.serving.service.unspoken import unspoken
from echox.streaming.events import AudioChunk, Event, Finished, HeardWord, Mark, ReplyBuilder, TextDelta

log = logging.getLogger("echox.serving")


async def completions(service: Service, request: Request, body: bytes) -> ASGIApp:
    """Handle one request."""
    chat = await cancel_on_disconnect(request, read_chat(service, await json_object(body)))
    max_bytes = service.limits.max_text_bytes
    if len(body) > max_bytes and not any(item.audio_s for item in chat.items):
        raise RequestError(413, "request_too_large", f"expected at most {max_bytes} bytes without audio, found more")
    num_chars, max_chars = sum(item.num_chars for item in chat.items), service.limits.max_history_chars
    if num_chars > max_chars:
        message = f"messages: expected at most {max_chars} characters in all of them, found {num_chars}"
        raise RequestError(400, "string_too_long", message, "messages")
    turns = turns_of(chat.items)
    messages = model_messages(turns)
    if not messages or messages[-1].role != "user":
        raise RequestError(400, "invalid_value", "messages: expected a question of the user at the end", "messages")
    session = service.model.session()
    texts = [part for item in chat.items if item.role == "system" for part in item.model_parts]
    session.system = "\n".join(str(text) for text in texts) or None
    session.messages = messages[:-1]
    feed = StopStringFeed(ReplyFeed(session.submit, messages[-1:], **chat.settings), chat.stops)
    head: JsonObject = {
        "id": new_id("chatcmpl"),
        "created": int(time.time()),
        "model": service.name,
        "service_tier": "default",
    }
    rate = session.output_sampling_rate
    if chat.streams:
        # Wait for the first event: an error before it is answered with an HTTP status.
        events = feed.events()
        try:
            first = await cancel_on_disconnect(request, _first_of(events))
        except BaseException:
            feed.cancel()
            raise
        lines = _EventStream(service, head, chat, feed, rate).lines(first, events)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return ResponseWithCleanup(
            StreamingResponse(lines, media_type="text/event-stream", headers=headers), feed.cancel
        )
    return await _complete_response(service, request, head, chat, feed, rate)


async def _first_of(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


async def _complete_response(
    service: Service, request: Request, head: JsonObject, chat: ChatRequest, feed: StopStringFeed, rate: int
) -> JSONResponse:
    builder = ReplyBuilder(rate)

    async def collect() -> None:
        async for event in feed.events():
            builder.add(event)

    try:
        await cancel_on_disconnect(request, collect())
    finally:
        feed.cancel()
    reply = builder.build()
    if builder.timings.rtf:
        service.metrics.rtf.observe(builder.timings.rtf)
    message: JsonObject = {"role": "assistant", "content": reply.text, "refusal": None}
    if chat.speaks:
        audio_id = new_id("audio")
        data = await asyncio.to_thread(encode, reply.waveform, rate, chat.audio_kind)
        message["content"] = None
        message["audio"] = {
            "id": audio_id,
            "data": base64.b64encode(data).decode("ascii"),
            "transcript": reply.text,
            "expires_at": service.spoken_replies.add(audio_id, reply.text),
            "words": _words(reply.text, reply.timeline),
            **({"unspoken": unspoken(reply.failures)} if reply.failures else {}),
        }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply.stopped)}
    usage = Usage.of_reply(builder.timings).for_chat()
    body = {**head, "object": "chat.completion", "choices": [choice], "usage": usage}
    return JSONResponse(body)


class _EventStream:
    """Sends a reply as server-sent events: text as ``content``, or speech and its transcript as ``audio``."""

    def __init__(self, service: Service, head: JsonObject, chat: ChatRequest, feed: StopStringFeed, rate: int) -> None:
        self._service, self._head, self._chat, self._feed = service, head, chat, feed
        self._audio_id = new_id("audio")
        self._encoder = open_encoder(chat.audio_kind, rate)
        self._builder = ReplyBuilder(rate)

    async def lines(self, first: Event | None, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The lines of the body, made from the first event and the following ones."""
        yield self._chunk({"role": "assistant", **({} if self._chat.speaks else {"content": ""})})
        try:
            if first is not None:
                for line in self._lines_of(first):
                    yield line
            async for event in events:
                for line in self._lines_of(event):
                    yield line
            if self._chat.includes_usage:
                yield self._line([], Usage.of_reply(self._feed.timings).for_chat())
        except ValueError as error:
            yield _error("invalid_request_error", "not_answerable", " ".join(str(error).split()))
        except Exception:  # the status is sent already, so the error is sent in the body
            log.exception("a reply failed")
            yield _error("server_error", "internal_error", "the model failed; see the server's log")
        yield "data: [DONE]\n\n"

    def _lines_of(self, event: Event) -> list[str]:
        """The lines for one event."""
        self._builder.add(event)
        if isinstance(event, TextDelta):
            delta: JsonObject = {"audio": {"id": self._audio_id, "transcript": event.text}}
            return [self._chunk(delta if self._chat.speaks else {"content": event.text})]
        if isinstance(event, AudioChunk):
            return self._audio(self._encoder.write(event.waveform))
        if not isinstance(event, Finished):
            return []
        lines = []
        if self._chat.speaks:
            lines += self._audio(self._encoder.finish())
            expires_at = self._service.spoken_replies.add(self._audio_id, self._builder.text)
            words = _words(self._builder.text, event.timeline)
            last = {"id": self._audio_id, "expires_at": expires_at, "words": words}
            missing = {"unspoken": unspoken(self._builder.failures)} if self._builder.failures else {}
            lines.append(self._chunk({"audio": {**last, **missing}}))
        return [*lines, self._chunk({}, _finish_reason(event.stopped))]

    def _audio(self, data: bytes) -> list[str]:
        text = base64.b64encode(data).decode("ascii")
        return [self._chunk({"audio": {"id": self._audio_id, "data": text}})] if data else []

    def _chunk(self, delta: JsonObject, reason: str | None = None) -> str:
        return self._line([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}])

    def _line(self, choices: list[JsonObject], usage: JsonObject | None = None) -> str:
        body = {**self._head, "object": "chat.completion.chunk", "choices": choices}
        if self._chat.includes_usage:
            body["usage"] = usage
        return event_line(body)


def _error(kind: str, code: str, message: str) -> str:
    return event_line({"error": {"type": kind, "code": code, "message": message}})


def _words(text: str, timeline: tuple[Mark, ...]) -> list[WordObject]:
    """The times of the words of a spoken reply (an extension, in the form of transcriptions)."""
    words = (HeardWord(text[one.text_start : one.text_end].strip(), one.start_s, one.end_s) for one in timeline)
    return [word_dict(word) for word in words]


def _finish_reason(stopped: str) -> str:
    return "length" if stopped == "length" else "stop"
