"""``/v1/audio/speech`` (text to the model's voice) and ``/v1/audio/transcriptions`` (what its ear hears)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from echox.audio import is_silent
from echox.serving.events import take
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
from echox.serving.options import text_within
from echox.serving.replies import ReplyFeed
from echox.serving.service import Service
from echox.serving.wire import AudioFormat, WireWriter
from echox.streaming.events import AudioChunk, Event
from echox.streaming.messages import Audio


async def speak(service: Service, request: Request, body: bytes) -> Any:
    """Say a text; ``pcm`` comes while it is being said, files when it was said."""
    asked = await json_object(body)
    text = text_within(asked, "input", "body", service.limits.max_speech_chars)
    kind = take(asked, "response_format", str, default="mp3", choices=tuple(CONTENT_TYPES))
    take(asked, "stream_format", str, default="audio", choices=("audio",))
    session = service.model.session()
    rate = session.output_sampling_rate
    feed = ReplyFeed(session.speak, text)
    try:
        if kind in ("pcm", "pcm16"):
            events = feed.events()
            first = await first_event(request, events)
            return Ending(StreamingResponse(_pcm(first, events, rate), media_type=CONTENT_TYPES[kind]), feed.cancel)
        builder = await collected(request, feed, rate)
    except BaseException:
        feed.cancel()
        raise
    if not builder.chunks:
        raise Refusal(400, "not_speakable", "input: expected something that can be spoken, found nothing", "input")
    return Response(encode(builder.build().waveform, rate, kind), media_type=CONTENT_TYPES[kind])


async def _pcm(first: Event | None, events: AsyncIterator[Event], rate: int) -> AsyncIterator[bytes]:
    writer = WireWriter(rate, AudioFormat())
    if isinstance(first, AudioChunk):
        yield writer.write(first.waveform)
    async for event in events:
        if isinstance(event, AudioChunk):
            yield writer.write(event.waveform)
    yield writer.write(np.zeros(0, np.float32), last=True)


async def transcribe(service: Service, request: Request, body: bytes) -> Response:
    """Write down an uploaded recording (a multipart form, as the OpenAI API has it)."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refusal(415, "unsupported_media_type", "expected a multipart form with a file")

    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    from starlette.exceptions import HTTPException

    try:
        form = await Request(request.scope, again).form(max_files=1, max_fields=32)
    except (HTTPException, ValueError, KeyError) as error:
        raise Refusal(400, "invalid_form", "expected a multipart form, found something else") from error
    try:
        file = form.get("file")
        if file is None or isinstance(file, str):
            raise Refusal(400, "missing_required_parameter", "file: expected an audio file, found none", "file")
        kind = str(form.get("response_format") or "json")
        if kind not in ("json", "text", "verbose_json"):
            message = "response_format: expected json, text or verbose_json"
            raise Refusal(400, "unsupported_value", message, "response_format")
        if str(form.get("stream") or "false").lower() in ("true", "1"):
            raise Refusal(400, "unsupported_value", "stream: expected false", "stream")
        waveform = await unless_gone(request, decode(service, await file.read(), service.limits.max_upload_s))
    finally:
        await form.close()
    audio = Audio(waveform, service.input_rate)
    if is_silent(waveform):
        raise Refusal(400, "no_speech", "file: expected speech, found silence", "file")
    text = await unless_gone(request, service.transcribe(audio))
    if kind == "text":
        return PlainTextResponse(text + "\n")
    found: dict[str, Any] = {"text": text, "usage": {"type": "duration", "seconds": round(audio.duration_s, 3)}}
    if kind == "verbose_json":
        found = {"task": "transcribe", "language": "english", "duration": audio.duration_s, "segments": [], **found}
    return JSONResponse(found)
