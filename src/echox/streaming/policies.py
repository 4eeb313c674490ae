"""When may which part of the reply be spoken: speech policies, the trigger laboratory's candidates.

A policy sees a reply token by token and answers with `Release`s. Each says up to which token the text may now go to the
echo decoder and whether the segment ends there. Policies are pure: numbers and text in, decisions out; no model, no
clock. So each can be tested, replayed and measured alone, and a conversation may change its policy at any reply.

What every policy keeps, whatever the text:

* releases never go back, and final ones partition the reply: nothing is lost, nothing is said twice;
* a segment ends only where the next token opens a word, or at the end of the reply;
* a segment that holds its maximum ends at the next word (an echo decoder is trained on segments of a certain length).

| name | a segment ends | released |
|---|---|---|
| ``semantic`` | at a peak of the trigger's score | when it ends |
| ``punctuation`` | after . ! ? ; : and, from ``min_tokens`` on, a comma | when it ends |
| ``fixed`` | every ``every_tokens`` tokens (read/write) | when it ends |
| ``early_first`` | the first after a few words; then as its inner policy says | when it ends |
| ``word_by_word`` | as ``punctuation``, at commas only when it is long | token by token |
| ``whole`` | as late as the maximum allows | at the end of the reply |
| ``reference`` | ``semantic`` with the published numbers | when it ends |

Source: EchoX (arXiv 2509.09174), streaming inference, for the semantic trigger; read/write as in simultaneous
translation (wait-k, arXiv 1810.08398).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, Protocol

from echox.streaming.trigger import Trigger

REFERENCE_TRIGGER = Trigger(min_tokens=21, max_tokens=51, lookahead_tokens=5, threshold=0.1)
"""The published decision: 20 and 50 tokens, counted as the official code counts (see `trigger`)."""

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
    """The decision of one reply, fed token by token."""

    def push(self, score: float, text: str, opens_word: bool) -> Sequence[Release]:
        """Add a token; return what is decided by it.

        Args:
            score: the trigger's cosine of this token.
            text: what the token adds to the reply's text ("" for half a character).
            opens_word: the token begins a word, or is no text at all.

        Raises:
            ValueError: the score is not a number, or the reply was flushed already.
        """
        ...

    def flush(self) -> Sequence[Release]:
        """End the reply: the rest, final; nothing for a reply without tokens."""
        ...


class Policy(Protocol):
    """Numbers of a policy; holds no reply."""

    def state(self) -> PolicyState:
        """A fresh decision for one reply."""
        ...


# ---------------------------------------------------------------------------------------- cuts before a word


@dataclass
class _Open:
    """The segment that is being collected."""

    tokens: int = 0
    words: int = 0
    text: str = ""


class _Cutting(Protocol):
    def cuts(self, segment: _Open, following: str) -> bool: ...


class _CutState:
    """A policy that decides at each word whether the open segment ends before it."""

    def __init__(self, policy: _Cutting, eager: bool = False) -> None:
        self._policy, self._eager = policy, eager
        self._open, self._tokens, self._flushed = _Open(), 0, False

    def push(self, score: float, text: str, opens_word: bool) -> list[Release]:
        _check(self._flushed, self._tokens, score)
        found = []
        if opens_word and self._open.tokens and self._policy.cuts(self._open, text):
            found.append(Release(self._tokens, True))
            self._open = _Open()
        self._tokens += 1
        self._open.tokens += 1
        self._open.words += bool(opens_word)
        self._open.text += text
        if self._eager:
            found.append(Release(self._tokens, False))
        return found

    def flush(self) -> list[Release]:
        self._flushed = True
        return [Release(self._tokens, True)] if self._open.tokens else []


@dataclass(frozen=True)
class Punctuation:
    """A segment ends after punctuation, before the next word: one token of look-ahead ("3.5" and "e.g" stay whole).

    Attributes:
        min_tokens: a comma ends a segment that holds at least so many tokens.
        max_tokens: a segment that holds so many ends at the next word.

    Raises:
        ValueError: a number is out of range.
    """

    min_tokens: int = 4
    max_tokens: int = 30

    def __post_init__(self) -> None:
        _at_least_1(self)

    def cuts(self, segment: _Open, following: str) -> bool:
        """Whether a segment ends before a word that begins with ``following``."""
        if segment.tokens >= self.max_tokens or ends_sentence(segment.text, following):
            return True
        return segment.tokens >= self.min_tokens and _bare(segment.text).endswith(_COMMAS)

    def state(self) -> PolicyState:
        """See `Policy`."""
        return _CutState(self)


@dataclass(frozen=True)
class WordByWord(Punctuation):
    """Every token is released at once; segments end as in `Punctuation`.

    For a decoder that is itself incremental: the word-synchronous one says a word as soon as the words that it looks
    ahead to are complete. Nothing waits for a segment's end, so a comma ends only what grows long: cutting at every
    comma costs half a point of word errors (docs/streaming.md).
    """

    min_tokens: int = 16

    def state(self) -> PolicyState:
        """See `Policy`."""
        return _CutState(self, eager=True)


@dataclass(frozen=True)
class Fixed:
    """A segment every so many tokens, at the next word: read and write in turn.

    Attributes:
        every_tokens: what a segment holds at least.

    Raises:
        ValueError: fewer than one.
    """

    every_tokens: int = 8

    def __post_init__(self) -> None:
        _at_least_1(self)

    def cuts(self, segment: _Open, following: str) -> bool:
        """Whether a segment ends before a word that begins with ``following``."""
        return segment.tokens >= self.every_tokens

    def state(self) -> PolicyState:
        """See `Policy`."""
        return _CutState(self)


@dataclass(frozen=True)
class _FirstWords:
    words: int

    def cuts(self, segment: _Open, following: str) -> bool:
        return segment.words >= self.words or Punctuation(1).cuts(segment, following)


@dataclass(frozen=True)
class EarlyFirst:
    """A small first segment, so that speech starts early; the others as ``inner`` says.

    Attributes:
        inner: policy of all further segments.
        first_words: the first segment ends after so many words, or after punctuation before that.

    Raises:
        ValueError: fewer than one word.
    """

    inner: Policy
    first_words: int = 3

    def __post_init__(self) -> None:
        _at_least_1(self)

    def state(self) -> PolicyState:
        """See `Policy`."""
        return _EarlyState(self)


class _EarlyState:
    def __init__(self, policy: EarlyFirst) -> None:
        self._policy = policy
        self._state: PolicyState = _CutState(_FirstWords(policy.first_words))
        self._tokens, self._base, self._first = 0, 0, True

    def push(self, score: float, text: str, opens_word: bool) -> list[Release]:
        found = _shifted(self._state.push(score, text, opens_word), self._base)
        if found and self._first:  # the newest token is the first of the rest
            self._first, self._base, self._state = False, self._tokens, self._policy.inner.state()
            found += _shifted(self._state.push(score, text, opens_word), self._base)
        self._tokens += 1
        return found

    def flush(self) -> list[Release]:
        return _shifted(self._state.flush(), self._base)


# ---------------------------------------------------------------------------------------- semantic


@dataclass(frozen=True)
class Semantic:
    """A segment ends at a peak of the trigger's score.

    Attributes:
        trigger: the decision's numbers.
        limit_tokens: a segment that finds no peak ends at the next word once it holds so many tokens.

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


