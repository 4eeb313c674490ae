"""flite: English, fast, and it reports the end of each phone.

Source: http://cmuflite.org.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from echox.data.engines.engine import (
    SAMPLING_RATE,
    Pronunciation,
    SynthesizedSpeech,
    Voice,
    load_speech,
    program,
    run_program,
)
from echox.data.engines.word_ends import Phone, align_words, words_of_phones


class Flite:
    """flite as a subprocess; the only engine here that reports the end of each phone.

    Raises:
        FileNotFoundError: flite is not installed.
    """

    # Mean F0 of each voice in Hz: flite takes an absolute target, `Voice.pitch` is relative.
    mean_f0_hz = {"kal": 105.0, "kal16": 105.0, "awb": 125.0, "slt": 172.0, "rms": 98.0}

    def __init__(self) -> None:
        self.binary = program("flite", package="flite")

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See :class:`SpeechSynthesizer`."""
        options = []
        if voice.speed != 1.0:
            options += ["--setf", f"duration_stretch={1.0 / voice.speed:.4f}"]
        if voice.pitch != 1.0:
            options += ["--setf", f"int_f0_target_mean={self.mean_f0_hz.get(voice.name, 120.0) * voice.pitch:.2f}"]
        with tempfile.TemporaryDirectory(prefix="echox-tts-") as folder:
            path = Path(folder) / "speech.wav"
            command = [self.binary, "-voice", voice.name, *options, "-psdur", "-t", text, "-o", str(path)]
            phones = _parse_phones(run_program(command, text, voice))
            waveform = load_speech(path, text, voice)
        canonical = [self.pronounce(word) for word in text.split()]
        ends = align_words(phones, canonical)
        duration_s = len(waveform) / SAMPLING_RATE
        ends = tuple(min(end, duration_s) for end in ends[:-1]) + (duration_s,) * bool(ends)
        return SynthesizedSpeech(waveform, SAMPLING_RATE, phones, ends)

    def pronunciations(self, texts: Sequence[str], voice: Voice, timed: bool) -> list[Pronunciation]:
        """See :class:`PronouncingSynthesizer`; flite marks neither stress nor length."""
        return [self._pronunciation(text, voice, timed) for text in texts]

    def _pronunciation(self, text: str, voice: Voice, timed: bool) -> Pronunciation:
        spoken = self.synthesize(text, voice).phones or ()
        phones, ends_s = tuple(name for name, _ in spoken), tuple(end_s for _, end_s in spoken)
        words = words_of_phones(phones, [self.pronounce(word) for word in text.split()])
        return Pronunciation(phones, words, ends_s if timed else None)

    def pronounce(self, word: str) -> tuple[str, ...]:
        """Return the phones of a single word as flite speaks it alone, without pauses (cached)."""
        return _pronounce(self.binary, word.strip(".,?!;:\"'"))


def _parse_phones(output: str) -> tuple[Phone, ...]:
    """Parse ``-psdur`` output: "pau:0.184 dh:0.233 ..."; times are ends in seconds."""
    pairs = (token.rsplit(":", 1) for token in output.split() if ":" in token)
    return tuple((phone, float(end)) for phone, end in pairs)


@functools.lru_cache(maxsize=20_000)
def _pronounce(binary: str, word: str) -> tuple[str, ...]:
    if not word:
        return ()
    # Only the phones are needed, so the fastest voice speaks them.
    command = [binary, "-voice", "kal", "-ps", "-t", word, "-o", "none"]
    return tuple(phone for phone in run_program(command, word, Voice("flite", "kal")).split() if phone != "pau")
