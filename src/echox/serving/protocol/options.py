"""Options of a realtime session: read from clients, checked, merged, and sent back in ``session.updated``.

An option that a client leaves out keeps its value; an explicit null overwrites it (``turn_detection: null`` turns
detection off). Unknown names are accepted and not sent back. The flat names of the beta protocol are understood.
"""

from __future__ import annotations

import copy
from enum import Enum
from typing import TypedDict

from echox.serving.protocol.events import ARRAY, OBJECT, EventError, shorten, take
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.parameters import SESSION, TRANSCRIPTION_SESSION, TURN_DETECTION
from echox.serving.protocol.tool_options import ToolOptions, check_tools, read_tools
from echox.serving.protocol.wire import AudioFormat
from echox.serving.turn_detection.turns import PAUSE_MS, TurnSettings

# Silence that ends a turn if nobody judges it, by eagerness.
_EAGERNESS_SILENCE_MS = {"high": 300, "auto": 600, "medium": 600, "low": 1200}
# With an end-of-turn model: the longest pause inside a turn, by eagerness (values of the protocol).
_EAGERNESS_PATIENCE_MS = {"high": 2000, "auto": 4000, "medium": 4000, "low": 8000}
# With a turn head, which is smaller and errs more often, nobody has to wait so long for an answer.
_HEAD_PATIENCE_MS = {"high": 1200, "auto": 2000, "medium": 2000, "low": 4000}
# Probability of a complete sentence from which on a turn ends early.
_SURE = {"high": 0.7, "auto": 0.9, "medium": 0.9, "low": 0.97}
# Likewise with ``server_vad``, where a client that names no silence expects this one, or a shorter one, but no error.
_SERVER_VAD_SURE, _SERVER_VAD_SILENCE_MS = 0.95, 500
_ONNX_PAUSE_MS = 192  # silence that an end-of-turn model wants to hear
# With these a transcription session detects no turns unless it is told to: their clients commit each turn themselves.
_MODELS_WITHOUT_TURNS = ("gpt-realtime-whisper", "gpt-live-transcribe")
# Flat name of the beta protocol -> the object that it belongs to now, and its name there.
_BETA_NAMES = {
    "input_audio_format": ("audio.input", "format"),
    "input_audio_transcription": ("audio.input", "transcription"),
    "input_audio_noise_reduction": ("audio.input", "noise_reduction"),
    "turn_detection": ("audio.input", "turn_detection"),
    "output_audio_format": ("audio.output", "format"),
    "voice": ("audio.output", "voice"),
    "speed": ("audio.output", "speed"),
    "max_response_output_tokens": ("", "max_output_tokens"),
}


class Judge(Enum):
    """Who judges whether a sentence is complete."""

    MODEL = "turn head"
    ONNX = "end-of-turn model"


class TurnDetection(TypedDict, total=False):
    """The ``turn_detection`` object of a session; `interrupt_after_ms` and the two ``_events`` are extensions."""

    type: str
    create_response: bool
    interrupt_response: bool
    interrupt_after_ms: int
    duck_events: bool
    speculation_events: bool
    eagerness: str
    threshold: float
    prefix_padding_ms: int
    silence_duration_ms: int


class Sampling(TypedDict, total=False):
    """Settings for sampling the text of a reply."""

    temperature: float
    top_p: float
    seed: int


class NewReplySettings(Sampling, total=False):
    """Generation settings of one reply: some of those of `echox.streaming.session.Session`."""

    max_new_tokens: int
    speak: bool
    speed: float
    echo_temperature: float


