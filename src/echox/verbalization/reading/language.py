"""The interface of a language's rules, and the reading of whole texts (no rules of a language are here).

A language reads white-space words from left to right. It may look at the words that it has read, and at most
`LOOKAHEAD_WORDS` ahead, so text can be verbalised while it is still being written: `verbalize` and the streaming engine
ask the same questions in the same order, and get the same answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

LOOKAHEAD_WORDS = 5
"""A reading depends on the current word and at most this many words after it."""


class WrittenWord(NamedTuple):
    """A word as ``text.split()`` gives it, and the white space before it."""

    text: str
    space: str = " "

    @property
    def starts_line(self) -> bool:
        """Whether a line begins with it."""
        return "\n" in self.space


@dataclass(frozen=True)
class Reading:
    """How the next words are spoken.

    Attributes:
        num_words: written words that it covers, at least one.
        spoken: what is said for them, with punctuation for the intonation; "" where a person says nothing (an
            emoji, a list dash); None: said as they are written.
        problem: why they cannot all be said in this language. They are then reported, not passed over; `spoken` has
            what could be read, and the rest as it is written.
    """

    num_words: int = 1
    spoken: str | None = None
    problem: str | None = None


class SpokenLanguage(Protocol):
    """The rules of a language that turn written words into spoken ones; the same words give the same reading."""

    @property
    def code(self) -> str:
        """ISO 639-1, as in ``LANGUAGES``."""
        ...

    @property
    def has_rules(self) -> bool:
        """Whether there are rules; without them text stays as it is written."""
        ...

    def read(self, words: Sequence[WrittenWord], before: Sequence[WrittenWord], complete: bool) -> Reading | None:
        """Read the first of some words, and those that belong to it.

        Args:
            words: what follows, at least one word; each is written to its end.
            before: the words that were read last, newest last; none at the start of the text.
            complete: no more words come.

        Returns:
            The reading; None while it depends on words that are not written yet. With ``complete``, or
            `LOOKAHEAD_WORDS` + 1 words, never None.
        """
        ...


class PlainText:
    """A language without rules: everything is spoken as it is written.

    Args:
        code: of the language.
    """

    has_rules = False

    def __init__(self, code: str) -> None:
        self.code = code

    def read(self, words: Sequence[WrittenWord], before: Sequence[WrittenWord], complete: bool) -> Reading:
        """See `SpokenLanguage.read`."""
        return Reading()


def written_words(text: str) -> list[WrittenWord]:
    """Words of a text, as ``text.split()`` finds them, each with the white space before it."""
    words, end = [], 0
    for match in re.finditer(r"\S+", text):
        words.append(WrittenWord(match[0], text[end : match.start()]))
        end = match.end()
    return words


def readings(text: str, language: SpokenLanguage) -> Iterator[tuple[str, Reading]]:
    """The words of a whole text that are read together, with single spaces, and their reading."""
    words = written_words(text)
    place = 0
    while place < len(words):
        ahead = words[place : place + LOOKAHEAD_WORDS + 1]
        reading = language.read(ahead, words[max(0, place - LOOKAHEAD_WORDS) : place], True)
        assert reading is not None, "complete words have a reading"
        yield " ".join(word.text for word in ahead[: reading.num_words]), reading
        place += reading.num_words


def verbalize(text: str, language: SpokenLanguage) -> str:
    """A whole text in spoken words, with single spaces between words.

    What cannot be said (`Reading.problem`) stays as it is written: a synthesiser may know more than these rules.
    """
    said = [written if reading.spoken is None else reading.spoken for written, reading in readings(text, language)]
    return re.sub(r" +([.,?!;:](?= |$))", r"\1", " ".join(part for part in said if part))
