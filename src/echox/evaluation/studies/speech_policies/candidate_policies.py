"""Speech policies that the comparison of policies compares with those of the library: punctuation, fixed, early first.

None of them was better than the policies that `echox.streaming.reply_text.policies` keeps (docs/streaming.md has the
figures). A study gives them to a `Session` as objects, so no setting or recipe names them.

| name | a segment ends | released |
|---|---|---|
| ``punctuation`` | after . ! ? ; : and, from ``min_tokens`` on, a comma | when it ends |
| ``fixed`` | every ``every_tokens`` tokens (read/write) | when it ends |
| ``early_first`` | the first after a few words; then as its inner policy says | when it ends |

Source: read/write as in simultaneous translation (wait-k, Ma et al. 2019, https://arxiv.org/abs/1810.08398).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from echox.streaming.reply_text.policies import (
    POLICIES,
    CutState,
    OpenSegment,
    Policy,
    PolicyState,
    Release,
    WordByWord,
    check_at_least_1,
    check_numbers,
    make_policy,
)
from echox.streaming.reply_text.trigger import Trigger

CANDIDATE_POLICIES = (*POLICIES, "punctuation", "fixed", "early_first")
"""Names that `candidate_policy` knows."""


@dataclass(frozen=True)
class Punctuation(WordByWord):
    """The segments of `WordByWord`, with commas from ``min_tokens`` on; a segment is released when it ends."""

    min_tokens: int = 4

    def state(self) -> PolicyState:
        """See `Policy`."""
        return CutState(self)


@dataclass(frozen=True)
class Fixed:
    """A segment ends at the next word once it holds a fixed number of tokens: read and write in turn.

    Attributes:
        every_tokens: what a segment holds at least.

    Raises:
        ValueError: fewer than one.
    """

    every_tokens: int = 8

    def __post_init__(self) -> None:
        check_at_least_1(every_tokens=self.every_tokens)

    def cuts(self, segment: OpenSegment, following: str) -> bool:
        """Whether a segment ends before a word that begins with ``following``."""
        return segment.tokens >= self.every_tokens

    def state(self) -> PolicyState:
        """See `Policy`."""
        return CutState(self)


@dataclass(frozen=True)
class _FirstWords:
    words: int

    def cuts(self, segment: OpenSegment, following: str) -> bool:
        return segment.words >= self.words or Punctuation(1).cuts(segment, following)


@dataclass(frozen=True)
class EarlyFirst:
    """A small first segment, so that speech starts early; all further segments follow another policy.

    Attributes:
        inner: policy of all further segments.
        first_words: the first segment ends after this many words, or after punctuation before that.

    Raises:
        ValueError: fewer than one word.
    """

    inner: Policy
    first_words: int = 3

    def __post_init__(self) -> None:
        check_at_least_1(first_words=self.first_words)

    def state(self) -> PolicyState:
        """See `Policy`."""
        return _EarlyState(self)


class _EarlyState:
    def __init__(self, policy: EarlyFirst) -> None:
        self._policy = policy
        self._state: PolicyState = CutState(_FirstWords(policy.first_words))
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


def candidate_policy(name: str, trigger: Trigger, /, **numbers: float) -> Policy:
    """A policy of the study, or of the library, by name.

    Args:
        name: one of `CANDIDATE_POLICIES`.
        trigger: of the model; see `make_policy`.
        **numbers: attributes of the policy. After the first segment ``early_first`` is ``semantic``, and takes its
            numbers too.

    Raises:
        ValueError: an unknown name or number, one out of range or of another kind.
    """
    if name not in CANDIDATE_POLICIES:
        raise ValueError(f"speech policy: expected one of {', '.join(CANDIDATE_POLICIES)}, found {name!r}")
    if name == "early_first":
        own = {key: value for key, value in numbers.items() if key == "first_words"}
        others = {key: value for key, value in numbers.items() if key != "first_words"}
        check_numbers(name, own, ["first_words"])
        return EarlyFirst(make_policy("semantic", trigger, **others), **{key: int(value) for key, value in own.items()})
    if name == "fixed":
        check_numbers(name, numbers, ["every_tokens"])
        return Fixed(**{key: int(value) for key, value in numbers.items()})
    if name == "punctuation":
        check_numbers(name, numbers, [item.name for item in dataclasses.fields(Punctuation)])
        return Punctuation(**{"max_tokens": trigger.max_tokens, **{key: int(value) for key, value in numbers.items()}})
    return make_policy(name, trigger, **numbers)


def _shifted(releases: Sequence[Release], base: int) -> list[Release]:
    return [Release(release.end + base, release.final) for release in releases]
