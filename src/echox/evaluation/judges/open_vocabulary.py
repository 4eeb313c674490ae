"""What judges with an open vocabulary and ordinary spelling have in common. Imports no torch."""

from __future__ import annotations


class OpenVocabularyJudge:
    """A judge that writes any word as people do: references are compared as they are.

    Attributes:
        sampling_rate: Hz of the audio that it expects.
    """

    sampling_rate = 16000

    def as_heard(self, text: str) -> str:
        """See `echox.evaluation.judges.asr.Judge`."""
        return text

    def unknown_words(self, text: str) -> int:
        """See `echox.evaluation.judges.asr.Judge`."""
        return 0
