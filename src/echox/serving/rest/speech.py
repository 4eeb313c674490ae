"""``POST /v1/audio/speech``: speaks a text with the model's voice, streamed or at once."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from echox.serving.protocol.events import take
from echox.serving.protocol.options import read_text, read_voice
from echox.serving.protocol.parameters import SPEECH
from echox.serving.protocol.usage import Usage
from echox.serving.rest.common import RequestError, ResponseWithCleanup, cancel_on_disconnect, event_line, json_object
from echox.serving.rest.encoders import CONTENT_TYPES, STREAMED, AudioEncoder, open_encoder
from echox.serving.service.replies import ReplyFeed
from echox.serving.service.service import Service
from echox.serving.service.unspoken import unspoken, unspoken_header
from echox.streaming.events import AudioChunk, Event, SpeechFailed

log = logging.getLogger("echox.serving")
_LONGEST_READING = 32  # characters that are said for one written character, at most: "percent", "one half"


async def speak(service: Service, request: Request, body: bytes) -> ASGIApp:
    """Speak a text. Formats that can be played while they are made are streamed."""
    source = await json_object(body)
    SPEECH.check(source)
    text = read_text(source, "input", "", service.limits.max_speech_chars)
    take(source, "model", str, default=service.name)  # any name is accepted: there is only one model
    read_voice(source, "")
    kind = take(source, "response_format", str, default="mp3", choices=tuple(CONTENT_TYPES))
    as_events = take(source, "stream_format", str, default="audio", choices=("audio", "sse")) == "sse"
    speed = take(source, "speed", float, default=1.0, at_least=0.25, at_most=4.0)
    session = service.model.session()
    rate = session.output_sampling_rate
    max_spoken = 2 * service.limits.max_speech_chars
    if len(text) > max_spoken // _LONGEST_READING:
        num_spoken = await asyncio.to_thread(session.spoken_length, text)
        if num_spoken > max_spoken:
            message = f"input: expected text read aloud in at most {max_spoken} characters, found {num_spoken}"
            raise RequestError(400, "string_too_long", message, "input")
    feed = ReplyFeed(session.speak, text, speed=float(speed))
    events = feed.events()
    try:
        failures: list[SpeechFailed] = []
        first = await cancel_on_disconnect(request, _first_audio(events, failures))
        if first is None:
            reasons = "; ".join(f"{one['text']!r}: {one['reason']}" for one in unspoken(failures)[:3]) or "nothing"
            message = f"input: expected something that can be spoken, found {reasons}"
            raise RequestError(400, "not_speakable", message, "input")
        parts = _encoded(open_encoder(kind, rate), first, events, failures)
        if not as_events and kind not in STREAMED:
            data = await cancel_on_disconnect(request, _joined(parts))
            return Response(data, media_type=CONTENT_TYPES[kind], headers=unspoken_header(failures))
    except BaseException:
        feed.cancel()
        raise
    if as_events:
        response = StreamingResponse(_as_events(parts, feed, failures), media_type="text/event-stream")
    else:
        # Text that cannot be pronounced is known by now. Later failures are reported by events and by complete files.
        response = StreamingResponse(parts, media_type=CONTENT_TYPES[kind], headers=unspoken_header(failures))
    return ResponseWithCleanup(response, feed.cancel)


async def _first_audio(events: AsyncIterator[Event], failures: list[SpeechFailed]) -> AudioChunk | None:
    """Wait for the first chunk; None: nothing was spoken. Failures until then are added to `failures`."""
    async for event in events:
        if isinstance(event, SpeechFailed):
            failures.append(event)
        if isinstance(event, AudioChunk):
            return event
    return None


async def _encoded(
    encoder: AudioEncoder, first: AudioChunk, events: AsyncIterator[Event], failures: list[SpeechFailed]
) -> AsyncIterator[bytes]:
    if data := encoder.write(first.waveform):
        yield data
    async for event in events:
        if isinstance(event, SpeechFailed):
            failures.append(event)
        elif isinstance(event, AudioChunk) and (data := encoder.write(event.waveform)):
            yield data
    if failures:
        log.warning("speech: %d parts of the text could not be spoken", len(failures))
    yield encoder.finish()


async def _joined(parts: AsyncIterator[bytes]) -> bytes:
    return b"".join([part async for part in parts])


async def _as_events(parts: AsyncIterator[bytes], feed: ReplyFeed, failures: list[SpeechFailed]) -> AsyncIterator[str]:
    """Server-sent events: ``speech.audio.delta`` with base64, and ``speech.audio.done`` with the usage.

    The last one has ``unspoken`` if a part of the text could not be spoken.
    """
    try:
        async for part in parts:
            if part:
                yield event_line({"type": "speech.audio.delta", "audio": base64.b64encode(part).decode("ascii")})
    except Exception:  # the status is sent already, so the error is sent in the body
        log.exception("speech failed")
        message = "the model failed; see the server's log"
        yield event_line({"error": {"type": "server_error", "code": "internal_error", "message": message}})
        return
    missing = {"unspoken": unspoken(failures)} if failures else {}
    usage = Usage.of_speech(feed.timings).for_speech()
    yield event_line({"type": "speech.audio.done", "usage": usage, **missing})
