"""Word boundaries in any script, in text that arrives in parts.

White space separates words, as in ``str.split``. Scripts without spaces are split further: Japanese, Chinese and Thai
by BudouX's models, which look at three characters on each side; Lao, Khmer, Myanmar and similar scripts at every
syllable, as there is no model. Punctuation belongs to the word before it, an opening bracket to the word after it. So
every decision needs a bounded lookahead, and text in parts is split like the whole text.

Source: BudouX (https://github.com/google/budoux); Unicode Standard Annex 29, section 4, on scripts without spaces.
"""

from __future__ import annotations

import bisect
import functools
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import budoux

LOOKAHEAD_CHARACTERS = 2
"""Characters after a possible first character of a word that the decision depends on."""
_LOOKBACK_CHARACTERS = 3

# First and last code points of scripts that are written without spaces between words.
_HAN = ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_KANA = ((0x3041, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
_THAI = ((0x0E01, 0x0E7F),)
_OTHERS = (
    (0x0E80, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x1950, 0x19DF),
    (0x1A20, 0x1AAF),
    (0xA000, 0xA4CF),
    (0xA9E0, 0xA9FF),
    (0xAA60, 0xAA7F),
)
_RANGES = sorted(
    (first, last, script)
    for script, ranges in (("han", _HAN), ("kana", _KANA), ("thai", _THAI), ("other", _OTHERS))
    for first, last in ranges
)
_STARTS = [first for first, _, _ in _RANGES]
_JOINS_NEXT = frozenset("เแโใไເແໂໃໄ\u1039\u17d2\u1a60")
"""Vowels written before their consonant, and signs that stack the next consonant under this one."""
_ENDS_WORD = frozenset("\u200b\u0f0b\u0f0d")
"""Zero-width space, and the marks between Tibetan syllables and after clauses."""


def script_without_spaces(character: str) -> str | None:
    """Name the script of a letter, if it is written without spaces: han, kana, thai or other; else None."""
    code = ord(character)
    if code < 0x0E01:
        return None
    place = bisect.bisect_right(_STARTS, code) - 1
    first, last, script = _RANGES[place]
    return script if first <= code <= last else None


@functools.cache
def _parser(language: str) -> budoux.Parser:
    import budoux

    load = {
        "ja": budoux.load_default_japanese_parser,
        "zh": budoux.load_default_simplified_chinese_parser,
        "th": budoux.load_default_thai_parser,
    }
    return load[language]()


def _opens(run: str, place: int) -> bool:
    """Whether a word begins at a character of a run without white space that is not its first."""
    before, here = run[place - 1], run[place]
    if before in _ENDS_WORD:
        return True
    scripts = script_without_spaces(before), script_without_spaces(here)
    if before.isascii() and here.isascii():
        return False
    category, category_before = unicodedata.category(here), unicodedata.category(before)
    if category[0] == "M" or here in _ENDS_WORD or before in _JOINS_NEXT or category == "Cf" or category_before == "Cf":
        return False
    if category_before in {"Ps", "Pi"}:
        return False
    if category in {"Ps", "Pi"}:
        return scripts[0] is not None or _is_wide_mark(before)
    if category[0] in "PSN" and category != "Nd":
        return False
    if _is_wide_mark(before):
        return True
    if scripts == (None, None):
        return False
    if category_before[0] == "P":
        return True
    if None in scripts:
        return category_before[0] != "S"
    if "other" in scripts:
        return True
    window = run[max(0, place - _LOOKBACK_CHARACTERS) : place + LOOKAHEAD_CHARACTERS + 1]
    kinds = {script_without_spaces(character) for character in window}
    language = "th" if scripts[1] == "thai" else "ja" if "kana" in kinds else "zh"
    return _begins_chunk(_parser(language).parse(window), min(place, _LOOKBACK_CHARACTERS))


def _begins_chunk(chunks: list[str], place: int) -> bool:
    start = 0
    for chunk in chunks:
        if start >= place:
            break
        start += len(chunk)
    return start == place


def _is_wide_mark(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF" and unicodedata.category(character)[0] == "P"


class WordFinder:
    """Assigns word numbers to the characters of a growing text.

    Attributes:
        num_words: number of words so far, of characters with a known word.
    """

    def __init__(self) -> None:
        self.num_words = 0
        self._run = ""  # since the last white space, as far as later decisions need it
        self._place = 0  # of the next undecided character of the run

    def push(self, text: str) -> list[int]:
        """Add text.

        Returns:
            The word number (from 0) of each character that is now decided, in order; -1 for white space.
        """
        found: list[int] = []
        for character in text:
            if character.isspace():
                found += self._decide(closed=True)
                self._run, self._place = "", 0
                found.append(-1)
            else:
                self._run += character
                found += self._decide(closed=False)
        return found

    def finish(self) -> list[int]:
        """Mark the text as complete; returns the remaining numbers. Another text may follow, as after white space."""
        found = self._decide(closed=True)
        self._run, self._place = "", 0
        return found

    def _decide(self, closed: bool) -> list[int]:
        found = []
        while self._place < len(self._run):
            place = self._place
            if place and not closed and place + LOOKAHEAD_CHARACTERS >= len(self._run):
                pair = self._run[place - 1 : place + 1]
                if not pair.isascii() and all(script_without_spaces(one) for one in pair):
                    break
            self.num_words += place == 0 or _opens(self._run, place)
            found.append(self.num_words - 1)
            self._place += 1
        if self._place > 64:  # characters that no later decision needs
            cut = self._place - 2 * _LOOKBACK_CHARACTERS
            self._run, self._place = self._run[cut:], self._place - cut
        return found


def word_spans(text: str) -> list[tuple[int, int]]:
    """First character, and the one after the last, of each word of a whole text."""
    finder = WordFinder()
    numbers = finder.push(text) + finder.finish()
    spans: list[tuple[int, int]] = []
    for place, number in enumerate(numbers):
        if number >= len(spans):
            spans.append((place, place + 1))
        elif number >= 0:
            spans[number] = (spans[number][0], place + 1)
    return spans


def split_words(text: str) -> list[str]:
    """Words of a whole text: ``text.split()``, and further splits in scripts without spaces."""
    return text.split() if text.isascii() else [text[start:end] for start, end in word_spans(text)]


def check_spaces(text: str) -> None:
    """Refuse a text that does not part its words by white space, where words are counted by ``text.split()``.

    Raises:
        ValueError: of the words that `split_words` finds, more than half are inside others of ``text.split()``.
    """
    apart, found = len(text.split()), len(split_words(text))
    if found > 2 * apart:
        raise ValueError(
            f"expected white space between the words of a text, found {apart} of {found} apart: {text[:40]!r}; write "
            "spaces between them, or leave the text out: units are aligned word by word"
        )


def white_space_words(text: str, words: Sequence[int]) -> list[int]:
    """Numbers of white-space words for those of `split_words`: manifests count words by ``text.split()``.

    Args:
        text: the whole text.
        words: numbers as `word_index` gives them for the text's tokens; -1 stays.
    """
    if text.isascii():
        return list(words)
    of = [len(text[: start + 1].split()) - 1 for start, _ in word_spans(text)]
    return [of[word] if 0 <= word < len(of) else word if word < 0 else len(text.split()) for word in words]
