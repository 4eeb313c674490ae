"""espeak-ng: many languages, accents and voice variants; also the phonemes of a text, which other engines speak.

Source: https://github.com/espeak-ng/espeak-ng.
"""

from __future__ import annotations

import re
import tempfile
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from echox.data.engines.engine import SAMPLING_RATE, SynthesizedSpeech, Voice, load_speech, program, run_program

_LANGUAGE_CHANGE = re.compile(r"\([a-z-]+\)")  # "(fr)" before a word that is spoken in another language


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
        command = [self.binary, "-q", "--ipa", "-v", voice]
        lines = "".join(f"{' '.join(text.split())}\n" for text in texts)
        spoken = run_program(command, texts[0], Voice("espeak-ng", voice), lines).splitlines()
        if len(spoken) != len(texts):  # a text of several clauses has several lines: search for it by halves
            if len(texts) > 1:
                half = len(texts) // 2
                return [*self.phonemes(texts[:half], voice), *self.phonemes(texts[half:], voice)]
            spoken = [" ".join(spoken)]
        return [unicodedata.normalize("NFD", _LANGUAGE_CHANGE.sub("", line.strip())) for line in spoken]
