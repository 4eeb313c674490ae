"""RHVoice: parametric voices of many languages ("Slt", "Bdl", "Clb" of English), by its program ``RHVoice-test``.

Each voice has its own licence, and some are not for commercial use: read it before training on them.

Source: https://github.com/RHVoice/RHVoice.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from echox.data.engines.engine import SAMPLING_RATE, SynthesizedSpeech, Voice, load_speech, program, run_program


class RHVoice:
    """RHVoice as a subprocess.

    Raises:
        FileNotFoundError: it is not installed.
    """

    def __init__(self) -> None:
        self.binary = program("RHVoice-test", package="rhvoice rhvoice-english")

    def synthesize(self, text: str, voice: Voice) -> SynthesizedSpeech:
        """See `SpeechSynthesizer`; phones and word ends are not known."""
        rate, pitch = round(100 * voice.speed), round(100 * voice.pitch)
        with tempfile.TemporaryDirectory(prefix="echox-tts-") as folder:
            path = Path(folder) / "speech.wav"
            command = [self.binary, "-p", voice.name, "-r", str(rate), "-t", str(pitch), "-o", str(path)]
            run_program(command, text, voice, text + "\n")
            return SynthesizedSpeech(load_speech(path, text, voice), SAMPLING_RATE)