class SessionOptions:
    """The options of one conversation.

    Args:
        model: name of the model for clients.
        limits: limits of the server.
        judge: who judges, with ``semantic_vad``, if a sentence is complete; None: the length of silence.
        ends_early: whether a turn head also judges with ``server_vad``, where the client names no silence.
        calls_tools: whether the model calls tools.
    """

    def __init__(
        self,
        model: str,
        limits: Limits,
        judge: Judge | None = None,
        calls_tools: bool = False,
        ends_early: bool = True,
    ) -> None:
        self.type = "realtime"
        self._limits, self.judge = limits, judge
        self._ends_early = ends_early and judge is Judge.MODEL
        self.input_format = AudioFormat()
        self.output_format = AudioFormat()
        self.turn_detection: TurnDetection | None = _read_turn_detection({}, None, "")
        self._names_turn_detection = False  # a client has said how turns are detected, or that they are not
        self.transcription: dict[str, str] | None = None
        self.output_modalities = ["audio"]
        self.instructions = ""
        self.max_output_tokens: int | str = "inf"
        self.voice: str | JsonObject | None = model
        self.speed = 1.0
        self.model = model
        self.sampling: Sampling = {}
        self.calls_tools = calls_tools
        self.tools = ToolOptions()
        self._tools_in_vain = False  # declared to a model that calls none

    # ------------------------------------------------------------------------------------------ read

    @property
    def turn_settings(self) -> TurnSettings | None:
        """How turns are detected; None: the client marks the end of each turn."""
        found = self.turn_detection
        if found is None:
            return None
        silence_ms, patience_ms, sure = self._waits(found)
        return TurnSettings(
            threshold=found.get("threshold", 0.5),
            prefix_padding_ms=found.get("prefix_padding_ms", 300),
            silence_ms=silence_ms,
            patience_ms=patience_ms,
            pause_ms=_ONNX_PAUSE_MS if self.judge is Judge.ONNX else PAUSE_MS,
            sure=sure,
            judges_interjections=True,
            interrupt_after_ms=found["interrupt_after_ms"],
            max_speech_ms=int(self._limits.max_buffer_s * 1000),
            interrupts=found["interrupt_response"],
        )

    def _waits(self, found: TurnDetection) -> tuple[int, int | None, float]:
        """``silence_ms``, ``patience_ms`` and ``sure`` of `TurnSettings`."""
        if found["type"] == "server_vad":
            silence_ms = found.get("silence_duration_ms", _SERVER_VAD_SILENCE_MS)
            asks = self._ends_early and "silence_duration_ms" not in found
            return silence_ms, silence_ms if asks else None, _SERVER_VAD_SURE
        eagerness = found["eagerness"]
        patience = {None: {}, Judge.MODEL: _HEAD_PATIENCE_MS, Judge.ONNX: _EAGERNESS_PATIENCE_MS}[self.judge]
        return _EAGERNESS_SILENCE_MS[eagerness], patience.get(eagerness), _SURE[eagerness]

    @property
    def create_response(self) -> bool:
        """Whether a detected turn is answered without a ``response.create`` of the client."""
        if self.makes_no_responses or self.turn_detection is None:
            return False
        return self.turn_detection["create_response"]

    @property
    def makes_no_responses(self) -> bool:
        """Whether the session only transcribes (type "transcription")."""
        return self.type == "transcription"

    @property
    def duck_events(self) -> bool:
        """Whether the client wants events that tell it to lower the volume of the reply (an extension)."""
        return self.turn_detection is not None and self.turn_detection.get("duck_events", False)

    @property
    def speculation_events(self) -> bool:
        """Whether the client wants to know of replies that are begun in pauses (an extension)."""
        return self.turn_detection is not None and self.turn_detection.get("speculation_events", False)

    def to_dict(self) -> JsonObject:
        """The session object of ``session.created`` and ``session.updated``, without id and expiry."""
        listening: JsonObject = {
            "format": self.input_format.to_dict(),
            "transcription": copy.deepcopy(self.transcription),
            "noise_reduction": None,
            "turn_detection": _shown(self.turn_detection),
        }
        if self.makes_no_responses:
            return {"type": self.type, "object": "realtime.transcription_session", "audio": {"input": listening}}
        return {
            "type": self.type,
            "object": "realtime.session",
            "model": self.model,
            "output_modalities": list(self.output_modalities),
            "instructions": self.instructions,
            "tools": self.tools.shown(),
            "tool_choice": self.tools.choice if self.calls_tools else "none",
            "parallel_tool_calls": self.tools.parallel,
            **({"tools_supported": False} if self._tools_in_vain else {}),  # an extension
            "max_output_tokens": self.max_output_tokens,
            "truncation": "auto",
            "audio": {
                "input": listening,
                # ``voice`` is the name that the client uses for the only voice.
                "output": {"format": self.output_format.to_dict(), "voice": self.voice, "speed": self.speed},
            },
            **self.sampling,
        }

    # ------------------------------------------------------------------------------------------ write

    def update(self, change: JsonObject, where: str = "session") -> None:
        """Apply a change from a client, as `changed`: all of it, or nothing if there is an error."""
        self.become(self.changed(change, where))

    def become(self, other: SessionOptions) -> None:
        """Take over all options of another object."""
        vars(self).update(vars(other))

    def changed(self, change: JsonObject, where: str = "session") -> SessionOptions:
        """These options with a change from a client.

        Options that are accepted without effect (tools, for a model that calls none) are not kept: `to_dict` shows what
        is in effect.

        Raises:
            EventError: a value of the wrong type, out of range, or not supported by this server.
        """
        changed = copy.copy(self)  # a shallow copy: every value is replaced, never changed in place
        changed._apply(convert_beta_names(change, where), where)
        return changed

    def _apply(self, change: JsonObject, where: str) -> None:
        kind = take(change, "type", str, where, default=self.type)
        if kind not in ("realtime", "transcription"):
            message = f"{where}.type: expected 'realtime' or 'transcription', found {kind[:40]!r}"
            raise EventError(message, "unsupported_session_type", f"{where}.type")
        audio = take(change, "audio", OBJECT, where, default={})
        listening = take(audio, "input", OBJECT, f"{where}.audio", default={})
        speaking = take(audio, "output", OBJECT, f"{where}.audio", default={})
        if kind == "transcription":
            _check_only_transcribes(change, speaking, where)
            if self.type != kind and self.transcription is None:  # what else would the session be for
                self.transcription = {"model": self.model}
        self.type = kind
        self._apply_input(listening, f"{where}.audio.input")
        self._apply_output(speaking, f"{where}.audio.output")
        if change.get("output_modalities") is not None:
            self.output_modalities = read_modalities(change, where)
        if change.get("instructions") is not None:
            self.instructions = read_text(change, "instructions", where, self._limits.max_text_chars)
        if "max_output_tokens" in change:
            self.max_output_tokens = read_max_output_tokens(change, where)
        self.sampling = {**self.sampling, **read_sampling(change, where)}
        self.update_tools(change, where)
        _check_truncation(change, where)
        SESSION.check(change, where)

    def update_tools(self, change: JsonObject, where: str) -> None:
        """Apply a change of the tools; a model that calls none says so in `to_dict`, and it is no error.

        Raises:
            EventError: a malformed tool, too many, or a choice of a tool that is not declared.
        """
        if self.calls_tools:
            self.tools = read_tools(change, self.tools, where, self._limits)
            return
        check_tools(change, where, may_require=True)
        if "tools" in change:
            self._tools_in_vain = bool(change["tools"])

    def _apply_input(self, change: JsonObject, where: str) -> None:
        if change.get("format") is not None:
            self.input_format = read_audio_format(change, where)
        if "transcription" in change:
            wanted = take(change, "transcription", OBJECT, where, default=None)
            # Any model name is accepted: the transcript comes from the speech encoder (CTC) of this model.
            model = wanted and take(wanted, "model", str, f"{where}.transcription", default=None)
            self.transcription = None if wanted is None else {"model": model[:100] if model else self.model}
        if "noise_reduction" in change:
            wanted = take(change, "noise_reduction", OBJECT, where, default=None)
            # Accepted without effect, so not kept: the model was trained with noise.
            choices = ("near_field", "far_field")
            take(wanted or {}, "type", str, f"{where}.noise_reduction", default=None, choices=choices)
        if "turn_detection" in change:
            wanted = take(change, "turn_detection", OBJECT, where, default=None)
            self.turn_detection = None if wanted is None else _read_turn_detection(wanted, self.turn_detection, where)
            self._names_turn_detection = True
        elif not self._names_turn_detection:
            self.turn_detection = None if self._commits_turns else _read_turn_detection({}, None, where)

    @property
    def _commits_turns(self) -> bool:
        """Whether a client of this session ends each turn itself, although it does not say so."""
        named = "" if self.transcription is None else self.transcription["model"]
        return self.makes_no_responses and named.startswith(_MODELS_WITHOUT_TURNS)

    def _apply_output(self, change: JsonObject, where: str) -> None:
        if change.get("format") is not None:
            self.output_format = read_audio_format(change, where)
        self.voice = read_voice(change, where, self.voice)
        self.speed = float(take(change, "speed", float, where, default=self.speed, at_least=0.25, at_most=1.5))


