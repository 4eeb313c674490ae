"""Learning a unit language from reduced units.

Candidates are the frequent n-grams of the training segments. A unigram model over them is fitted by expectation
maximisation with the best segmentation (Viterbi), and the words whose removal costs the least likelihood are pruned,
round by round, until the vocabulary has its size. Single units always stay.

Source: arXiv 2505.15333 (n-gram statistics, unigram model, dynamic programming); the pruning rule is that of the
unigram tokenizer, arXiv 1804.10959 section 3.2.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from echox.models.unit_language.tokenization_unit_language import UnitLanguage

Segment = tuple[int, ...]


def split_by_word(units: Sequence[int], word_of_unit: Sequence[int]) -> list[Segment]:
    """Splits an utterance's reduced units into the segments of its text words."""
    segments: list[Segment] = []
    start = 0
    for end in range(1, len(units) + 1):
        if end == len(units) or word_of_unit[end] != word_of_unit[start]:
            segments.append(tuple(int(unit) for unit in units[start:end]))
            start = end
    return segments


def count_candidates(segments: Counter[Segment], max_units_per_word: int, min_count: int) -> Counter[Segment]:
    """Counts the n-grams of 2 to ``max_units_per_word`` units that occur at least ``min_count`` times."""
    kept: Counter[Segment] = Counter()
    shorter: set[Segment] | None = None
    for size in range(2, max_units_per_word + 1):
        counts: Counter[Segment] = Counter()
        for segment, times in segments.items():
            for start in range(len(segment) - size + 1):
                gram = segment[start : start + size]
                # An n-gram cannot be frequent if its beginning is not: saves most of the memory for long ones.
                if shorter is None or gram[:-1] in shorter:
                    counts[gram] += times
        frequent = {gram: times for gram, times in counts.items() if times >= min_count}
        shorter = set(frequent)
        kept.update(frequent)
    return kept


def _fit(words: list[Segment], counts: Counter[int] | dict[int, float], smoothing: float) -> UnitLanguage:
    total = sum(counts.values()) + smoothing * len(words)
    return UnitLanguage(words, [math.log((counts.get(i, 0) + smoothing) / total) for i in range(len(words))])


def _count_words(language: UnitLanguage, segments: Counter[Segment]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for segment, times in segments.items():
        for word_id in language.encode(segment):
            counts[word_id] += times
    return counts


def _log_prob_without(language: UnitLanguage, index: dict[Segment, int], word: Segment) -> float:
    """Log probability of the word's units written with shorter words only."""
    best = [0.0] + [-math.inf] * len(word)
    for end in range(1, len(word) + 1):
        for start in range(end):
            part = index.get(word[start:end])
            if part is not None and end - start < len(word):
                best[end] = max(best[end], best[start] + language.log_probs[part])
    return best[-1]


def learn_unit_language(
    segments: Iterable[Sequence[int]],
    num_units: int,
    vocabulary_size: int = 1000,
    max_units_per_word: int = 5,
    min_count: int = 3,
    candidates_per_word: float = 8.0,
    keep_ratio: float = 0.75,
    rounds_per_pruning: int = 2,
    smoothing: float = 0.1,
) -> UnitLanguage:
    """Learns unit words from segments of reduced units.

    The words of one unit take the ids ``0 .. num_units - 1`` (a word's id is then its unit); longer words follow, the
    most frequent first.

    Args:
        segments: Reduced units, one sequence per text word (or per utterance, where words are not known).
        num_units: Number of units, which are all kept as words.
        vocabulary_size: Number of words at the end, single units included; fewer if the data has fewer n-grams.
        max_units_per_word: Longest n-gram.
        min_count: An n-gram seen less often is no candidate.
        candidates_per_word: Number of first candidates as a multiple of the vocabulary size.
        keep_ratio: Part of the longer words that a pruning round keeps.
        rounds_per_pruning: Expectation maximisation rounds before each pruning.
        smoothing: Added to every count, so that no word becomes impossible.

    Raises:
        ValueError: If the vocabulary cannot hold the single units, a unit is outside them, or there are no segments.
    """
    if vocabulary_size < num_units:
        raise ValueError(
            f"expected a vocabulary of at least the {num_units} single units, found {vocabulary_size}; raise it"
        )
    data: Counter[Segment] = Counter(tuple(int(unit) for unit in segment) for segment in segments if len(segment))
    if not data:
        raise ValueError("expected segments of units to learn from, found none; extract units first")
    highest = max(max(segment) for segment in data)
    if highest >= num_units or min(min(segment) for segment in data) < 0:
        raise ValueError(f"expected units from 0 to {num_units - 1}, found up to {highest}; set num_units")
    singles: list[Segment] = [(unit,) for unit in range(num_units)]
    single_counts: Counter[int] = Counter()
    for segment, times in data.items():
        for unit in segment:
            single_counts[unit] += times
    candidates = count_candidates(data, max_units_per_word, min_count)
    # Coverage (count x units saved) ranks the first candidates; the gram itself breaks ties, so order never depends on
    # hashing.
    ranked = sorted(candidates, key=lambda gram: (-candidates[gram] * (len(gram) - 1), gram))
    longer = ranked[: int(candidates_per_word * vocabulary_size)]
    words = singles + longer
    counts: dict[int, float] = {unit: float(single_counts[unit]) for unit in range(num_units)}
    counts |= {num_units + i: float(candidates[gram]) for i, gram in enumerate(longer)}
    language = _fit(words, counts, smoothing)
    target = vocabulary_size - num_units
    while True:
        for _ in range(rounds_per_pruning):
            found = _count_words(language, data)
            language = _fit(words, found, smoothing)
        if len(longer) <= target:
            break
        index = {word: i for i, word in enumerate(words)}
        losses = {
            word: found[index[word]] * (language.log_probs[index[word]] - _log_prob_without(language, index, word))
            for word in longer
        }
        kept = max(target, int(keep_ratio * len(longer)))
        best = set(sorted(longer, key=lambda word: (-losses[word], word))[:kept])
        kept_counts = [found[i] for i, word in enumerate(words) if i < num_units or word in best]
        longer = [word for word in longer if word in best]
        words = singles + longer
        language = _fit(words, dict(enumerate(kept_counts)), smoothing)
    order = list(range(num_units))
    order += sorted(range(num_units, len(words)), key=lambda i: (-language.log_probs[i], words[i]))
    return UnitLanguage([words[i] for i in order], [language.log_probs[i] for i in order])


def compression(language: UnitLanguage, segments: Iterable[Sequence[int]]) -> dict[str, float]:
    """Measures a unit language on segments.

    Returns:
        ``units_per_word`` (units written by one unit word), ``words_per_segment``, and ``bits_per_unit`` under the
        unigram model.
    """
    num_units = num_words = num_segments = 0
    log_prob = 0.0
    cache: dict[Segment, list[int]] = {}
    for segment in segments:
        key = tuple(int(unit) for unit in segment)
        if key not in cache:
            cache[key] = language.encode(key)
        num_units += len(key)
        num_words += len(cache[key])
        num_segments += 1
        log_prob += language.score(cache[key])
    return {
        "units_per_word": num_units / max(num_words, 1),
        "words_per_segment": num_words / max(num_segments, 1),
        "bits_per_unit": -log_prob / math.log(2) / max(num_units, 1),
    }
