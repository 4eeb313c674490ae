"""``POST /v1/audio/transcriptions``: a recording to the words that the model's ear hears, and when they were said."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from echox.serving.protocol.parameters import TRANSCRIPTION
from echox.serving.rest.captions import segment_dict, segments_of, to_srt, to_vtt, word_dict
from echox.serving.rest.common import Refusal, decode, event_line, unless_gone
from echox.serving.service.service import Service
from echox.streaming.events import Heard
from echox.streaming.messages import Audio

_FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
_MAX_PADDING_BYTES = 100
_LISTS = ("include", "keywords", "known_speaker_names", "known_speaker_references", "languages")


@dataclass(frozen=True)
class _Asked:
    """What a form asks for, besides its file."""

    kind: str
    streams: bool
    times_of: tuple[str, ...]
    language: str


async def transcribe(service: Service, request: Request, body: bytes) -> Response:
    """Write down an uploaded recording (a multipart form, as the OpenAI API has it)."""
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        raise Refusal(415, "unsupported_media_type", "expected a multipart form with a file")

    await asyncio.to_thread(_check_padding, content_type, body)

    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def parse() -> FormData:
        return await Request(request.scope, again).form(max_files=1, max_fields=32)

    try:  # in a thread with a loop of its own: the parser never yields
        form = await asyncio.to_thread(lambda: asyncio.run(parse()))
    except (HTTPException, ValueError, KeyError) as error:
        raise Refusal(400, "invalid_form", "expected a multipart form, found something else") from error
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise Refusal(400, "missing_required_parameter", "file: expected an audio file, found none", "file")
        asked = _read_form(form)
        waveform = await unless_gone(request, decode(service, await file.read(), service.limits.max_upload_s))
    finally:
        await form.close()
    audio = Audio(waveform, service.input_rate)
    speech = await service.holds_speech(audio)
    heard = await unless_gone(request, service.hear(audio)) if speech else Heard("")
    return _answer(asked, heard, audio.duration_s)


def _check_padding(content_type: str, body: bytes) -> None:
    """Refuse long padding after a boundary (RFC 2046, 5.1.1, allows some): the parser takes it byte by byte.

    Raises:
        Refusal: more than 100 spaces and tabs.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if boundary and re.search(b"--" + re.escape(boundary) + b"(?:--)?[ \\t]{%d}" % (_MAX_PADDING_BYTES + 1), body):
        message = f"expected at most {_MAX_PADDING_BYTES} spaces after a boundary of the form, found more"
        raise Refusal(400, "invalid_form", message)


def _read_form(form: FormData) -> _Asked:
    """Check the fields.

    Raises:
        EventError, Refusal: a value that is wrong, or cannot be done.
    """
    fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str) and value != ""}
    for name in _LISTS:
        values = [value for value in [*form.getlist(name), *form.getlist(f"{name}[]")] if value != ""]
        fields[name] = values or None
    fields["temperature"] = _number(fields.get("temperature"))
    TRANSCRIPTION.check(fields)
    kind = str(fields.get("response_format", "json"))
    if kind not in _FORMATS:
        message = f"response_format: expected one of {', '.join(_FORMATS)}, found {kind[:40]!r}"
        raise Refusal(400, "unsupported_value", message, "response_format")
    streams = str(fields.get("stream", "false")).lower() in ("true", "1")
    if streams and kind not in ("json", "text"):
        message = f"response_format: expected json or text when streaming, found {kind}"
        raise Refusal(400, "unsupported_value", message, "response_format")
    name = "timestamp_granularities"
    times_of = tuple(str(value) for value in [*form.getlist(f"{name}[]"), *form.getlist(name)])
    if any(value not in ("word", "segment") for value in times_of):
        raise Refusal(400, "invalid_value", f"{name}: expected 'word' and 'segment', found {times_of!r:.80}", name)
    if times_of and kind != "verbose_json":
        message = f"{name}: expected response_format verbose_json with it, found {kind}"
        raise Refusal(400, "invalid_value", message, name)
    return _Asked(kind, streams, times_of or ("segment",), str(fields.get("language", "unknown"))[:40])


def _number(value: Any) -> Any:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return value
    return 0 if found == 0 else found


def _answer(asked: _Asked, heard: Heard, duration_s: float) -> Response:
    usage = {"type": "duration", "seconds": round(duration_s, 3)}
    if asked.streams:
        return Response(_as_events(heard.text), media_type="text/event-stream")
    if asked.kind == "text":
        return PlainTextResponse(heard.text + "\n")
    segments = segments_of(heard.words)
    if asked.kind in ("srt", "vtt"):
        text = to_srt(segments) if asked.kind == "srt" else to_vtt(segments)
        return PlainTextResponse(text, media_type="text/vtt" if asked.kind == "vtt" else "application/x-subrip")
    found: dict[str, Any] = {"text": heard.text, "usage": usage}
    if asked.kind == "verbose_json":
        found = {"task": "transcribe", "language": asked.language, "duration": duration_s, **found}
        if "segment" in asked.times_of:
            found["segments"] = [segment_dict(number, segment) for number, segment in enumerate(segments)]
        if "word" in asked.times_of:
            found["words"] = [word_dict(word) for word in heard.words]
    return JSONResponse(found)


def _as_events(text: str) -> str:
    """Server-sent events: the model hears a recording as a whole, so all of it is one delta."""
    events = [{"type": "transcript.text.delta", "delta": text}, {"type": "transcript.text.done", "text": text}]
    return "".join(map(event_line, events))
