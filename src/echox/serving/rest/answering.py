"""What chat completions and responses share: recordings and tools in a request, whole replies, and event streams."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from echox.serving.protocol.conversation import Content, ConversationItem
from echox.serving.protocol.events import OBJECT, EventError, refusal_code, take
from echox.serving.protocol.json_input import JsonObject, read_off_loop
from echox.serving.protocol.tool_options import ToolOptions, check_tools, read_tools
from echox.serving.protocol.wire import AudioFormat, decode_base64
from echox.serving.rest.common import RequestError, ResponseWithCleanup, cancel_on_disconnect, decode_audio
from echox.serving.rest.encoders import encode
from echox.serving.service.service import Service
from echox.serving.service.stop_strings import StopStringFeed
from echox.streaming.events import Event
from echox.streaming.prompt.messages import Audio

log = logging.getLogger("echox.serving")


async def read_recording(service: Service, part: JsonObject, where: str, left_s: float) -> Content:
    """Read a part ``{"input_audio": {"data", "format"}}``; any audio file, or ``pcm16``, is decoded.

    Args:
        service: the service.
        part: the part.
        where: its place, for errors.
        left_s: longest audio that is allowed.

    Raises:
        EventError: not base64, or no speech in it.
        ValueError: audio that cannot be decoded.
    """
    source = take(part, "input_audio", OBJECT, where)
    encoded = take(source, "data", str, f"{where}.input_audio")
    try:
        data = await read_off_loop(decode_base64, encoded)
    except ValueError as error:
        raise EventError(f"{where}.input_audio.data: {error}", "invalid_value", f"{where}.input_audio.data") from error
    if take(source, "format", str, f"{where}.input_audio", default=None) == "pcm16":
        samples = AudioFormat().decode(data[: len(data) // 2 * 2])
        data = await asyncio.to_thread(encode, samples, AudioFormat().rate, "wav")
    audio = Audio(await decode_audio(service, data, max(left_s, 0.0)), service.input_rate)
    if not await service.contains_speech(audio):
        raise EventError(f"{where}: expected speech, found only silence or noise", "not_heard", where)
    return Content("input_audio", audio=audio)


async def read_tool_options(service: Service, body: JsonObject) -> ToolOptions:
    """The tools of a request. A model that calls none accepts them without effect, unless a call is required.

    Raises:
        EventError: a malformed tool, a schema that cannot be followed, or a call is required that cannot be made.
    """
    if not service.calls_tools:
        take(body, "parallel_tool_calls", bool, default=True)
        check_tools(body)
        return ToolOptions(choice="none")
    found = read_tools(body, ToolOptions(), "", service.limits)
    if not found.tools and found.choice not in ("none", "auto"):
        raise EventError("tool_choice: expected tools with it, found none", "invalid_value", "tool_choice")
    await service.prepare_tools(found.use, "tools")
    return found


def check_size(service: Service, num_bytes: int, items: list[ConversationItem]) -> None:
    """Refuse a body without audio that is as large as one with audio may be.

    Raises:
        RequestError: it is too large (413).
    """
    max_bytes = service.limits.max_text_bytes
    if num_bytes > max_bytes and not any(item.audio_s for item in items):
        raise RequestError(413, "request_too_large", f"expected at most {max_bytes} bytes without audio, found more")


async def whole_reply(
    service: Service,
    request: Request,
    feed: StopStringFeed,
    events: AsyncIterator[Event],
    add: Callable[[Event], object],
) -> None:
    """Collect the events of a reply; the reply is cancelled if its client disconnects.

    Args:
        service: the service.
        request: the request.
        feed: the reply.
        events: its events.
        add: called with each of them.

    Raises:
        RequestError: the client has disconnected.
        ValueError: the model refused the question.
    """

    async def collect() -> None:
        async for event in events:
            add(event)

    try:
        await cancel_on_disconnect(request, collect())
    finally:
        feed.cancel()
    if feed.timings.rtf:
        service.metrics.rtf.observe(feed.timings.rtf)


async def stream_reply(
    request: Request,
    feed: StopStringFeed,
    events: AsyncIterator[Event],
    lines: Callable[[AsyncIterator[Event]], AsyncIterator[str]],
) -> ASGIApp:
    """Answer with server-sent events.

    An error before the first event of the reply is raised, so that it is answered with an HTTP status.

    Args:
        request: the request.
        feed: the reply.
        events: its events.
        lines: makes the lines of the body from the events.

    Raises:
        RequestError: the client has disconnected.
        ValueError: the model refused the question.
    """
    try:
        first = await cancel_on_disconnect(request, _first_of(events))
    except BaseException:
        feed.cancel()
        raise

    async def all_events() -> AsyncIterator[Event]:
        if first is not None:
            yield first
        async for event in events:
            yield event

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    response = StreamingResponse(lines(all_events()), media_type="text/event-stream", headers=headers)
    return ResponseWithCleanup(response, feed.cancel)


async def _first_of(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


@dataclass(frozen=True)
class StreamFault:
    """An error after the status was sent; it is sent in the body.

    Attributes:
        kind: "invalid_request_error" or "server_error".
        code: for programs.
        message: for people.
    """

    kind: str
    code: str
    message: str

    @classmethod
    def of(cls, error: Exception) -> StreamFault:
        """What a client may know of an error; the details of a fault of the server are only logged."""
        if isinstance(error, ValueError):
            return cls("invalid_request_error", refusal_code(error), " ".join(str(error).split()))
        log.error("a reply failed", exc_info=error)
        return cls("server_error", "internal_error", "the model failed; see the server's log")
