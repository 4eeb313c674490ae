"""The end of each word, from the phones of an utterance with times and the expected phones of each word."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

Phone = tuple[str, float]
"""A phone and its end time in seconds."""

PAUSE = "pau"
_VOWELS = frozenset(
    ("aa", "ae", "ah", "ao", "aw", "ax", "axr", "ay", "eh", "er", "ey", "ih", "iy", "ow", "oy", "uh", "uw")
) | frozenset("aeiouyæøœɐɑɒɔɘəɚɛɜɝɞɤɨɪɯɵɶʉʊʌʏᵻ")  # as flite writes them, and in IPA
_GAP_COST = 1.0


def align_words(phones: Sequence[Phone], canonical: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """Return the end of each word, in seconds.

    The utterance's phones are aligned with the concatenated canonical ones by edit distance (in a sentence "a" is
    spoken "ax", alone "ey"), so each phone belongs to a word. A pause belongs to the word before it.

    Args:
        phones: Phones of the utterance with end times, in order; pauses are named "pau".
        canonical: The phones of each word spoken alone; empty for a word that is not spoken.

    Returns:
        One end per word, never decreasing; the last is the end of the last phone.
    """
    if not canonical:
        return ()
    said = [phone for phone, _ in phones if phone != PAUSE]
    expected = [(phone, word) for word, part in enumerate(canonical) for phone in part]
    word_of_said = iter(_words_of(said, expected))
    ends: list[float] = [0.0] * len(canonical)
    word = 0
    for phone, end_s in phones:
        if phone != PAUSE:
            word = next(word_of_said)
        ends[word] = end_s
    for index in range(1, len(ends)):
        ends[index] = max(ends[index], ends[index - 1])
    ends[-1] = phones[-1][1] if phones else 0.0
    return tuple(ends)


def words_of_phones(phones: Sequence[str], canonical: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """The word of each phone, pauses included; arguments as for `align_words`, without times."""
    ends = align_words([(phone, float(place)) for place, phone in enumerate(phones, 1)], canonical)
    return tuple(bisect_left(ends, place) for place in range(1, len(phones) + 1))


def _words_of(said: Sequence[str], expected: Sequence[tuple[str, int]]) -> list[int]:
    """Return the word of each said phone along the cheapest alignment."""
    rows, columns = len(said) + 1, len(expected) + 1
    cost = [[0.0] * columns for _ in range(rows)]
    for column in range(1, columns):
        cost[0][column] = column * _GAP_COST
    for row in range(1, rows):
        previous, current, phone = cost[row - 1], cost[row], said[row - 1]
        current[0] = row * _GAP_COST
        for column in range(1, columns):
            current[column] = min(
                previous[column - 1] + _substitution(phone, expected[column - 1][0]),
                previous[column] + _GAP_COST,
                current[column - 1] + _GAP_COST,
            )
    words = [0] * len(said)
    row, column = rows - 1, columns - 1
    while row > 0:
        if column > 0:
            here = cost[row][column]
            step = cost[row - 1][column - 1] + _substitution(said[row - 1], expected[column - 1][0])
            if here == step:
                row, column = row - 1, column - 1
                words[row] = expected[column][1]
                continue
            if here == cost[row][column - 1] + _GAP_COST:
                column -= 1
                continue
        row -= 1  # an unexpected phone belongs to the word before it
        words[row] = expected[max(0, column - 1)][1] if expected else 0
    return words


def _substitution(said: str, expected: str) -> float:
    if said == expected:
        return 0.0
    if (said in _VOWELS) != (expected in _VOWELS):
        return 1.9  # barely better than dropping one and inserting the other
    return 0.5 if said in _VOWELS else 1.1  # vowels are reduced all the time, consonants seldom change
