"""Clips with equal or nearly equal text. Near duplicates are found by MinHash and confirmed by their Jaccard index.

Source: MinHash, Broder 1997; banding as in Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, chapter 3.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from echox.data.scoring import normalize_words
from echox.preparation.settings import Duplicates

_PRIME = (1 << 31) - 1
_ROWS = 4  # hashes in a band: 16 bands of 4 find 99.99% of the pairs with a Jaccard index of 0.8


def find_duplicates(items: Iterable[tuple[str, str, str]], settings: Duplicates) -> dict[str, tuple[str, str]]:
    """Find items that repeat an earlier one.

    Args:
        items: (id, text, speaker), in order; the first of several is kept.
        settings: see :class:`Duplicates`.

    Returns:
        id -> ("exact duplicate" or "near duplicate", id of the one that is kept).
    """
    generator = np.random.default_rng(0)
    factors = generator.integers(1, _PRIME, settings.hashes, dtype=np.uint64)
    offsets = generator.integers(0, _PRIME, settings.hashes, dtype=np.uint64)
    first: dict[tuple[str, str], str] = {}
    bands: dict[tuple[str, int, bytes], list[str]] = {}
    kept: dict[str, frozenset[str]] = {}
    found: dict[str, tuple[str, str]] = {}
    for name, text, speaker in items:
        speaker = speaker if settings.per_speaker else ""
        words = " ".join(normalize_words(text))
        if (original := first.setdefault((speaker, words), name)) != name:
            found[name] = ("exact duplicate", original)
            continue
        if settings.near_threshold > 1:
            continue
        grams = _grams(words, settings.ngram)
        signature = _signature(grams, factors, offsets)
        keys = [(speaker, at, signature[at : at + _ROWS].tobytes()) for at in range(0, settings.hashes, _ROWS)]
        candidates = dict.fromkeys(other for key in keys for other in bands.get(key, ()))
        near = next((other for other in candidates if _jaccard(grams, kept[other]) >= settings.near_threshold), None)
        if near is not None:
            found[name] = ("near duplicate", near)
            continue
        kept[name] = grams
        for key in keys:
            bands.setdefault(key, []).append(name)
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
