"""The words that an English rule reads, split into marks and core, and an error for words that are not written yet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from echox.verbalization.language import LOOKAHEAD_WORDS, Reading, WrittenWord

_PARTS = re.compile(r"""^(["'“‘«‹(\[{*_~`|¿¡]*)(.*?)([.,!?;:…)\]}"'”’»›*_~`|]*)$""", re.DOTALL)
_ABOUT = re.compile(r"(?<!~)~[\d$€£.]$")
"""One tilde before an amount is a sign ("~50%"); two, or one on each side, mark text ("~~gone~~")."""
_MELODY = re.compile(r"\.\.+|…|[.,!?;:]")


class NeedsMore(Exception):
    """A reading depends on a word that is not written yet."""


@dataclass(frozen=True)
class Core:
    """A word without the marks around it: ``head`` + ``text`` + ``tail`` is what is written."""

    head: str
    text: str
    tail: str
    starts_line: bool = False

    @classmethod
    def of(cls, word: WrittenWord) -> Core:
        """Split a word into marks and core."""
        match = _PARTS.match(word.text)
        assert match is not None, "the pattern matches any text"
        head, text, tail = match.groups()
        if _ABOUT.search(head + text[:1]) and not tail.endswith("~"):
            head, text = head[:-1], "~" + text
        return cls(head, text, tail, word.starts_line)

    @property
    def raw(self) -> str:
        """The word as it is written."""
        return self.head + self.text + self.tail

    @property
    def intonation(self) -> str:
        """The audible punctuation after it: one of . , ! ? ; : or nothing."""
        found = _MELODY.search(self.tail)
        return "" if found is None else found[0] if len(found[0]) == 1 and found[0] != "…" else ","


class Window:
    """The current word, the words after it and the words before it.

    Args:
        words: written to their ends, the one at hand first.
        before: read already, newest last.
        complete: no more words come.
    """

    def __init__(self, words: Sequence[WrittenWord], before: Sequence[WrittenWord], complete: bool) -> None:
        self._words, self._complete = words, complete
        self._before = [Core.of(word) for word in before]
        self._cores: dict[int, Core] = {}

    def at(self, place: int) -> Core | None:
        """The word that many words later; None at the end of the text.

        Raises:
            NeedsMore: it is not known yet whether there is one.
        """
        if place >= len(self._words):
            if self._complete or place > LOOKAHEAD_WORDS:
                return None
            raise NeedsMore
        if place not in self._cores:
            self._cores[place] = Core.of(self._words[place])
        return self._cores[place]

    @property
    def first(self) -> Core:
        """The current word."""
        core = self.at(0)
        assert core is not None, "there is a word to read"
        return core

    def joined(self, place: int) -> Core | None:
        """The word that many words later, if no mark separates it from the one before it."""
        last = self.at(place - 1)
        if last is None or last.tail:
            return None
        core = self.at(place)
        return core if core is not None and not core.head and not core.starts_line else None

    def before(self, back: int = 1) -> str:
        """The core of an earlier word, "" if there is none."""
        return self._before[-back].text if back <= len(self._before) else ""

    def raw_before(self, back: int = 1) -> str:
        """An earlier word as it is written, "" if there is none."""
        return self._before[-back].raw if back <= len(self._before) else ""

    def begins_line_before(self, back: int = 1) -> bool:
        """Whether a line begins with an earlier word."""
        return back <= len(self._before) and self._before[-back].starts_line

    def tail_before(self, back: int = 1) -> str:
        """The marks after an earlier word."""
        return self._before[-back].tail if back <= len(self._before) else ""

    @property
    def in_quotes(self) -> bool:
        """Whether a quotation mark that opened before is open still, as far as the window goes."""
        quoted = next((core for core in reversed(self._before) if '"' in core.raw), None)
        return quoted is not None and '"' in quoted.head and '"' not in quoted.tail

    @property
    def opens_line(self) -> bool:
        """Whether the current word is the first of the text or of a line."""
        return not self._before or self.first.starts_line

    @property
    def opens_sentence(self) -> bool:
        """Whether a sentence begins with it, as far as marks show."""
        return self.opens_line or bool(set(self.tail_before()) & set(".!?:"))

    def last_of_line(self, place: int) -> bool:
        """Whether the text or the line ends after the word that many words later."""
        following = self.at(place + 1)
        return following is None or following.starts_line


def say(words: str, last: Core, num_words: int = 1) -> Reading:
    """A reading of some words, with the audible marks of the last one."""
    return Reading(num_words, words + last.intonation if words else "")