def _check_truncation(change: JsonObject, where: str) -> None:
    """Check ``truncation``: how much is left out at once, when the conversation gets too long, is up to the server.

    Raises:
        EventError: neither "auto" nor a retention ratio.
    """
    found = take(change, "truncation", (str, OBJECT), where, default="auto")
    param = f"{where}.truncation"
    if isinstance(found, dict):
        take(found, "type", str, param, choices=("retention_ratio",))
        take(found, "retention_ratio", float, param, at_least=0, at_most=1)
    elif found != "auto":
        message = f"{param}: expected auto or a retention ratio, found {shorten(found)}: the oldest turns are left out"
        raise EventError(message, "unsupported_value", param)


def _check_only_transcribes(change: JsonObject, speaking: JsonObject, where: str) -> None:
    """Check the options of a session of type transcription.

    Raises:
        EventError: an option of replies is set.
    """
    TRANSCRIPTION_SESSION.check(change, where)
    of_replies = SESSION.names - SESSION.ignored - TRANSCRIPTION_SESSION.names - {"model"}
    found = [name for name in sorted(of_replies) if change.get(name) is not None]
    found += ["audio.output"] if any(value is not None for value in speaking.values()) else []
    if found:
        param = f"{where}.{found[0]}"
        message = f"{param}: expected in a session of type realtime, found in one that only transcribes; leave it out"
        raise EventError(message, "unsupported_value", param)


