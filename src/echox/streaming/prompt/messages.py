"""Messages of a conversation, checked and decoded once, when they enter the package.

A message is ``{"role": "system" | "user" | "assistant" | "tool", "content": ...}`` (outputs of tools are "tool"); its
content is a string or a list of parts ``{"type": "text", "text": ...}`` and ``{"type": "audio", "audio": path | bytes |
file | samples}``; bare samples may have a ``"sampling_rate"`` beside them. What the library ``datasets`` has as audio,
``{"array": ..., "sampling_rate": ...}`` or a decoder of torchcodec, is accepted wherever audio is. A reply may have
``"tool_calls"``, an output the ``"tool_call_id"`` of its call; other fields are refused, not passed over.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, Union

import numpy as np

from echox.audio import AudioSource, load_audio, resample
from echox.errors import NoSpeech
from echox.speech_detection import SpeechSpan, find_speech, speech_for_model
from echox.streaming.prompt.message_calls import answering_order, read_calls
from echox.streaming.prompt.samples import is_samples, mono_samples
from echox.tool_calls.tools import ToolCall

if TYPE_CHECKING:
    from torch import Tensor

ROLES = ("system", "user", "assistant", "tool")
ANSWERED_ROLES = ("user", "tool")
"""Who may have spoken before a reply."""
_FIELDS = {"assistant": ("tool_calls",), "tool": ("tool_call_id", "name")}
"""What messages may have beside role and content."""
_NETWORK = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


@dataclass(frozen=True, eq=False)
class Audio:
    """Decoded speech: float32 (S,) at the rate of the model."""

    waveform: np.ndarray
    sampling_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sampling_rate

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what the model hears, and of its place: more silence after the speech does not change it."""
        if self.speech is None:
            return hashlib.sha256(np.ascontiguousarray(self.waveform).data).hexdigest()
        place = f"{self.speech.start - self.speech.lead} {self.speech.end}"
        return hashlib.sha256(place.encode() + self.for_model().tobytes()).hexdigest()

    @cached_property
    def speech(self) -> SpeechSpan | None:
        """Where speech is in it; None: nowhere. Searched once: a few milliseconds per second of audio."""
        return find_speech(self.waveform, self.sampling_rate)

    @property
    def known_without_speech(self) -> bool:
        """Whether speech was searched, and none was found."""
        return "speech" in self.__dict__ and self.speech is None

    def for_model(self) -> np.ndarray:
        """The speech in it, at the level that the model expects.

        Raises:
            NoSpeech: it holds none.
        """
        if self.speech is None:
            raise NoSpeech(
                f"expected speech, found no speech in {self.duration_s:.1f} s of audio, only silence or noise; record "
                "the question again",
                (self.digest,),
            )
        return speech_for_model(self.waveform, self.speech)


Part = str | Audio

AudioInput = Union[AudioSource, np.ndarray, "Tensor", Mapping[str, object]]
"""Audio as users pass it; see `read_audio`. Tensor stands by its name: this module imports no torch."""
Question = Union[AudioInput, Sequence[Mapping[str, object]]]  # noqa: UP007 - the name in it is no type when this runs
"""Audio, one message, or a list of messages; see `read_messages`."""


@dataclass(frozen=True, eq=False)
class Message:
    """One turn: the role of its speaker, its text and audio parts in order, and the tools that it calls after them."""

    role: str
    parts: tuple[Part, ...]
    calls: tuple[ToolCall, ...] = ()

    @property
    def audios(self) -> tuple[Audio, ...]:
        """The audio parts."""
        return tuple(part for part in self.parts if isinstance(part, Audio))

    def reads_as(self, other: Message) -> bool:
        """Whether the model reads both messages alike."""
        return self._read == other._read

    @property
    def _read(self) -> tuple[object, ...]:
        parts = tuple(part.digest if isinstance(part, Audio) else f"text {part}" for part in self.parts)
        return self.role, parts, self.calls

    @property
    def _joined(self) -> list[Part]:
        """Its parts; text parts that follow each other are one text."""
        joined: list[Part] = []
        for part in self.parts:
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            else:
                joined.append(part)
        return joined

    @property
    def texts(self) -> list[tuple[str, str]]:
        """All that templates may write of it, each text with a name for users."""
        said = [(f"{self.role} message", part) for part in self._joined if isinstance(part, str)]
        return said + [(f"call of {call.name}", call.written) for call in self.calls]

    def for_template(self, text: Callable[[str], str] = str) -> dict[str, object]:
        """The message as chat templates expect it; audio as a bare placeholder.

        Args:
            text: what stands for a text of it.
        """
        content: object = [
            {"type": "text", "text": text(part)} if isinstance(part, str) else {"type": "audio"}
            for part in self._joined
        ]
        if not self.audios:
            content = "".join(text(str(part)) for part in self._joined)
        found = {"role": self.role, "content": content}
        return {**found, "tool_calls": [call.for_template(text) for call in self.calls]} if self.calls else found


