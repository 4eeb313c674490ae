"""Speech policies: when which part of a reply may be spoken.

A policy reads a reply token by token and answers with `Release`s. Each says up to which token the text may now go to
the echo decoder, and whether the segment ends there. Policies are pure: numbers and text in, decisions out; no model,
no clock. So each can be tested and measured alone, and a conversation may change its policy at any reply.

These rules hold for every policy and every text:

* releases never go back, and the final ones partition the reply: no token is lost, none is released twice;
* a segment ends only where the next token begins a word, or at the end of the reply;
* a segment that holds its maximum ends at the next word (an echo decoder is trained on segments of limited length).

| name | a segment ends | released |
|---|---|---|
| ``word_by_word`` | after . ! ? ; : and, once it is long, a comma | token by token |
| ``semantic`` | at a peak of the trigger's score | when it ends |
| ``reference`` | ``semantic`` with the published numbers | when it ends |
| ``whole`` | as late as the maximum allows | at the end of the reply |

Policies that were compared and not kept are in `echox.evaluation.studies.speech_policies.candidate_policies`.

Source: EchoX (arXiv 2509.09174), streaming inference, for the semantic trigger.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Protocol

from echox.streaming.reply_text.trigger import Trigger

REFERENCE_TRIGGER = Trigger(min_tokens=21, max_tokens=51, lookahead_tokens=5, threshold=0.1)
"""The published numbers: 20 and 50 tokens, counted as the official code counts (see `trigger`)."""

_CLOSERS = "\"')]}»”’*_"
_SENTENCE_ENDS = tuple(".!?;:…。！？；：")
_COMMAS = tuple(",，、")
# "1." of a list, "J." of a name: a period that ends no sentence.
_NO_SENTENCE = re.compile(r"(^\W*\d+|(^|[\W_])[^\W\d_])\.$")


@dataclass(frozen=True)
class Release:
    """Tokens of the open segment up to ``end`` (not included) may be spoken; ``final``: the segment ends there."""

    end: int
    final: bool


class PolicyState(Protocol):
    """The decisions for one reply, token by token."""

    def push(self, score: float, text: str, opens_word: bool) -> Sequence[Release]:
        """Add a token; return what it decides.

        Args:
            score: the trigger's cosine of this token.
            text: what the token adds to the reply's text ("" for a part of a character).
            opens_word: the token begins a word, or is no text at all.

        Raises:
            ValueError: the score is not a number, or the reply was flushed already.
        """
        ...

    def flush(self) -> Sequence[Release]:
        """End the reply: the rest is released and final; nothing for a reply without tokens."""
        ...


class Policy(Protocol):
    """The numbers of a policy; it holds no reply."""

    def state(self) -> PolicyState:
        """A new state for one reply."""
        ...


# ---------------------------------------------------------------------------------------- cuts before a word


@dataclass
class OpenSegment:
    """The segment that is being collected: how many tokens and words it holds, and its text."""

    tokens: int = 0
    words: int = 0
    text: str = ""


class SegmentRule(Protocol):
    """A rule that decides before each word whether the open segment ends."""

    def cuts(self, segment: OpenSegment, following: str) -> bool:
        """Whether the segment ends before a word that begins with ``following``."""
        ...


class CutState:
    """The state of a policy that decides before each word whether the open segment ends.

    Args:
        rule: decides.
        release_each_token: release every token at once; else a segment is released when it ends.
    """

    def __init__(self, rule: SegmentRule, release_each_token: bool = False) -> None:
        self._rule, self._release_each_token = rule, release_each_token
        self._open, self._tokens, self._flushed = OpenSegment(), 0, False

    def push(self, score: float, text: str, opens_word: bool) -> list[Release]:
        """See `PolicyState`."""
        _check_push(self._flushed, self._tokens, score)
        found = []
        if opens_word and self._open.tokens and self._rule.cuts(self._open, text):
            found.append(Release(self._tokens, True))
            self._open = OpenSegment()
        self._tokens += 1
        self._open.tokens += 1
        self._open.words += bool(opens_word)
        self._open.text += text
        if self._release_each_token:
            found.append(Release(self._tokens, False))
        return found

    def flush(self) -> list[Release]:
        """See `PolicyState`."""
        self._flushed = True
        return [Release(self._tokens, True)] if self._open.tokens else []


@dataclass(frozen=True)
class WordByWord:
    """Every token is released at once; a segment ends after punctuation, before the next word.

    For a decoder that is itself incremental: the word-synchronous one says a word as soon as the words that it looks
    ahead to are complete. The decision looks one token ahead, so "3.5" and "e.g" stay whole. Nothing waits for the end
    of a segment, so a comma ends long segments only: cutting at every comma costs half a point of word errors
    (docs/streaming.md).

    Attributes:
        min_tokens: a comma ends a segment that holds at least this many tokens.
        max_tokens: a segment that holds this many tokens ends at the next word.

    Raises:
        ValueError: a number is out of range.
    """

    min_tokens: int = 16
    max_tokens: int = 30

    def __post_init__(self) -> None:
        check_at_least_1(min_tokens=self.min_tokens, max_tokens=self.max_tokens)

    def cuts(self, segment: OpenSegment, following: str) -> bool:
        """Whether a segment ends before a word that begins with ``following``."""
        if segment.tokens >= self.max_tokens or ends_sentence(segment.text, following):
            return True
        return segment.tokens >= self.min_tokens and _bare(segment.text).endswith(_COMMAS)

    def state(self) -> PolicyState:
        """See `Policy`."""
        return CutState(self, release_each_token=True)


# ---------------------------------------------------------------------------------------- semantic


@dataclass(frozen=True)
class Semantic:
    """A segment ends at a peak of the trigger's score.

    Attributes:
        trigger: the numbers of the decision.
        limit_tokens: a segment without a peak ends at the next word once it holds this many tokens.

    Raises:
        ValueError: a limit below the trigger's ``max_tokens``.
    """

    trigger: Trigger
    limit_tokens: int

    def __post_init__(self) -> None:
        if self.limit_tokens < self.trigger.max_tokens:
            raise ValueError(
                f"limit_tokens: expected at least the trigger's max_tokens ({self.trigger.max_tokens}), found "
                f"{self.limit_tokens}; raise it"
            )

    def state(self) -> PolicyState:
        """See `Policy`."""
        return _SemanticState(self)


class _SemanticState:
    def __init__(self, policy: Semantic) -> None:
        self._policy = policy
        self._trigger = policy.trigger.state()
        self._tokens = self._start = self._base = 0  # _base: where the trigger began to count

    def push(self, score: float, text: str, opens_word: bool) -> list[Release]:
        found = []
        if opens_word and self._tokens - self._start >= self._policy.limit_tokens:
            found.append(Release(self._tokens, True))
            self._trigger, self._base = self._policy.trigger.state(), self._tokens
        segment = self._trigger.push(score, opens_word)
        if segment is not None:
            found.append(Release(self._base + segment.end, True))
        if found:
            self._start = found[-1].end
        self._tokens += 1
        return found

    def flush(self) -> list[Release]:
        segment = self._trigger.flush()
        return [] if segment is None else [Release(self._base + segment.end, True)]


# ---------------------------------------------------------------------------------------- at the end


@dataclass(frozen=True)
class Whole:
    """Everything is released at the end of the reply: what quality is compared with.

    Attributes:
        max_tokens: a longer reply is cut after its last sentence that fits, or else at its last word that fits.

    Raises:
        ValueError: fewer than one.
    """

    max_tokens: int = 30

    def __post_init__(self) -> None:
        check_at_least_1(max_tokens=self.max_tokens)

    def state(self) -> PolicyState:
        """See `Policy`."""
        return _WholeState(self)


@dataclass
class _WholeState:
    policy: Whole
    text: str = ""
    tokens: int = 0
    flushed: bool = False
    words: list[int] = field(default_factory=list)  # tokens that open a word
    sentences: list[int] = field(default_factory=list)  # those of them that follow a sentence

    def push(self, score: float, text: str, opens_word: bool) -> list[Release]:
        _check_push(self.flushed, self.tokens, score)
        if opens_word and self.tokens:
            self.words.append(self.tokens)
            if ends_sentence(self.text, text):
                self.sentences.append(self.tokens)
        self.text += text
        self.tokens += 1
        return []

    def flush(self) -> list[Release]:
        self.flushed = True
        found, start = [], 0
        while self.tokens - start > self.policy.max_tokens:
            fits = range(start + 1, start + self.policy.max_tokens + 1)
            last = [max((at for at in places if at in fits), default=0) for places in (self.sentences, self.words)]
            # A word that alone is longer than the maximum is not cut.
            end = last[0] or last[1] or min((at for at in self.words if at > start), default=0)
            if not end:
                break
            found.append(Release(end, True))
            start = end
        return [*found, Release(self.tokens, True)] if self.tokens else []


# ---------------------------------------------------------------------------------------- by name

POLICIES = ("word_by_word", "semantic", "reference", "whole")
"""Names that `make_policy` knows."""


def make_policy(name: str, trigger: Trigger, /, **numbers: float) -> Policy:
    """A policy by name; numbers that are not given are the model's.

    Args:
        name: one of `POLICIES`.
        trigger: of the model; its ``max_tokens`` is used where a policy has such a number and none is given.
        **numbers: attributes of the policy or, for a semantic one, of its trigger.

    Raises:
        ValueError: an unknown name or number, one out of range or of another kind.
    """
    if name not in POLICIES:
        raise ValueError(f"speech policy: expected one of {', '.join(POLICIES)}, found {name!r}")
    if name in ("semantic", "reference"):
        check_numbers(name, numbers, {"limit_tokens", *(item.name for item in dataclasses.fields(Trigger))})
        base = trigger if name == "semantic" else REFERENCE_TRIGGER
        return _semantic(base, numbers)
    kind = WordByWord if name == "word_by_word" else Whole
    check_numbers(name, numbers, {item.name for item in dataclasses.fields(kind)})
    return kind(**{"max_tokens": trigger.max_tokens, **{key: int(value) for key, value in numbers.items()}})


def _semantic(base: Trigger, numbers: Mapping[str, float]) -> Semantic:
    changes = {name: value for name, value in numbers.items() if name != "limit_tokens"}
    trigger = dataclasses.replace(base, **changes)  # type: ignore[arg-type]  # Trigger has whole numbers, checked above
    return Semantic(trigger, int(numbers.get("limit_tokens", 2 * trigger.max_tokens)))


def ends_sentence(text: str, following: str = "") -> bool:
    """Whether a sentence (or a line) ends between ``text`` and a word that begins with ``following``."""
    if "\n" in text[len(text.rstrip()) :] or "\n" in following[: len(following) - len(following.lstrip())]:
        return True
    bare = _bare(text)
    return bare.endswith(_SENTENCE_ENDS) and not _NO_SENTENCE.search(bare)


def _bare(text: str) -> str:
    """Text without the spaces and closing quotes at its end."""
    return text.rstrip().rstrip(_CLOSERS).rstrip()


def _check_push(flushed: bool, tokens: int, score: float) -> None:
    if flushed:
        raise ValueError("speech policy: this reply was flushed; open a new state for the next reply")
    if score != score:
        raise ValueError(f"speech policy: token {tokens} has a score that is not a number; are the weights damaged?")


def check_numbers(policy: str, numbers: Mapping[str, object], known: Collection[str]) -> None:
    """Check the names and kinds of a policy's numbers.

    Raises:
        ValueError: a name that is not known, or a value that is not a whole number (``threshold``: not a number).
    """
    for name, value in numbers.items():
        if name not in known:
            raise ValueError(f"speech policy {policy}: expected {', '.join(sorted(known))}, found {name!r}")
        if not isinstance(value, Real if name == "threshold" else Integral):
            raise ValueError(f"speech policy {policy}: expected {name} as a number of tokens, found {value!r}")


def check_at_least_1(**numbers: int) -> None:
    """Check that a policy's numbers are whole and positive.

    Raises:
        ValueError: one is not.
    """
    for name, value in numbers.items():
        if not (isinstance(value, Integral) and value >= 1):
            raise ValueError(f"speech policy: expected {name} of at least 1, found {value}; use a whole number")