def read_voice(change: JsonObject, where: str, default: str | JsonObject | None = None) -> str | JsonObject | None:
    """Read ``voice``. Any name is accepted for the only voice.

    Raises:
        EventError: neither a name nor an object with an id.
    """
    found = take(change, "voice", (str, OBJECT), where, default=None)
    if found is None:
        return default
    return found[:100] if isinstance(found, str) else {"id": take(found, "id", str, f"{where}.voice".lstrip("."))[:100]}


def read_audio_format(change: JsonObject, where: str) -> AudioFormat:
    """Read ``format``.

    Raises:
        EventError: an unknown format.
    """
    try:
        return AudioFormat.read(change["format"])
    except ValueError as error:
        raise EventError(f"{where}.format: {error}", "invalid_value", f"{where}.format") from error


def read_modalities(change: JsonObject, where: str) -> list[str]:
    """Read ``output_modalities``: ["audio"] or ["text"].

    Raises:
        EventError: anything else.
    """
    found = take(change, "output_modalities", ARRAY, where)
    if found not in (["audio"], ["text"]):
        param = f"{where}.output_modalities"
        raise EventError(f"{param}: expected ['audio'] or ['text'], found {str(found)[:60]}", "invalid_value", param)
    return [str(one) for one in found]


def read_max_output_tokens(change: JsonObject, where: str) -> int | str:
    """Read ``max_output_tokens``: a number, or "inf" (also for null).

    Raises:
        EventError: anything else.
    """
    found = take(change, "max_output_tokens", (int, str), where, default="inf")
    if isinstance(found, str):
        return take(change, "max_output_tokens", str, where, default="inf", choices=("inf",))
    return take(change, "max_output_tokens", int, where, at_least=1, at_most=4096)


def read_metadata(source: JsonObject, where: str = "") -> dict[str, str] | None:
    """Read ``metadata``: up to 16 names and texts, which are sent back.

    Raises:
        EventError: anything else.
    """
    found = take(source, "metadata", OBJECT, where, default=None)
    if found is None:
        return None
    texts = {name: value for name, value in found.items() if isinstance(value, str) and len(value) <= 512}
    if len(texts) < len(found) or len(found) > 16 or any(len(name) > 64 for name in found):
        param = f"{where}.metadata" if where else "metadata"
        message = (
            f"{param}: expected at most 16 names of at most 64 characters with texts of at most 512, found "
            f"{shorten(found)}"
        )
        raise EventError(message, "invalid_value", param)
    return texts


def read_text(source: JsonObject, name: str, where: str, max_chars: int) -> str:
    """Read a string of limited length.

    Raises:
        EventError: not a string, or too long.
    """
    text = take(source, name, str, where)
    if len(text) > max_chars:
        param = f"{where}.{name}" if where else name
        raise EventError(
            f"{param}: expected at most {max_chars} characters, found {len(text)}", "string_too_long", param
        )
    return text