class UnreadableMessage(ValueError):
    """A message of a conversation that the model cannot read, whatever is asked.

    Args:
        error: for users.
        message: the message; a system prompt counts as one.
        found: the text in it that is at fault; "": all of it.
    """

    def __init__(self, error: str, message: Message, found: str = "") -> None:
        super().__init__(error)
        self.message, self.found = message, found


def read_messages(
    source: object, sampling_rate: int, max_audio_s: float, audio_rate: int | None = None
) -> list[Message]:
    """Check and decode a question, in any form that users may pass.

    Args:
        source: audio (see `read_audio`), one message, or a list of messages.
        sampling_rate: rate of the model, Hz; bare samples without a rate are taken to have it.
        max_audio_s: longer audio is refused, never cut.
        audio_rate: rate of bare samples.

    Returns:
        Messages; the last one is of the user, or the output of a tool. Outputs that name their calls
        (``"tool_call_id"``) stand in the order of the calls.

    Raises:
        ValueError: not audio, empty, silent, too long, an unknown role, field or part, a call that is none, or no
            question at the end.
    """
    if isinstance(source, Mapping) and not _is_audio(source):
        source = [source]
    if not isinstance(source, list | tuple):
        return [Message("user", (read_audio(source, sampling_rate, max_audio_s, audio_rate),))]
    if not source:
        raise ValueError("expected at least one message, found an empty list; ask something")
    messages = [_read_message(item, index, sampling_rate, max_audio_s) for index, item in enumerate(source)]
    messages = [messages[place] for place in answering_order(source)]
    if messages[-1].role not in ANSWERED_ROLES:
        raise ValueError(f"expected the last message to be of role user, found {messages[-1].role}; ask something")
    return messages


def read_audio(source: object, sampling_rate: int, max_audio_s: float, audio_rate: int | None = None) -> Audio:
    """Decode one piece of speech.

    Args:
        source: a path; the bytes of a file; a binary file, read from where it stands to its end and left open;
            samples as `mono_samples` takes them, a NumPy array or torch tensor; or, as the library ``datasets`` has
            them, ``{"array": samples, "sampling_rate": Hz}``, ``{"bytes": ..., "path": ...}``, or a decoder of
            torchcodec.
        sampling_rate: rate of the model, Hz; bare samples without a rate are taken to have it.
        max_audio_s: longer audio is refused, never cut.
        audio_rate: rate of bare samples.

    Raises:
        ValueError: not audio, empty, not finite, or too long.
        NoSpeech: it holds no speech.
    """
    if isinstance(source, Audio):
        return source
    if hasattr(source, "get_all_samples"):  # of torchcodec, as datasets has it since version 4
        decoded = source.get_all_samples()
        source = {"array": decoded.data, "sampling_rate": decoded.sample_rate}
    if isinstance(source, Mapping):
        source, audio_rate = _open_audio(source, audio_rate)
    if is_samples(source):
        name, rate = "audio samples", audio_rate or sampling_rate
        waveform = mono_samples(source)
        duration_s = len(waveform) / rate
        if duration_s > max_audio_s:
            raise ValueError(
                f"{name}: expected at most {max_audio_s:g} s, found {duration_s:.1f} s; cut it or raise max_question_s"
            )
        waveform = resample(waveform, rate, sampling_rate)
    elif _is_file(source):
        name = str(source) if isinstance(source, str | Path) else "audio"
        waveform = load_audio(source, sampling_rate, max_duration_s=max_audio_s)
    else:
        raise ValueError(f"expected a path, bytes or a binary file object, found {type(source).__name__}")
    audio = Audio(waveform, sampling_rate)
    if audio.speech is None:
        raise NoSpeech(
            f"{name}: no speech found in {audio.duration_s:.1f} s, only silence or noise; record the question again"
        )
    return audio


