"""``POST /v1/chat/completions``: answers a conversation with text or speech, at once or streamed.

Source: OpenAI chat completions with audio (``input_audio`` parts, ``modalities``, ``audio``).
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp

from echox.serving.protocol.events import new_id
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.usage import Usage
from echox.serving.rest.answering import StreamFault, check_size, stream_reply, whole_reply
from echox.serving.rest.captions import WordObject, word_dict
from echox.serving.rest.chat_request import ChatRequest, read_chat
from echox.serving.rest.common import cancel_on_disconnect, event_line, json_object
from echox.serving.rest.encoders import encode, open_encoder
from echox.serving.service.questions import ask
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import StopStringFeed
from echox.serving.service.unspoken import unspoken
from echox.streaming.events import AudioChunk, Event, Finished, HeardWord, Mark, Reply, ReplyBuilder, TextDelta
from echox.tool_calls.tools import ToolCallDelta


async def completions(service: Service, request: Request, body: bytes) -> ASGIApp:
    """Handle one request."""
    chat = await cancel_on_disconnect(request, read_chat(service, await json_object(body)))
    check_size(service, len(body), chat.items)
    feed = ask(service, chat.items, chat.settings, "messages", chat.stops, chat.tools)
    head: JsonObject = {
        "id": new_id("chatcmpl"),
        "created": int(time.time()),
        "model": service.name,
        "service_tier": "default",
    }
    if chat.streams:
        return await stream_reply(request, feed, feed.events(), _EventStream(service, head, chat, feed).lines)
    builder = ReplyBuilder(service.output_rate)
    await whole_reply(service, request, feed, feed.events(), builder.add)
    return await _completion(service, head, chat, builder)


async def _completion(service: Service, head: JsonObject, chat: ChatRequest, builder: ReplyBuilder) -> JSONResponse:
    reply = builder.build()
    message: JsonObject = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.calls:
        message["tool_calls"] = [
            {"id": new_id("call"), "type": "function", "function": asdict(one)} for one in reply.calls
        ]
        message["content"] = reply.text or None
    if chat.speaks and (reply.text or not reply.calls):
        audio_id = new_id("audio")
        data = await asyncio.to_thread(encode, reply.waveform, reply.sampling_rate, chat.audio_kind)
        message["content"] = None
        message["audio"] = {
            "id": audio_id,
            "data": base64.b64encode(data).decode("ascii"),
            "transcript": reply.text,
            "expires_at": service.spoken_replies.add(audio_id, reply.text),
            "words": _words(reply.text, reply.timeline),
            **({"unspoken": unspoken(reply.failures)} if reply.failures else {}),
        }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(reply)}
    usage = Usage.of_reply(builder.timings).for_chat()
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


class _EventStream:
    """Sends a reply as server-sent events: text as ``content``, or speech and its transcript as ``audio``."""

    def __init__(self, service: Service, head: JsonObject, chat: ChatRequest, feed: StopStringFeed) -> None:
        self._service, self._head, self._chat, self._feed = service, head, chat, feed
        self._audio_id = new_id("audio")
        self._encoder = open_encoder(chat.audio_kind, service.output_rate)
        self._builder = ReplyBuilder(service.output_rate)
        self._num_calls = 0

    async def lines(self, events: AsyncIterator[Event]) -> AsyncIterator[str]:
        """The lines of the body."""
        yield self._chunk({"role": "assistant", **({} if self._chat.speaks else {"content": ""})})
        try:
            async for event in events:
                for line in self._lines_of(event):
                    yield line
            if self._chat.includes_usage:
                yield self._line([], Usage.of_reply(self._feed.timings).for_chat())
        except Exception as error:  # noqa: BLE001 - the status is sent already, so the error is sent in the body
            fault = StreamFault.of(error)
            yield event_line({"error": {"type": fault.kind, "code": fault.code, "message": fault.message}})
        yield "data: [DONE]\n\n"

    def _lines_of(self, event: Event) -> list[str]:
        """The lines for one event."""
        self._builder.add(event)
        if isinstance(event, TextDelta):
            delta: JsonObject = {"audio": {"id": self._audio_id, "transcript": event.text}}
            return [self._chunk(delta if self._chat.speaks else {"content": event.text})]
        if isinstance(event, AudioChunk):
            return self._audio(self._encoder.write(event.waveform))
        if isinstance(event, ToolCallDelta):
            return [self._call(event)]
        if not isinstance(event, Finished):
            return []
        lines = []
        if self._chat.speaks and (event.text or not event.calls):
            lines += self._audio(self._encoder.finish())
            expires_at = self._service.spoken_replies.add(self._audio_id, self._builder.text)
            words = _words(self._builder.text, event.timeline)
            last = {"id": self._audio_id, "expires_at": expires_at, "words": words}
            missing = {"unspoken": unspoken(self._builder.failures)} if self._builder.failures else {}
            lines.append(self._chunk({"audio": {**last, **missing}}))
        return [*lines, self._chunk({}, _finish_reason(event))]

    def _call(self, delta: ToolCallDelta) -> str:
        """A piece of a call; the first one has its id and name."""
        function: JsonObject = {"arguments": delta.arguments}
        call: JsonObject = {"index": delta.index, "function": function}
        if delta.index == self._num_calls:
            self._num_calls += 1
            function["name"] = delta.name
            call = {**call, "id": new_id("call"), "type": "function"}
        return self._chunk({"tool_calls": [call]})

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


def _words(text: str, timeline: tuple[Mark, ...]) -> list[WordObject]:
    """The times of the words of a spoken reply (an extension, in the form of transcriptions)."""
    words = (HeardWord(text[one.text_start : one.text_end].strip(), one.start_s, one.end_s) for one in timeline)
    return [word_dict(word) for word in words]


def _finish_reason(reply: Reply | Finished) -> str:
    return "length" if reply.stopped == "length" else "tool_calls" if reply.calls else "stop"
