"""The words that a rule reads, split into marks and core, and an error for words that are not written yet."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from echox.verbalization.reading.language import LOOKAHEAD_WORDS, Reading, WrittenWord

LONGEST_KEPT = 32
"""Characters of the longest words that are kept in memory when they were read: texts of clients have longer ones."""

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
        return _split(word.text, word.starts_line)

    @functools.cached_property
    def raw(self) -> str:
        """The word as it is written."""
        return self.head + self.text + self.tail

    @property
    def intonation(self) -> str:
        """The audible punctuation after it: one of . , ! ? ; : or nothing."""
        found = _MELODY.search(self.tail)
        return "" if found is None else found[0] if len(found[0]) == 1 and found[0] != "…" else ","


def _split(written: str, starts_line: bool) -> Core:
    """The word apart from its signs; short words are kept, as each is looked at from all its neighbours."""
    return (_kept_split if len(written) <= LONGEST_KEPT else _split_anew)(written, starts_line)


def _split_anew(written: str, starts_line: bool) -> Core:
    match = _PARTS.match(written)
    assert match is not None, "the pattern matches any text"
    head, text, tail = match.groups()
    if _ABOUT.search(head + text[:1]) and not tail.endswith("~"):
        head, text = head[:-1], "~" + text
    return Core(head, text, tail, starts_line)


_kept_split = functools.lru_cache(maxsize=4096)(_split_anew)


class Window:
    """The current word, the words after it and the words before it.

    Args:
        words: written to their ends, the one at hand first.
        before: read already, newest last.
        complete: no more words come.
        form: rewrites a word before it is split, given the words that were written before it, and a function that
            gives the word that many words after it.

    Attributes:
        first: the current word.
    """

    def __init__(
        self,
        words: Sequence[WrittenWord],
        before: Sequence[WrittenWord],
        complete: bool,
        form: Callable[[WrittenWord, Sequence[WrittenWord], Callable[[int], WrittenWord | None]], WrittenWord]
        | None = None,
    ) -> None:
        self._written, self._complete, self._form = [*before, *words], complete, form
        self._read = len(before)
        self._cores: dict[int, Core] = {}
        self.first = self._core(self._read)

    def _core(self, place: int) -> Core:
        """A word of those that are known, split when it is first asked for."""
        core = self._cores.get(place)
        if core is None:
            word = self._written[place]
            if self._form is not None:
                word = self._form(word, self._written[:place], functools.partial(self._after, place))
            core = Core.of(word)
            self._cores[place] = core
        return core

    def at(self, place: int) -> Core | None:
        """The word that many words later; None at the end of the text.

        Raises:
            NeedsMore: it is not known yet whether there is one.
        """
        written = self._after(self._read, place)
        return self._core(self._read + place) if written is not None else None

    def _after(self, place: int, count: int) -> WrittenWord | None:
        """The written word that many words after one; None at the end of the text."""
        if place + count < len(self._written):
            return self._written[place + count]
        if self._complete or place + count - self._read > LOOKAHEAD_WORDS:
            return None
        raise NeedsMore

    def later(self, count: int) -> WrittenWord | None:
        """`at` of the word as it is written."""
        return self._after(self._read, count)

    def joined(self, place: int) -> Core | None:
        """The word that many words later, if no mark separates it from the one before it."""
        last = self.at(place - 1)
        if last is None or last.tail:
            return None
        core = self.at(place)
        return core if core is not None and not core.head and not core.starts_line else None

    def before(self, back: int = 1) -> str:
        """The core of an earlier word, "" if there is none."""
        return self._core(self._read - back).text if back <= self._read else ""

    def raw_before(self, back: int = 1) -> str:
        """An earlier word as it is written, "" if there is none."""
        return self._core(self._read - back).raw if back <= self._read else ""

    def begins_line_before(self, back: int = 1) -> bool:
        """Whether a line begins with an earlier word."""
        return back <= self._read and self._core(self._read - back).starts_line

    def tail_before(self, back: int = 1) -> str:
        """The marks after an earlier word."""
        return self._core(self._read - back).tail if back <= self._read else ""

    @property
    def in_quotes(self) -> bool:
        """Whether a quotation mark that opened before is open still, as far as the window goes."""
        earlier = map(self._core, reversed(range(self._read)))
        quoted = next((core for core in earlier if '"' in core.raw), None)
        return quoted is not None and '"' in quoted.head and '"' not in quoted.tail

    @property
    def opens_line(self) -> bool:
        """Whether the current word is the first of the text or of a line."""
        return not self._read or self.first.starts_line

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
