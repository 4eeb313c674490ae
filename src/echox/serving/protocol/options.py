"""A realtime session's options: what clients may set, checked, merged, and shown back in ``session.updated``.

What a client leaves out stays; an explicit null overwrites (``turn_detection: null`` turns detection off). Names that
we do not know are tolerated and not shown back. The flat names of the beta protocol are understood.
"""

from __future__ import annotations

import copy
from typing import Any

from echox.serving.protocol.events import EventError, short, take
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.parameters import SESSION, TURN_DETECTION
from echox.serving.protocol.wire import AudioFormat
from echox.serving.turn_detection.turns import TurnSettings

# Silence that ends a turn where no model judges whether the sentence is complete, by eagerness.
_EAGERNESS_SILENCE_MS = {"high": 300, "auto": 600, "medium": 600, "low": 1200}
# With such a model: how long a pause may last however incomplete the sentence sounds (the protocol's own figures).
_EAGERNESS_PATIENCE_MS = {"high": 2000, "auto": 4000, "medium": 4000, "low": 8000}
# Flat name of the beta protocol -> the object that it is in now, and its name there.
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
_SAMPLING = {"temperature": (0, 10), "top_p": (1e-6, 1)}  # ours: the protocol has no sampling any more


class SessionOptions:
    """What one conversation has been set to.

    Args:
        model: name of the model, as shown.
        limits: of the server.
        judges: whether there is a model that judges if a sentence is complete.
    """

    def __init__(self, model: str, limits: Limits, judges: bool = False) -> None:
        self._limits, self._judges = limits, judges
        self.input_format = AudioFormat()
        self.output_format = AudioFormat()
        self.turn_detection: dict[str, Any] | None = _turn_detection({"type": "server_vad"}, {}, "")
        self.transcription: dict[str, Any] | None = None
        self.output_modalities = ["audio"]
        self.instructions = ""
        self.max_output_tokens: int | str = "inf"
        self.voice: Any = model
        self.speed = 1.0
        self.model = model
        self.sampling: dict[str, Any] = {}

    # ------------------------------------------------------------------------------------------ read

    @property
    def turn_settings(self) -> TurnSettings | None:
        """How turns are detected; None: the client says when (manual turns)."""
        found = self.turn_detection
        if found is None:
            return None
        semantic = found["type"] == "semantic_vad"
        eagerness = found.get("eagerness", "auto")
        return TurnSettings(
            threshold=float(found.get("threshold", 0.5)),
            prefix_padding_ms=int(found.get("prefix_padding_ms", 300)),
            silence_ms=_EAGERNESS_SILENCE_MS[eagerness] if semantic else int(found["silence_duration_ms"]),
            patience_ms=_EAGERNESS_PATIENCE_MS[eagerness] if semantic and self._judges else None,
            interrupt_after_ms=int(found["interrupt_after_ms"]),
            max_speech_ms=int(self._limits.max_buffer_s * 1000),
            interrupts=bool(found["interrupt_response"]),
        )

    @property
    def create_response(self) -> bool:
        """Whether a detected turn is answered without being asked."""
        return self.turn_detection is not None and bool(self.turn_detection["create_response"])

    @property
    def duck_events(self) -> bool:
        """Whether the client wants to be told to lower the reply's volume (our extension)."""
        return self.turn_detection is not None and bool(self.turn_detection.get("duck_events"))

    def to_dict(self) -> dict[str, Any]:
        """The session object of ``session.created`` and ``session.updated``, without id and expiry."""
        return {
            "type": "realtime",
            "object": "realtime.session",
            "model": self.model,
            "output_modalities": list(self.output_modalities),
            "instructions": self.instructions,
            "tools": [],
            "tool_choice": "none",
            "max_output_tokens": self.max_output_tokens,
            "truncation": "auto",
            "audio": {
                "input": {
                    "format": self.input_format.to_dict(),
                    "transcription": copy.deepcopy(self.transcription),
                    "noise_reduction": None,
                    "turn_detection": copy.deepcopy(self.turn_detection),
                },
                # ``voice`` is the client's name for the one voice there is.
                "output": {"format": self.output_format.to_dict(), "voice": self.voice, "speed": self.speed},
            },
            **self.sampling,
        }

    # ------------------------------------------------------------------------------------------ write

    def update(self, change: dict[str, Any], where: str = "session") -> None:
        """Apply a client's change: all of it, or (on an error) nothing.

        What is accepted without being done (tools, say) is not kept: `to_dict` shows what is in effect.

        Raises:
            EventError: a value of the wrong type, out of range, or one that this server cannot do.
        """
        changed = copy.copy(self)  # every value below is replaced, never changed in place
        changed._apply(from_beta(change, where), where)
        vars(self).update(vars(changed))

    def _apply(self, change: dict[str, Any], where: str) -> None:
        kind = take(change, "type", str, where, "realtime")
        if kind != "realtime":
            message = f"{where}.type: expected 'realtime', found {kind[:40]!r}"
            raise EventError(message, "unsupported_session_type", f"{where}.type")
        audio = take(change, "audio", dict, where, {})
        listening = take(audio, "input", dict, f"{where}.audio", {})
        speaking = take(audio, "output", dict, f"{where}.audio", {})
        self._apply_input(listening, f"{where}.audio.input")
        self._apply_output(speaking, f"{where}.audio.output")
        if change.get("output_modalities") is not None:
            self.output_modalities = modalities(change, where)
        if change.get("instructions") is not None:
            self.instructions = text_within(change, "instructions", where, self._limits.max_text_chars)
        if "max_output_tokens" in change:
            self.max_output_tokens = max_output_tokens(change, where)
        self.sampling = {**self.sampling, **sampling(change, where)}
        check_tools(change, where)
        SESSION.check(change, where)

    def _apply_input(self, change: dict[str, Any], where: str) -> None:
        if change.get("format") is not None:
            self.input_format = audio_format(change, where)
        if "transcription" in change:
            asked = take(change, "transcription", dict, where, None)
            # Any model name is taken: the transcript is what this model's own ear (CTC) heard.
            model = asked and take(asked, "model", str, f"{where}.transcription", None)
            self.transcription = None if asked is None else {"model": model[:100] if model else self.model}
        if "noise_reduction" in change:
            asked = take(change, "noise_reduction", dict, where, None)
            # Accepted, not done and so not kept: the model was trained with noise.
            _ = asked and take(asked, "type", str, f"{where}.noise_reduction", None, ("near_field", "far_field"))
        if "turn_detection" in change:
            asked = take(change, "turn_detection", dict, where, None)
            self.turn_detection = None if asked is None else _turn_detection(asked, self.turn_detection or {}, where)

    def _apply_output(self, change: dict[str, Any], where: str) -> None:
        if change.get("format") is not None:
            self.output_format = audio_format(change, where)
        self.voice = voice(change, where, self.voice)
        self.speed = float(take(change, "speed", float, where, self.speed, at_least=0.25, at_most=1.5))