def read_sampling(change: JsonObject, where: str = "") -> Sampling:
    """Read ``temperature``, ``top_p`` and ``seed`` of a session or of one response (an extension).

    Raises:
        EventError: not a number, or out of range.
    """
    found: Sampling = {}
    temperature = take(change, "temperature", float, where, default=None, at_least=0, at_most=10)
    if temperature is not None:
        found["temperature"] = float(temperature)
    top_p = take(change, "top_p", float, where, default=None, at_least=1e-6, at_most=1)
    if top_p is not None:
        found["top_p"] = float(top_p)
    seed = take(change, "seed", int, where, default=None, at_least=0, at_most=2**31 - 1)
    if seed is not None:
        found["seed"] = seed
    return found


def _read_turn_detection(change: JsonObject, before: TurnDetection | None, where: str) -> TurnDetection:
    where = f"{where}.turn_detection"
    TURN_DETECTION.check(change, where)
    old_kind = "server_vad" if before is None else before["type"]
    kind = take(change, "type", str, where, default=old_kind, choices=("server_vad", "semantic_vad"))
    merged: JsonObject = {**before} if before is not None and kind == old_kind else {}
    merged.update((name, value) for name, value in change.items() if value is not None)
    found: TurnDetection = {
        "type": kind,
        "create_response": take(merged, "create_response", bool, where, default=True),
        "interrupt_response": take(merged, "interrupt_response", bool, where, default=True),
        # An extension: only speech of this length interrupts a reply.
        "interrupt_after_ms": take(merged, "interrupt_after_ms", int, where, default=640, at_least=0, at_most=5000),
    }
    if take(merged, "duck_events", bool, where, default=False):
        found["duck_events"] = True
    if take(merged, "speculation_events", bool, where, default=False):
        found["speculation_events"] = True
    if kind == "semantic_vad":
        choices = tuple(_EAGERNESS_SILENCE_MS)
        found["eagerness"] = take(merged, "eagerness", str, where, default="auto", choices=choices)
        return found
    found["threshold"] = float(take(merged, "threshold", float, where, default=0.5, at_least=0, at_most=1))
    found["prefix_padding_ms"] = take(merged, "prefix_padding_ms", int, where, default=300, at_least=0, at_most=5000)
    silence_ms = take(merged, "silence_duration_ms", int, where, default=None, at_least=32, at_most=10000)
    if silence_ms is not None:  # kept only where a client names it: then it counts, and nothing else
        found["silence_duration_ms"] = silence_ms
    return found


def _shown(found: TurnDetection | None) -> TurnDetection | None:
    """Turn detection as a client sees it: with the silence, also where it is ours."""
    if found is None or found["type"] == "semantic_vad":
        return copy.deepcopy(found)
    return {"silence_duration_ms": _SERVER_VAD_SILENCE_MS, **found}


def convert_beta_names(change: JsonObject, where: str) -> JsonObject:
    """Move the flat names of the beta protocol, of a session or a response, to their new places.

    A value that is also given under its new name is kept.
    """
    if not any(name in change for name in (*_BETA_NAMES, "modalities")):
        return change
    change = dict(change)
    audio = dict(take(change, "audio", OBJECT, where, default={}))
    listening = dict(take(audio, "input", OBJECT, f"{where}.audio", default={}))
    speaking = dict(take(audio, "output", OBJECT, f"{where}.audio", default={}))
    objects = {"audio.input": listening, "audio.output": speaking, "": change}
    for old, (parent, new) in _BETA_NAMES.items():
        if old in change:
            objects[parent].setdefault(new, change[old])
    if change.get("modalities") is not None:
        old_modalities = take(change, "modalities", ARRAY, where)
        if not old_modalities or any(item not in ("text", "audio") for item in old_modalities):
            param = f"{where}.modalities"
            message = f"{param}: expected 'text' and 'audio', or one of them, found {shorten(old_modalities)}"
            raise EventError(message, "invalid_value", param)
        change.setdefault("output_modalities", ["audio"] if "audio" in old_modalities else ["text"])
    return {**change, "audio": {**audio, "input": listening, "output": speaking}}
