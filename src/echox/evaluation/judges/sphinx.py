"""Judge "pocketsphinx": the small recogniser of CMU Sphinx with the English model of its package. Imports no torch.

It has nothing in common with what is trained here, nor with Moonshine: Gaussian mixtures, a dictionary of 134,000 words
and a language model of three words, of 2016 and before. So where it agrees with another judge, speech is clear; it errs
much more often than the others, and its figures stand beside theirs, never alone.

Source: https://github.com/cmusphinx/pocketsphinx (BSD).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec

import numpy as np

from echox.audio import resample
from echox.data.scoring import normalize_words
from echox.evaluation.judges.open_vocabulary import OpenVocabularyJudge

REQUIREMENT = "pocketsphinx>=5.1,<6"


def is_installed() -> bool:
    """Whether its package is."""
    return find_spec("pocketsphinx") is not None


class PocketsphinxASR(OpenVocabularyJudge):
    """Pocketsphinx as its package has it.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise ValueError(
                f"judge pocketsphinx: expected its package, found none; pip install --no-deps '{REQUIREMENT}'"
            ) from error
        self._decoder = Decoder(samprate=float(self.sampling_rate), loglevel="FATAL")
        self.name = f"pocketsphinx {version('pocketsphinx')}, its English model"

    def transcribe(self, waveforms: Sequence[np.ndarray], sampling_rate: int) -> list[str]:
        """See `echox.evaluation.judges.asr.Judge`. An empty waveform is silence: no words."""
        return [self._one(resample(waveform, sampling_rate, self.sampling_rate)) for waveform in waveforms]

    def unknown_words(self, text: str) -> int:
        """See `echox.evaluation.judges.asr.Judge`."""
        return sum(self._decoder.lookup_word(word) is None for word in normalize_words(text))

    def _one(self, waveform: np.ndarray) -> str:
        if not len(waveform):
            return ""
        samples = (np.clip(waveform, -1, 1) * 32767).astype(np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)  # the whole utterance: its mean is known at once
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr.strip() if found is not None else ""