def voice(change: dict[str, Any], where: str, before: Any) -> Any:
    """The ``voice`` of an object, else the one before: any name is accepted for the one voice there is.

    Raises:
        EventError: neither a name nor an object with an id.
    """
    found = take(change, "voice", (str, dict), where, None)
    if found is None:
        return before
    return found[:100] if isinstance(found, str) else {"id": take(found, "id", str, f"{where}.voice".lstrip("."))[:100]}


def audio_format(change: dict[str, Any], where: str) -> AudioFormat:
    """The ``format`` of an object.

    Raises:
        EventError: none that is known.
    """
    try:
        return AudioFormat.read(change["format"])
    except ValueError as error:
        raise EventError(f"{where}.format: {error}", "invalid_value", f"{where}.format") from error


def modalities(change: dict[str, Any], where: str) -> list[str]:
    """``output_modalities``: ["audio"] or ["text"].

    Raises:
        EventError: anything else.
    """
    found = take(change, "output_modalities", list, where)
    if found not in (["audio"], ["text"]):
        param = f"{where}.output_modalities"
        raise EventError(f"{param}: expected ['audio'] or ['text'], found {str(found)[:60]}", "invalid_value", param)
    return list(found)


def max_output_tokens(change: dict[str, Any], where: str) -> int | str:
    """``max_output_tokens``: a number, or "inf" (also when null).

    Raises:
        EventError: anything else.
    """
    found = take(change, "max_output_tokens", (int, str), where, "inf")
    if isinstance(found, str):
        return str(take(change, "max_output_tokens", str, where, "inf", ("inf",)))
    return int(take(change, "max_output_tokens", int, where, at_least=1, at_most=4096))


def text_within(change: dict[str, Any], name: str, where: str, max_chars: int) -> str:
    """A text that is not too long.

    Raises:
        EventError: not a text, or too long.
    """
    text = str(take(change, name, str, where))
    if len(text) > max_chars:
        param = f"{where}.{name}" if where else name
        raise EventError(
            f"{param}: expected at most {max_chars} characters, found {len(text)}", "string_too_long", param
        )
    return text


