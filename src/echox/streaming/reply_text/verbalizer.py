"""Written tokens to spoken words, while the reply is still being written.

Words that are spoken as they are written keep the states of their tokens. Others ("$42.50", "Dr.", an emoji) are
replaced by the words that a person says, or by nothing. Those words have no states of the language model: the caller
takes text embeddings for them. A word is returned as soon as its reading is certain: a plain one when it is complete,
"5" when the word after it shows whether it counts kilometers; at most `LOOKAHEAD_WORDS` words later.
"""

from __future__ import annotations

import dataclasses
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from echox.verbalization import LOOKAHEAD_WORDS, Reading, SpokenLanguage, WrittenWord

_MELODY = ".,?!;:"  # a reading of these alone is silent


@dataclass(frozen=True)
class WrittenToken:
    """A token of the reply.

    Attributes:
        state: (H,) input of the echo decoder.
        text: what it adds to the reply's text; "" for a part of a character.
        start, end: the position of that text in the reply, in characters.
        word: its word by `WordCounter`; -1 for special tokens.
    """

    state: Tensor
    text: str
    start: int
    end: int
    word: int = 0

    @property
    def special(self) -> bool:
        """Whether it is no text at all, such as the end of a turn."""
        return self.word < 0


@dataclass(frozen=True)
class SpokenRun:
    """Written words and how they are spoken.

    Attributes:
        tokens: spoken with their own states; empty for a replaced or silent run.
        spoken: what is spoken in place of the tokens; None if the tokens are spoken.
        start, end: the position of the written words in the reply, in characters.
        problem: why they cannot be spoken.
        ends_segment: the run holds no words, it marks the end of a segment.
    """

    tokens: tuple[WrittenToken, ...] = ()
    spoken: str | None = None
    start: int = 0
    end: int = 0
    problem: str | None = None
    ends_segment: bool = False

    @property
    def special(self) -> bool:
        """Whether it is a token that belongs to no word."""
        return bool(self.tokens) and self.tokens[0].special


@dataclass
class _Word:
    text: str = ""
    space: str = ""
    tokens: list[WrittenToken] = field(default_factory=list)
    shares_token: bool = False  # with another word, so it has no state of its own

    @property
    def written(self) -> WrittenWord:
        return WrittenWord(self.text, self.space)


class Verbalizer:
    """Groups the tokens of one reply into written words and reads them.

    Args:
        language: rules of how words are spoken; without rules every token is returned unchanged.
    """

    def __init__(self, language: SpokenLanguage) -> None:
        self.language = language
        self._open = _Word()
        self._parts: list[WrittenToken] = []  # of a character that is not complete: its word is not known yet
        self._queue: deque[_Word | SpokenRun] = deque()  # complete words; ends of segments and special tokens
        self._before: deque[WrittenWord] = deque(maxlen=LOOKAHEAD_WORDS)

    def push(self, token: WrittenToken) -> list[SpokenRun]:
        """Add a token; return the runs whose reading is now certain."""
        if not self.language.has_rules:
            return [SpokenRun((token,), start=token.start, end=token.end)]
        if token.special:
            self._close()
            self._queue.append(SpokenRun((token,), start=token.start, end=token.end))
            return self._read(complete=False)
        if not token.text:
            self._parts.append(token)
            return []
        pieces = re.findall(r"\s*\S+\s*$|\s*\S+|\s+", token.text)
        place = token.start
        for piece in pieces:
            self._add(dataclasses.replace(token, text=piece, start=place, end=place + len(piece)), len(pieces) > 1)
            place += len(piece)
        return self._read(complete=False)

    def _add(self, token: WrittenToken, shared: bool) -> None:
        """Add a token, or the piece of one that belongs to one word, after the parts of its first character."""
        text = token.text
        if text[:1].isspace():
            self._close()
        self._open.tokens += [*self._parts, token]
        self._parts = []
        self._open.shares_token |= shared
        if not self._open.text:
            self._open.space += text[: len(text) - len(text.lstrip())]
        self._open.text += text.strip()
        if text.strip() and text[-1].isspace():
            self._close()
            self._open.space = text[len(text.rstrip()) :]

    def end_segment(self) -> list[SpokenRun]:
        """The segment ends after the words that were pushed, or after the run that the last of them begins."""
        end = SpokenRun(ends_segment=True)
        if not self.language.has_rules:
            return [end]
        self._close()
        self._queue.append(end)
        return self._read(complete=False)

    def finish(self) -> list[SpokenRun]:
        """End the reply: return the rest. White space at its end belongs to no word."""
        self._close()
        return self._read(complete=True)

    def _close(self) -> None:
        if self._open.text:
            self._queue.append(self._open)
            self._open = _Word()

    def _read(self, complete: bool) -> list[SpokenRun]:
        found: list[SpokenRun] = []
        while self._queue:
            head = self._queue[0]
            if isinstance(head, SpokenRun):
                found.append(head)
                self._queue.popleft()
                continue
            words = [one for one in self._queue if isinstance(one, _Word)][: LOOKAHEAD_WORDS + 1]
            reading = self.language.read([word.written for word in words], tuple(self._before), complete)
            if reading is None:
                break
            found += self._take(words[: reading.num_words], reading)
        return found

    def _take(self, words: Sequence[_Word], reading: Reading) -> list[SpokenRun]:
        """The run of these words; the end of a segment between them follows it."""
        between: list[SpokenRun] = []
        left = len(words)
        while left:
            one = self._queue.popleft()
            if isinstance(one, SpokenRun):
                between.append(one)
            else:
                left -= 1
        self._before.extend(word.written for word in words)
        tokens = tuple(token for word in words for token in word.tokens)
        start, end = tokens[0].start, max(token.end for token in tokens)
        if reading.problem is not None:
            return [SpokenRun(start=start, end=end, problem=reading.problem), *between]
        shared = any(word.shares_token for word in words)
        if reading.spoken is None and shared:
            reading = Reading(len(words), " ".join(word.text for word in words))
        if reading.spoken is None:
            return [SpokenRun(tokens, start=start, end=end), *between]
        if not reading.spoken.strip(_MELODY).strip():
            return [SpokenRun(spoken="", start=start, end=end), *between]
        kept = _tokens_of(tokens, reading.spoken) if len(words) == 1 and not shared else ()
        spoken = None if kept else reading.spoken
        return [SpokenRun(kept, spoken, start, end), *between]


def _tokens_of(tokens: Sequence[WrittenToken], spoken: str) -> tuple[WrittenToken, ...]:
    """The tokens that spell the spoken text, if the other tokens hold only marks; else none."""
    kept: list[WrittenToken] = []
    place = 0
    for token in tokens:
        text = token.text.strip()
        if text and spoken.startswith(text, place):
            kept.append(token)
            place += len(text)
        elif any(character.isalnum() for character in text) or not token.text:
            return ()
    return tuple(kept) if place == len(spoken) else ()