# ---------------------------------------------------------------------------------------- off-line


@dataclass(frozen=True)
class Whole:
    """Everything at the end of the reply: the off-line reference of quality.

    Attributes:
        max_tokens: a longer reply is cut after its last sentence that fits, or else at its last word that fits.

    Raises:
        ValueError: fewer than one.
    """

    max_tokens: int = 30

    def __post_init__(self) -> None:
        _at_least_1(self)

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
        _check(self.flushed, self.tokens, score)
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

POLICIES = ("semantic", "punctuation", "fixed", "early_first", "word_by_word", "whole", "reference")
"""Names that `make_policy` knows."""


def make_policy(name: str, trigger: Trigger, /, **numbers: Any) -> Policy:
    """A policy by name, with the model's trigger as the source of what ``numbers`` leave open.

    Args:
        name: one of `POLICIES`.
        trigger: of the model; its ``max_tokens`` stands where a policy has such a number and none is given.
        **numbers: attributes of the policy or, for a semantic one, of its trigger; ``early_first`` also takes the name
            of its ``inner`` policy (semantic if it is not given) and that one's numbers.

    Raises:
        ValueError: an unknown name or number, one out of range or of another kind.
    """
    if name not in POLICIES:
        raise ValueError(f"speech policy: expected one of {', '.join(POLICIES)}, found {name!r}")
    longest = {"max_tokens": trigger.max_tokens}
    if name == "early_first":
        inner = make_policy(numbers.pop("inner", "semantic"), trigger, **_without(numbers, "first_words"))
        return EarlyFirst(inner, **{key: numbers[key] for key in ("first_words",) if key in numbers})
    if name == "semantic" or name == "reference":
        base = trigger if name == "semantic" else REFERENCE_TRIGGER
        _check_names(name, numbers, {"limit_tokens", *(item.name for item in dataclasses.fields(Trigger))})
        chosen = dataclasses.replace(base, **_without(numbers, "limit_tokens"))
        return Semantic(chosen, numbers.get("limit_tokens", 2 * chosen.max_tokens))
    if name == "fixed":
        _check_names(name, numbers, {"every_tokens"})
        return Fixed(**numbers)
    plain: dict[str, Any] = {"punctuation": Punctuation, "word_by_word": WordByWord, "whole": Whole}
    _check_names(name, numbers, {item.name for item in dataclasses.fields(plain[name])})
    policy: Policy = plain[name](**{**longest, **numbers})
    return policy