def sampling(change: dict[str, Any], where: str = "") -> dict[str, Any]:
    """Our extension: ``temperature``, ``top_p`` and ``seed``, of a session or of one response.

    Raises:
        EventError: not a number, or out of range.
    """
    found: dict[str, Any] = {}
    for name, (low, high) in _SAMPLING.items():
        value = take(change, name, float, where, None, at_least=low, at_most=high)
        if value is not None:
            found[name] = float(value)
    seed = take(change, "seed", int, where, None, at_least=0, at_most=2**31 - 1)
    return found if seed is None else {**found, "seed": seed}


def check_tools(change: dict[str, Any], where: str = "") -> None:
    """Tools may be declared, and this model never calls one; who insists on a call is refused.

    Raises:
        EventError: not a list of objects, or a ``tool_choice`` that demands a call.
    """
    inside = f"{where}." if where else ""
    for index, tool in enumerate(take(change, "tools", list, where, [])):
        if not isinstance(tool, dict):
            raise EventError(f"{inside}tools[{index}]: expected an object", "invalid_type", f"{inside}tools[{index}]")
    choice = mode = take(change, "tool_choice", (str, dict), where, "auto")
    param = f"{inside}tool_choice"
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        message = f"{param}: expected none, auto, required or an object, found {short(choice)}"
        raise EventError(message, "invalid_value", param)
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        mode = allowed.get("mode") if isinstance(allowed, dict) else None
    if mode not in ("none", "auto"):
        message = f"{param}: expected auto or none, found {short(choice)}: this model does not call tools"
        raise EventError(message, "tools_not_supported", param)


def _turn_detection(asked: dict[str, Any], before: dict[str, Any], where: str) -> dict[str, Any]:
    where = f"{where}.turn_detection"
    TURN_DETECTION.check(asked, where)
    kind = take(asked, "type", str, where, before.get("type", "server_vad"), ("server_vad", "semantic_vad"))
    merged = {**(before if before.get("type") == kind else {}), **{k: v for k, v in asked.items() if v is not None}}
    found: dict[str, Any] = {
        "type": kind,
        "create_response": take(merged, "create_response", bool, where, True),
        "interrupt_response": take(merged, "interrupt_response", bool, where, True),
        # Ours: speech over a reply interrupts it only when it is more than a moment.
        "interrupt_after_ms": take(merged, "interrupt_after_ms", int, where, 640, at_least=0, at_most=5000),
    }
    if take(merged, "duck_events", bool, where, False):
        found["duck_events"] = True
    if kind == "semantic_vad":
        found["eagerness"] = take(merged, "eagerness", str, where, "auto", tuple(_EAGERNESS_SILENCE_MS))
        return found
    found["threshold"] = float(take(merged, "threshold", float, where, 0.5, at_least=0, at_most=1))
    found["prefix_padding_ms"] = take(merged, "prefix_padding_ms", int, where, 300, at_least=0, at_most=5000)
    found["silence_duration_ms"] = take(merged, "silence_duration_ms", int, where, 500, at_least=32, at_most=10000)
    return found


def from_beta(change: dict[str, Any], where: str) -> dict[str, Any]:
    """The flat names of the beta protocol, of a session or a response, in their new places.

    What is there under its new name wins.
    """
    if not any(name in change for name in (*_BETA_NAMES, "modalities")):
        return change
    change = dict(change)
    audio = dict(take(change, "audio", dict, where, {}))
    listening = dict(take(audio, "input", dict, f"{where}.audio", {}))
    speaking = dict(take(audio, "output", dict, f"{where}.audio", {}))
    places = {"audio.input": listening, "audio.output": speaking, "": change}
    for old, (place, new) in _BETA_NAMES.items():
        if old in change:
            places[place].setdefault(new, change[old])
    if change.get("modalities") is not None:
        old_modalities = take(change, "modalities", list, where)
        if not old_modalities or any(item not in ("text", "audio") for item in old_modalities):
            param = f"{where}.modalities"
            message = f"{param}: expected 'text' and 'audio', or one of them, found {short(old_modalities)}"
            raise EventError(message, "invalid_value", param)
        change.setdefault("output_modalities", ["audio"] if "audio" in old_modalities else ["text"])
    return {**change, "audio": {**audio, "input": listening, "output": speaking}}
