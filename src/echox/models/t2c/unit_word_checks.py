"""Checks of generated unit words: endless repetition, and too many or too few for their text."""

from __future__ import annotations

from collections.abc import Sequence

MAX_PERIOD = 8
"""Longest repeated pattern that is detected, in unit words."""
MAX_REPEATS = 8
"""A pattern repeated this often is an endless loop of the decoder: it never occurs in nano's recordings."""
UNIT_WORDS_BASE, UNIT_WORDS_PER_CHARACTER = 24, 8
"""Limit for a text of n characters: ``base + n * per character`` unit words, three times the slowest recordings."""
CHARACTERS_PER_UNIT_WORD = 8
"""Minimum: one unit word for this number of characters, an eighth of that of the fastest recordings."""


def repeating(unit_words: Sequence[int]) -> int:
    """Number of unit words at the end that repeat those directly before them (0: the end is not a repetition)."""
    longest = 0
    for period in range(1, min(MAX_PERIOD, len(unit_words) // 2) + 1):
        run = 0
        place = len(unit_words) - 1
        while place - period >= 0 and unit_words[place] == unit_words[place - period]:
            run, place = run + 1, place - 1
        if run >= period:
            longest = max(longest, run)
    return longest


def too_few(unit_words: Sequence[int], characters: int) -> str | None:
    """The problem with complete unit words of a text of `characters` characters; None if there is none."""
    if len(unit_words) * CHARACTERS_PER_UNIT_WORD < characters:
        return f"only {len(unit_words)} unit words for {characters} characters"
    return None


def problem_of(unit_words: Sequence[int], characters: int) -> str | None:
    """The problem with unit words so far, of a text of `characters` characters; None if there is none."""
    limit = UNIT_WORDS_BASE + UNIT_WORDS_PER_CHARACTER * characters
    if len(unit_words) > limit:
        return f"more than {limit} unit words for {characters} characters"
    for period in range(1, MAX_PERIOD + 1):
        span = period * MAX_REPEATS
        if len(unit_words) < span:
            return None
        tail = unit_words[-span:]
        if tail[period:] == tail[:-period]:
            return f"repeats itself: {MAX_REPEATS} times the same {period} unit words"
    return None