def ends_sentence(text: str, following: str = "") -> bool:
    """Whether a sentence (or a line) ends between ``text`` and a word that begins with ``following``."""
    if "\n" in text[len(text.rstrip()) :] or "\n" in following[: len(following) - len(following.lstrip())]:
        return True
    bare = _bare(text)
    return bare.endswith(_SENTENCE_ENDS) and not _NO_SENTENCE.search(bare)


def _bare(text: str) -> str:
    """Text without the spaces and closing quotes at its end."""
    return text.rstrip().rstrip(_CLOSERS).rstrip()


def _shifted(releases: Sequence[Release], base: int) -> list[Release]:
    return [Release(release.end + base, release.final) for release in releases]


def _without(numbers: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in numbers.items() if key != name}


def _check(flushed: bool, tokens: int, score: float) -> None:
    if flushed:
        raise ValueError("speech policy: this reply was flushed; open a new state for the next reply")
    if score != score:
        raise ValueError(f"speech policy: token {tokens} has a score that is not a number: broken weights?")


def _check_names(policy: str, numbers: dict[str, Any], known: set[str]) -> None:
    for name, value in numbers.items():
        if name not in known:
            raise ValueError(f"speech policy {policy}: expected {', '.join(sorted(known))}, found {name!r}")
        if not isinstance(value, Real if name == "threshold" else Integral):
            raise ValueError(f"speech policy {policy}: expected {name} as a number of tokens, found {value!r}")


def _at_least_1(policy: Any) -> None:
    for item in dataclasses.fields(policy):
        value = getattr(policy, item.name)
        if item.name != "inner" and not (isinstance(value, Integral) and value >= 1):
            raise ValueError(f"speech policy: expected {item.name} of at least 1, found {value}; use a whole number")
