"""Byte-pair encoding of units, as a baseline for the unit language: words by greedy merges of the most frequent pair.

Source: arXiv 1508.07909 (BPE); as words of units, arXiv 2505.15333 compares with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from echox.models.unit_language.tokenization_unit_language import UnitLanguage

_FIRST_CHARACTER = 0x4E00  # units as characters that text normalisers and splitters do not change


def learn_bpe_language(
    segments: Iterable[Sequence[int]], num_units: int, vocabulary_size: int = 1000, max_units_per_word: int = 5
) -> UnitLanguage:
    """Learns BPE words from segments of reduced units, with the probabilities that BPE's own segmentation gives them.

    The result segments by the most probable words, as every :class:`UnitLanguage` does: words are BPE's, merges are not
    replayed.

    Args:
        segments: reduced units, one sequence per text word.
        num_units: number of units, which are all kept as words ``0 .. num_units - 1``.
        vocabulary_size: words at the end, single units included.
        max_units_per_word: longest word.

    Raises:
        ValueError: no segments, or a vocabulary that cannot hold the single units.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    texts = ["".join(chr(_FIRST_CHARACTER + int(unit)) for unit in segment) for segment in segments if len(segment)]
    if not texts:
        raise ValueError("expected segments of units to learn from, found none; extract units first")
    if vocabulary_size < num_units:
        raise ValueError(f"expected a vocabulary of at least the {num_units} single units, found {vocabulary_size}")
    alphabet = [chr(_FIRST_CHARACTER + unit) for unit in range(num_units)]
    tokenizer = Tokenizer(BPE())
    trainer = BpeTrainer(
        vocab_size=vocabulary_size, initial_alphabet=alphabet, max_token_length=max_units_per_word, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    counts = Counter(word for encoding in tokenizer.encode_batch(texts) for word in encoding.tokens)
    longer = sorted((word for word in tokenizer.get_vocab() if len(word) > 1), key=lambda word: (-counts[word], word))
    words = [*alphabet, *longer]
    total = sum(counts.values()) + 0.1 * len(words)
    return UnitLanguage(
        [[ord(character) - _FIRST_CHARACTER for character in word] for word in words],
        [math.log((counts[word] + 0.1) / total) for word in words],
    )
