"""What may be asked: a conversation, checked and decoded once, at the door.

A message is ``{"role": "system" | "user" | "assistant", "content": ...}``; its content is a string or a list of parts
``{"type": "text", "text": ...}`` and ``{"type": "audio", "audio": path | bytes | file | samples}``; bare samples may
say their ``"sampling_rate"``.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from echox.audio import is_silent, load_audio, resample

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, eq=False)
class Audio:
    """Decoded speech: float32 (S,) at the rate of the model."""

    waveform: np.ndarray
    sampling_rate: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.waveform) / self.sampling_rate

    @functools.cached_property
    def digest(self) -> str:
        """A name for the sound: the same for the same samples."""
        return hashlib.sha256(np.ascontiguousarray(self.waveform).data).hexdigest()


Part = str | Audio


@dataclass(frozen=True, eq=False)
class Message:
    """One turn: who speaks, and text and audio in order."""

    role: str
    parts: tuple[Part, ...]

    @property
    def audios(self) -> tuple[Audio, ...]:
        """The audio parts."""
        return tuple(part for part in self.parts if isinstance(part, Audio))

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it; audio as a bare placeholder."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return {"role": self.role, "content": self.parts[0]}
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "audio"} for part in self.parts
        ]
        return {"role": self.role, "content": content}


def read_messages(source: Any, sampling_rate: int, max_audio_s: float, audio_rate: int | None = None) -> list[Message]:
    """Check and decode whatever a user may pass as a question.

    Args:
        source: audio (a path, the bytes of a file, a binary file, or samples (S,)), one message, or a list of messages.
        sampling_rate: rate the model hears, Hz; also taken for bare samples without a rate.
        max_audio_s: longer audio is refused, never cut.
        audio_rate: rate of bare samples.

    Returns:
        Messages; the last one is of the user.

    Raises:
        ValueError: not audio, empty, silent, too long, an unknown role or part, or no question at the end.
    """
    if isinstance(source, dict):
        source = [source]
    if not isinstance(source, list | tuple):
        return [Message("user", (read_audio(source, sampling_rate, max_audio_s, audio_rate),))]
    if not source:
        raise ValueError("expected at least one message, found an empty list; ask something")
    messages = [_read_message(item, index, sampling_rate, max_audio_s) for index, item in enumerate(source)]
    if messages[-1].role != "user":
        raise ValueError(f"expected the last message to be of role user, found {messages[-1].role}; ask something")
    return messages


def read_audio(source: Any, sampling_rate: int, max_audio_s: float, audio_rate: int | None = None) -> Audio:
    """Decode one piece of speech.

    Raises:
        ValueError: not audio, empty, not mono, not finite, silent or too long.
    """
    if isinstance(source, Audio):
        return source
    if hasattr(source, "detach"):  # a torch tensor, without importing torch here
        source = source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        waveform = _check_samples(source)
        name = "audio samples"
        duration_s = len(waveform) / (audio_rate or sampling_rate)
        if duration_s > max_audio_s:
            raise ValueError(
                f"{name}: expected at most {max_audio_s:g} s, found {duration_s:.1f} s; cut it or raise max_question_s"
            )
        waveform = resample(waveform, audio_rate or sampling_rate, sampling_rate)
    else:
        name = str(source) if isinstance(source, str | Path) else "audio"
        waveform = load_audio(source, sampling_rate, max_duration_s=max_audio_s)
    if is_silent(waveform):
        raise ValueError(
            f"{name}: no speech found, it is silent ({len(waveform) / sampling_rate:.1f} s); record it again"
        )
    return Audio(waveform, sampling_rate)


def _check_samples(samples: np.ndarray) -> np.ndarray:
    if samples.ndim != 1:
        raise ValueError(f"expected mono samples (S,), found shape {samples.shape}; average the channels first")
    if not np.issubdtype(samples.dtype, np.floating):
        raise ValueError(f"expected float samples in [-1, 1], found {samples.dtype}; divide integers by their maximum")
    if samples.size == 0:
        raise ValueError("expected audio samples, found none, so no speech; record the question again")
    if not np.isfinite(samples).all():
        raise ValueError("expected finite audio samples, found NaN or infinity; check how they were made")
    return samples.astype(np.float32, copy=False)


def _read_message(item: Any, index: int, sampling_rate: int, max_audio_s: float) -> Message:
    where = f"message {index}"
    if isinstance(item, Message):
        return item
    if not isinstance(item, dict) or "role" not in item or "content" not in item:
        raise ValueError(f"{where}: expected a dict with 'role' and 'content', found {_short(item)}")
    role, content = item["role"], item["content"]
    if role not in ROLES:
        raise ValueError(f"{where}: expected a role among {', '.join(ROLES)}, found {role!r}")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list | tuple) or not content:
        raise ValueError(f"{where}: expected content to be a string or a list of parts, found {_short(content)}")
    parts = tuple(_read_part(part, where, sampling_rate, max_audio_s) for part in content)
    if role != "user" and any(isinstance(part, Audio) for part in parts):
        raise ValueError(f"{where}: expected audio in user messages only, found it in one of role {role}")
    if not any(isinstance(part, Audio) or part.strip() for part in parts):
        raise ValueError(f"{where}: expected text or audio, found an empty message; ask something")
    return Message(role, parts)


def _read_part(part: Any, where: str, sampling_rate: int, max_audio_s: float) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind == "audio" and part.get("audio") is not None:
        return read_audio(part["audio"], sampling_rate, max_audio_s, part.get("sampling_rate"))
    raise ValueError(
        f"{where}: expected parts {{'type': 'text', 'text': str}} or {{'type': 'audio', 'audio': path, bytes or "
        f"samples}}, found {_short(part)}"
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def join_system(system: str | None, messages: Sequence[Message]) -> list[Message]:
    """Put a system prompt in front of a conversation that has none."""
    if system is None or (messages and messages[0].role == "system"):
        return list(messages)
    return [Message("system", (system,)), *messages]
