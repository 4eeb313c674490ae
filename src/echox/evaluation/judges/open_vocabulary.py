"""What judges with an open vocabulary and ordinary spelling have in common. Imports no torch."""

from __future__ import annotations

import itertools
import re

_LETTERS = re.compile(r"(?:[A-Z]\.)+[A-Z]?[.,!?]?|[B-HJ-Z][.,!?]?")


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


def join_letters(text: str) -> str:
    """A transcript in which letters that were heard one by one are one word, as people write: "J. P. Y." is "JPY."."""
    words: list[str] = []
    for of_letters, run in itertools.groupby(text.split(), lambda word: bool(_LETTERS.fullmatch(word))):
        group = list(run)
        if of_letters and len(group) > 1:
            group = [re.sub("[^A-Z]", "", "".join(group)) + re.sub("[A-Z]", "", group[-1])[-1:]]
        words += group
    return " ".join(words)
