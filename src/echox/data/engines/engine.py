"""What all text-to-speech engines share: voices, speech, the interface, and the running of programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from echox.audio import load_audio
from echox.audio_decoding.waiting import waits
from echox.data.engines.word_ends import Phone

SAMPLING_RATE = 16_000
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Voice:
    """A voice of an engine, with tempo and pitch.

    Attributes:
        engine: "flite", "espeak-ng", "piper", "rhvoice" or "openai".
        name: The engine's name of the voice ("slt", "en-gb+f3", "en_US-joe-medium", "alloy").
        speed: Relative tempo; 1.0 is the voice's own.
        pitch: Relative pitch; 1.0 is the voice's own.
    """

    engine: str
    name: str
    speed: float = 1.0
    pitch: float = 1.0

    @property
    def speaker(self) -> str:
        """The name in manifests, without speed and pitch: "flite/slt"."""
        return f"{self.engine}/{self.name}"

    @classmethod
    def of_speaker(cls, speaker: str, speed: float = 1.0, pitch: float = 1.0) -> Voice:
        """The voice of a name in manifests and recipes, see `speaker`."""
        engine, _, name = speaker.partition("/")
        return cls(engine, name, speed, pitch)


@dataclass(frozen=True)
class SynthesizedSpeech:
    """Synthesised speech.

    Attributes:
        waveform: (samples,) float32 within [-1, 1].
        sampling_rate: In Hz.
        phones: Phones with their end times, if the engine reports them; "pau" is a pause.
        word_ends_s: One end time per whitespace word of the text; a pause belongs to the word before it.
    """

    waveform: np.ndarray
    sampling_rate: int
    phones: tuple[Phone, ...] | None = None
    word_ends_s: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Pronunciation:
    """How a voice says a text, without the sound.

    Attributes:
        phones: Names of phones; stress and length are part of them; "pau" where a clause ends.
        word_of_phone: Index of the white-space word of each; never decreases.
        ends_s: End of each, in seconds; None if it was not asked for.
    """

    phones: tuple[str, ...]
    word_of_phone: tuple[int, ...]
    ends_s: tuple[float, ...] | None = None


class PronouncingSynthesizer(Protocol):
    """A text-to-speech engine that knows the phones of what it says, and when each of them ends."""

    def pronunciations(self, texts: Sequence[str], voice: Voice, timed: bool) -> list[Pronunciation]:
        """Phones of each text, ``timed`` or not. Raises ValueError for a text or voice it cannot speak."""
        ...


class SpeechSynthesizer(Protocol):
    """A text-to-speech engine."""

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """Speak ``text``. Raises ValueError for a text or voice the engine cannot speak."""
        ...


def program(name: str, package: str) -> str:
    """Path of a program. Raises FileNotFoundError, with the package that has it, if there is none."""
    path = shutil.which(name)
    if path is None:
        raise FileNotFoundError(
            f"{name}: expected the program on the PATH, found none; install it (apt install {package})"
        )
    return path


def run_program(command: list[str], text: str, voice: Voice, stdin: str | None = None) -> str:
    """Standard output of an engine's program. Raises ValueError or TimeoutError with the text it could not speak."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            found = _outputs(process, stdin)
        finally:
            process.kill()  # does nothing if it has ended
    if found is None:
        raise TimeoutError(f"{voice.speaker}: no speech for {text[:60]!r} in {TIMEOUT_S:g} s; try again")
    output, errors = found
    if process.returncode:
        raise ValueError(f"{voice.speaker}: could not speak {text[:60]!r}: {errors.strip()[:200]}")
    return output


def _outputs(process: subprocess.Popen[str], stdin: str | None) -> tuple[str, str] | None:
    """Standard output and errors of a program when it has ended; None: it takes too long."""
    for wait_s in waits(TIMEOUT_S):
        try:
            return process.communicate(stdin, timeout=wait_s)
        except subprocess.TimeoutExpired:
            stdin = None  # it was given
    return None


def load_speech(path: Path, text: str, voice: Voice) -> np.ndarray:
    """The waveform that a program wrote, at `SAMPLING_RATE`. Raises ValueError if it wrote none."""
    if not path.exists():
        raise ValueError(f"{voice.speaker}: expected speech for {text[:60]!r}, found no file; is the voice installed?")
    return load_audio(path, SAMPLING_RATE)