def _is_audio(source: Mapping[str, object]) -> bool:
    return "role" not in source and ("array" in source or "bytes" in source or "path" in source)


def _is_file(source: object) -> TypeGuard[AudioSource]:
    return isinstance(source, str | Path | bytes | bytearray | memoryview) or hasattr(source, "read")


def _open_audio(source: Mapping[str, object], audio_rate: int | None) -> tuple[AudioInput, int | None]:
    """What is in an audio dictionary of ``datasets``, and its rate."""
    array = source.get("array")
    if array is not None:
        rate = source.get("sampling_rate")
        if not isinstance(rate, int | np.integer):
            raise ValueError(f"audio: expected 'sampling_rate' beside 'array', in whole hertz, found {rate!r}; add it")
        if audio_rate is not None and audio_rate != rate:
            raise ValueError(f"audio: expected one sampling rate, found {rate} and {audio_rate} Hz; leave one out")
        samples = np.asarray(array) if isinstance(array, list | tuple) else array
        if not is_samples(samples):
            raise ValueError(f"audio: expected samples as 'array', found {type(array).__name__}")
        return samples, int(rate)
    content = source.get("bytes") or source.get("path")
    if not _is_file(content):
        raise ValueError(
            f"audio: expected 'array' with 'sampling_rate', 'bytes' or 'path', found {', '.join(map(str, source))}"
        )
    return content, audio_rate


def _read_message(item: object, index: int, sampling_rate: int, max_audio_s: float) -> Message:
    where = f"message {index}"
    if isinstance(item, Message):
        return item
    if not isinstance(item, dict) or "role" not in item or not {"content", "tool_calls"} & item.keys():
        raise ValueError(f"{where}: expected a dict with 'role' and 'content', found {_short(item)}")
    role, content = item["role"], item.get("content")
    if role not in ROLES:
        raise ValueError(f"{where}: expected a role among {', '.join(ROLES)}, found {role!r}")
    known = {"role", "content", *_FIELDS.get(role, ())}
    unread = [str(name) for name, value in item.items() if name not in known and value is not None]
    if unread:
        raise ValueError(
            f"{where}: expected of a message of role {role} only {', '.join(sorted(known))}, found "
            f"{', '.join(unread)}; leave it out, as the model would not read it"
        )
    calls = read_calls(item.get("tool_calls"), where)
    if content is None and calls:
        content = ""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple) or not content:
        raise ValueError(f"{where}: expected content to be a string or a list of parts, found {_short(content)}")
    parts = tuple(_read_part(part, where, sampling_rate, max_audio_s) for part in content)
    if role != "user" and any(isinstance(part, Audio) for part in parts):
        raise ValueError(f"{where}: expected audio in user messages only, found it in one of role {role}")
    says = any(isinstance(part, Audio) or part.strip() for part in parts)
    if not (says or calls or role == "tool"):  # a tool may have nothing to say
        raise ValueError(f"{where}: expected text or audio, found an empty message; ask something")
    return Message(role, parts, calls)


def _read_part(part: object, where: str, sampling_rate: int, max_audio_s: float) -> Part:
    fields = part if isinstance(part, dict) else {}
    kind, text = fields.get("type"), fields.get("text")
    if kind == "text" and isinstance(text, str):
        return text
    audios = [fields[name] for name in ("audio", "path", "url") if fields.get(name) is not None]
    if kind == "audio" and len(audios) == 1:
        if isinstance(audios[0], str) and _NETWORK.match(audios[0]):
            raise ValueError(
                f"{where}: expected the path of an audio file, found {_short(audios[0])}; download it first"
            )
        return read_audio(audios[0], sampling_rate, max_audio_s, fields.get("sampling_rate"))
    raise ValueError(
        f"{where}: expected parts {{'type': 'text', 'text': str}} or {{'type': 'audio', 'audio': path, bytes or "
        f"samples}}, found {_short(part)}"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def system_text(messages: Sequence[Message]) -> str:
    """The system prompt that a conversation begins with; "" if it has none."""
    begins = messages[0] if messages and messages[0].role == "system" else None
    return "" if begins is None else "".join(map(str, begins.parts))


def join_system(system: str | None, messages: Sequence[Message]) -> list[Message]:
    """Put a system prompt in front of a conversation that has none."""
    if system is None or (messages and messages[0].role == "system"):
        return list(messages)
    return [Message("system", (system,)), *messages]
