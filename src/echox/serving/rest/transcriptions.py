"""``POST /v1/audio/transcriptions``: transcribes a recording with the speech encoder, with the times of the words."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.parameters import TRANSCRIPTION
from echox.serving.protocol.usage import Usage
from echox.serving.rest.captions import segment_dict, segments_of, to_srt, to_vtt, word_dict
from echox.serving.rest.common import RequestError, cancel_on_disconnect, decode_audio, event_line
from echox.serving.rest.forms import read_form
from echox.serving.service.service import Service
from echox.streaming.events import Heard
from echox.streaming.prompt.messages import Audio

_FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
_LISTS = ("include", "keywords", "known_speaker_names", "known_speaker_references", "languages")


@dataclass(frozen=True)
class _TranscriptionOptions:
    """The fields of the form besides its file."""

    kind: str
    streams: bool
    times_of: tuple[str, ...]
    language: str


async def transcribe(service: Service, request: Request, body: bytes) -> Response:
    """Transcribe an uploaded recording (a multipart form, as in the OpenAI API)."""
    form = await read_form(request, body)
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError(400, "missing_required_parameter", "file: expected an audio file, found none", "file")
        options = _read_form(form)
        waveform = await cancel_on_disconnect(
            request, decode_audio(service, await file.read(), service.limits.max_upload_s)
        )
    finally:
        await form.close()
    audio = Audio(waveform, service.input_rate)
    speech = await service.contains_speech(audio)
    heard = await cancel_on_disconnect(request, service.transcribe(audio)) if speech else Heard("")
    return _response(options, heard, audio.duration_s)


def _read_form(form: FormData) -> _TranscriptionOptions:
    """Read the fields of the form.

    Raises:
        EventError, RequestError: a malformed or unsupported value.
    """
    fields: JsonObject = {name: value for name, value in form.items() if isinstance(value, str) and value != ""}
    for name in _LISTS:
        values = [value for value in [*form.getlist(name), *form.getlist(f"{name}[]")] if value != ""]
        fields[name] = values or None
    fields["temperature"] = _number(fields.get("temperature"))
    TRANSCRIPTION.check(fields)
    kind = str(fields.get("response_format", "json"))
    if kind not in _FORMATS:
        message = f"response_format: expected one of {', '.join(_FORMATS)}, found {kind[:40]!r}"
        raise RequestError(400, "unsupported_value", message, "response_format")
    streams = str(fields.get("stream", "false")).lower() in ("true", "1")
    if streams and kind not in ("json", "text"):
        message = f"response_format: expected json or text when streaming, found {kind}"
        raise RequestError(400, "unsupported_value", message, "response_format")
    name = "timestamp_granularities"
    times_of = tuple(str(value) for value in [*form.getlist(f"{name}[]"), *form.getlist(name)])
    if any(value not in ("word", "segment") for value in times_of):
        raise RequestError(400, "invalid_value", f"{name}: expected 'word' and 'segment', found {times_of!r:.80}", name)
    if times_of and kind != "verbose_json":
        message = f"{name}: expected response_format verbose_json with it, found {kind}"
        raise RequestError(400, "invalid_value", message, name)
    return _TranscriptionOptions(kind, streams, times_of or ("segment",), str(fields.get("language", "unknown"))[:40])


def _number(value: object) -> object:
    """The number in a string; any other value as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = float(value)
    except ValueError:
        return value
    return 0 if found == 0 else found


def _response(options: _TranscriptionOptions, heard: Heard, duration_s: float) -> Response:
    usage = Usage.of_transcript(heard).for_transcription()
    if options.streams:
        return Response(_as_events(heard.text, usage), media_type="text/event-stream")
    if options.kind == "text":
        return PlainTextResponse(heard.text + "\n")
    segments = segments_of(heard.words)
    if options.kind in ("srt", "vtt"):
        text = to_srt(segments) if options.kind == "srt" else to_vtt(segments)
        return PlainTextResponse(text, media_type="text/vtt" if options.kind == "vtt" else "application/x-subrip")
    found: JsonObject = {"text": heard.text, "usage": usage}
    if options.kind == "verbose_json":
        duration = {"type": "duration", "seconds": round(duration_s, 3)}  # the only usage that this format has
        head = {"task": "transcribe", "language": options.language, "duration": duration_s}
        found = {**head, **found, "usage": duration}
        if "segment" in options.times_of:
            found["segments"] = [segment_dict(number, segment) for number, segment in enumerate(segments)]
        if "word" in options.times_of:
            found["words"] = [word_dict(word) for word in heard.words]
    return JSONResponse(found)


def _as_events(text: str, usage: JsonObject) -> str:
    """Server-sent events: the whole transcript is one delta, because the model reads recordings as a whole."""
    delta = event_line({"type": "transcript.text.delta", "delta": text})
    return delta + event_line({"type": "transcript.text.done", "text": text, "usage": usage})
