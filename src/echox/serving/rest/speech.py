"""``POST /v1/audio/speech``: text to the model's voice, as it is made or whole."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from echox.serving.protocol.events import take
from echox.serving.protocol.options import text_within, voice
from echox.serving.protocol.parameters import SPEECH
from echox.serving.rest.common import Ending, Refusal, event_line, json_object, unless_gone
from echox.serving.rest.encoders import CONTENT_TYPES, STREAMED, AudioEncoder, open_encoder
from echox.serving.service.replies import ReplyFeed
from echox.serving.service.service import Service
from echox.serving.service.unspoken import unspoken, unspoken_header
from echox.streaming.events import AudioChunk, Event, SpeechFailed

log = logging.getLogger("echox.serving")


async def speak(service: Service, request: Request, body: bytes) -> Any:
    """Say a text: formats that can be played while they are made come so, the others when it was said."""
    asked = await json_object(body)
    SPEECH.check(asked)
    text = text_within(asked, "input", "", service.limits.max_speech_chars)
    take(asked, "model", str, default=service.name)  # any name: there is one model
    voice(asked, "", None)
    kind = take(asked, "response_format", str, default="mp3", choices=tuple(CONTENT_TYPES))
    as_events = take(asked, "stream_format", str, default="audio", choices=("audio", "sse")) == "sse"
    speed = take(asked, "speed", float, default=1.0, at_least=0.25, at_most=4.0)
    session = service.model.session()
    rate = session.output_sampling_rate
    feed = ReplyFeed(session.speak, text, speed=float(speed))
    events = feed.events()
    try:
        failures: list[SpeechFailed] = []
        first = await unless_gone(request, _first_sound(events, failures))
        if first is None:
            reasons = "; ".join(f"{one['text']!r}: {one['reason']}" for one in unspoken(failures)[:3]) or "nothing"
            message = f"input: expected something that can be spoken, found {reasons}"
            raise Refusal(400, "not_speakable", message, "input")
        parts = _encoded(open_encoder(kind, rate), first, events, failures)
        if not as_events and kind not in STREAMED:
            whole = await unless_gone(request, _joined(parts))
            return Response(whole, media_type=CONTENT_TYPES[kind], headers=unspoken_header(failures))
    except BaseException:
        feed.cancel()
        raise
    if as_events:
        answer = StreamingResponse(_as_events(parts, feed, failures), media_type="text/event-stream")
    else:
        # What has no reading is known by now; what fails later is told in events, or in formats that come whole.
        answer = StreamingResponse(parts, media_type=CONTENT_TYPES[kind], headers=unspoken_header(failures))
    return Ending(answer, feed.cancel)


async def _first_sound(events: AsyncIterator[Event], failures: list[SpeechFailed]) -> AudioChunk | None:
    """The first chunk decides whether there is an answer at all; None: nothing was spoken. Collects failures."""
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
    """Server-sent events: ``speech.audio.delta`` with base64, and ``speech.audio.done`` with what it took.

    The last one has ``unspoken`` where a part of the text could not be spoken.
    """
    try:
        async for part in parts:
            if part:
                yield event_line({"type": "speech.audio.delta", "audio": base64.b64encode(part).decode("ascii")})
    except Exception:  # the status has left already: told where the client reads
        log.exception("speech failed")
        message = "the model failed; see the server's log"
        yield event_line({"error": {"type": "server_error", "code": "internal_error", "message": message}})
        return
    written, said = feed.timings.num_tokens, feed.timings.num_unit_words
    usage = {"input_tokens": written, "output_tokens": said, "total_tokens": written + said}
    missing = {"unspoken": unspoken(failures)} if failures else {}
    yield event_line({"type": "speech.audio.done", "usage": usage, **missing})
