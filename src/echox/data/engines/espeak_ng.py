"""espeak-ng: many languages, accents and voice variants; also the phonemes of a text, which other engines speak.

Source: https://github.com/espeak-ng/espeak-ng.
"""

from __future__ import annotations

import itertools
import re
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from echox.data.engines.engine import SAMPLING_RATE, SynthesizedSpeech, Voice, load_speech, program, run_program

_LANGUAGE_CHANGE = re.compile(r"\([a-z-]+\)")  # "(fr)" before a word that is spoken in another language
_BETWEEN = "zyxt"


class EspeakNg:
    """espeak-ng as a subprocess: many accents and voice variants ("en-gb+f3").

    Raises:
        FileNotFoundError: espeak-ng is not installed.
    """

    words_per_minute = 165
    pitch_percent = 50

    def __init__(self) -> None:
        self.binary = program("espeak-ng", package="espeak-ng")

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See :class:`SpeechSynthesizer`; phones and word ends are not known."""
        speed, pitch = round(self.words_per_minute * voice.speed), round(self.pitch_percent * voice.pitch)
        with tempfile.TemporaryDirectory(prefix="echox-tts-") as folder:
            path = Path(folder) / "speech.wav"
            options = ["-v", voice.name, "-s", str(speed), "-p", str(min(99, pitch))]
            run_program([self.binary, *options, "-w", str(path), "--", text], text, voice)
            return SynthesizedSpeech(load_speech(path, text, voice), SAMPLING_RATE)

    def phonemes(self, texts: Sequence[str], voice: str) -> list[str]:
        """Return the phonemes of each text in IPA: stress marks, and a space where the engine separates words.

        Args:
            texts: one clause or word each, without punctuation that ends a clause.
            voice: the language or accent, as in :class:`Voice`.

        Raises:
            ValueError: a text that it cannot speak.
        """
        lines = [" ".join(text.split()) for text in texts]
        spoken = self._lines(lines, voice)
        if len(spoken) != len(texts):  # a text of several clauses has several lines
            spoken = self._by_halves(lines, voice)
        return [unicodedata.normalize("NFD", _LANGUAGE_CHANGE.sub("", line.strip())) for line in spoken]

    def _by_halves(self, texts: Sequence[str], voice: str) -> list[str]:
        """One line a text, whatever its number of clauses: a word between texts shows where each ends."""
        if len(texts) == 1:
            return [" ".join(self._lines(texts, voice))]
        (mark,) = self._lines([_BETWEEN], voice)
        spoken = self._lines([part for text in texts for part in (text, _BETWEEN)], voice)
        runs = [" ".join(run) for is_mark, run in itertools.groupby(spoken, mark.__eq__) if not is_mark]
        if len(runs) == len(texts):
            return runs
        half = len(texts) // 2  # one of them is silent, or sounds like the word
        return [*self._by_halves(texts[:half], voice), *self._by_halves(texts[half:], voice)]

    def _lines(self, texts: Sequence[str], voice: str) -> list[str]:
        command = [self.binary, "-q", "--ipa", "-v", voice]
        return run_program(
            command, texts[0], Voice("espeak-ng", voice), "".join(f"{text}\n" for text in texts)
        ).splitlines()
