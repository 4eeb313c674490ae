"""Word error rate and sentence equality with one normalisation, and how well scores tell two kinds apart.

The normalisation is the "naive" one of seed-tts-eval: lower case, no punctuation, hyphens separate words. It suits text
whose numbers are spelt out, as nano's are; `echox.evaluation` has Whisper's English normaliser.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

_NOT_A_WORD = re.compile(r"[^\w\s']+")


def normalize_words(text: str) -> list[str]:
    """Words of ``text`` in lower case without punctuation; an apostrophe inside a word stays."""
    spaced = _NOT_A_WORD.sub(" ", text.lower().replace("’", "'"))
    return [word for word in (token.strip("'_") for token in spaced.split()) if word]


@dataclass(frozen=True)
class WordErrors:
    """Edit counts of hypotheses against references, in words; they add up over a corpus."""

    substitutions: int = 0
    insertions: int = 0
    deletions: int = 0
    reference_words: int = 0

    def __add__(self, other: WordErrors) -> WordErrors:
        return WordErrors(
            self.substitutions + other.substitutions,
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.reference_words + other.reference_words,
        )

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions together."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per reference word; may exceed 1. An empty reference counts as one word."""
        return self.errors / max(self.reference_words, 1)


def edit_counts(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> WordErrors:
    """Levenshtein alignment of two word sequences; ties prefer a substitution, then a deletion."""
    # A cell is (errors, substitutions, insertions, deletions) of the best alignment of the two prefixes.
    row = [(j, 0, j, 0) for j in range(len(hypothesis) + 1)]
    for i, expected in enumerate(reference, 1):
        previous, row = row, [(i, 0, 0, i)]
        for j, found in enumerate(hypothesis, 1):
            diagonal, above, left = previous[j - 1], previous[j], row[j - 1]
            if expected == found:
                row.append(diagonal)
                continue
            best = min(diagonal[0], above[0], left[0])
            if best == diagonal[0]:
                row.append((best + 1, diagonal[1] + 1, diagonal[2], diagonal[3]))
            elif best == above[0]:
                row.append((best + 1, above[1], above[2], above[3] + 1))
            else:
                row.append((best + 1, left[1], left[2] + 1, left[3]))
    _, substitutions, insertions, deletions = row[-1]
    return WordErrors(substitutions, insertions, deletions, len(reference))


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> WordErrors:
    """Corpus counts over pairs of texts, normalised by :func:`normalize_words`.

    Raises:
        ValueError: the two lists differ in length.
    """
    if len(references) != len(hypotheses):
        raise ValueError(
            f"expected as many hypotheses as references, found {len(hypotheses)} for {len(references)}: "
            "score an item that failed as an empty hypothesis"
        )
    total = WordErrors()
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        total += edit_counts(normalize_words(reference), normalize_words(hypothesis))
    return total


def same_words(reference: str, hypothesis: str) -> bool:
    """Sentence equality after :func:`normalize_words`."""
    return normalize_words(reference) == normalize_words(hypothesis)


def area_under_curve(scores: np.ndarray, positive: np.ndarray) -> float:
    """How often one of a kind has a higher score than one of the others (a draw counts half); NaN if a kind has none.

    Args:
        scores: (N,).
        positive: (N,) bool, whether each is of the kind.
    """
    order = np.subtract.outer(scores[positive], scores[~positive])
    return float((order > 0).mean() + 0.5 * (order == 0).mean())
