"""Clips with equal or nearly equal text. Near duplicates are found by MinHash and confirmed by their Jaccard index.

Source: MinHash, Broder 1997; banding as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from echox.data.scoring import normalize_words
from echox.preparation.settings import Duplicates

_PRIME = (1 << 31) - 1
_ROWS = 4  # hashes in a band: 16 bands of 4 find 99.99% of the pairs with a Jaccard index of 0.8


@dataclass(frozen=True)
class Looked:
    """A text that was looked up: its character n-grams, its buckets, and the earlier item that it nearly repeats."""

    grams: frozenset[str]
    keys: tuple[tuple[str, int, bytes], ...]
    near: str | None


class NearDuplicates:
    """Items by their text, to find one that is nearly the same.

    Args:
        settings: see :class:`Duplicates`.
    """

    def __init__(self, settings: Duplicates) -> None:
        generator = np.random.default_rng(0)
        self.settings = settings
        self._factors = generator.integers(1, _PRIME, settings.hashes, dtype=np.uint64)
        self._offsets = generator.integers(0, _PRIME, settings.hashes, dtype=np.uint64)
        self._bands: dict[tuple[str, int, bytes], list[str]] = {}
        self._kept: dict[str, frozenset[str]] = {}

    def look(self, text: str, group: str = "") -> Looked:
        """Find the first item of a group (a speaker) whose text is nearly this one; nothing is added."""
        grams = _grams(" ".join(normalize_words(text)), self.settings.ngram)
        signature = _signature(grams, self._factors, self._offsets)
        keys = tuple((group, at, signature[at : at + _ROWS].tobytes()) for at in range(0, self.settings.hashes, _ROWS))
        candidates = dict.fromkeys(other for key in keys for other in self._bands.get(key, ()))
        threshold = self.settings.near_threshold
        near = next((other for other in candidates if _jaccard(grams, self._kept[other]) >= threshold), None)
        return Looked(grams, keys, near)

    def keep(self, name: str, looked: Looked) -> None:
        """Add an item that was looked up."""
        self._kept[name] = looked.grams
        for key in looked.keys:
            self._bands.setdefault(key, []).append(name)


def find_duplicates(items: Iterable[tuple[str, str, str]], settings: Duplicates) -> dict[str, tuple[str, str]]:
    """Find items that repeat an earlier one.

    Args:
        items: (id, text, speaker), in order; the first of several is kept.
        settings: see :class:`Duplicates`.

    Returns:
        id -> ("exact duplicate" or "near duplicate", id of the one that is kept).
    """
    index = NearDuplicates(settings)
    first: dict[tuple[str, str], str] = {}
    found: dict[str, tuple[str, str]] = {}
    for name, text, speaker in items:
        speaker = speaker if settings.per_speaker else ""
        words = " ".join(normalize_words(text))
        if (original := first.setdefault((speaker, words), name)) != name:
            found[name] = ("exact duplicate", original)
            continue
        if settings.near_threshold > 1:
            continue
        looked = index.look(text, speaker)
        if looked.near is not None:
            found[name] = ("near duplicate", looked.near)
        else:
            index.keep(name, looked)
    return found


def _grams(words: str, size: int) -> frozenset[str]:
    return frozenset(words[start : start + size] for start in range(max(1, len(words) - size + 1)))


def _signature(grams: frozenset[str], factors: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    # blake2b, not hash(), which Python salts differently in every process.
    values = [int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=4).digest(), "big") for gram in grams]
    hashed = np.asarray(values, dtype=np.uint64) % np.uint64(_PRIME)
    return ((factors[:, None] * hashed + offsets[:, None]) % np.uint64(_PRIME)).min(axis=1).astype(np.uint32)


def _jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    return len(one & two) / len(one | two)
