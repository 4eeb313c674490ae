"""The semantic trigger: it decides where the segments of a reply end.

While the language model writes, every token i has a score s_i = cos(h_i, lm_head row of "."), where h_i is the state
whose lm_head output is token i. The score peaks where a sentence ends. A segment ends at a local maximum of s once it
holds enough tokens and the score is high, or once it is long, whatever the score; the end of the reply ends the last.

The trigger is a pure, incremental state object: it sees numbers, never models, so it can be tested and measured alone.
It differs from the official code in two points, on purpose:

* A segment may end once it *holds* ``min_tokens`` tokens, as the paper says. The official code compares ``k - start``,
  which needs one token more (21 and 51 for the published 20 and 50). Its recorded decisions are reproduced by asking
  for one token more; see ``tests/streaming/reply_text/test_trigger.py``.
* The word-synchronous echo decoder needs whole words: a cut inside a word is moved to the last token of the word.

Source: EchoX (arXiv 2509.09174), streaming inference; numbers of the nano model: its configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segment:
    """Tokens ``[start, end)`` of a reply that are spoken together."""

    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Trigger:
    """The numbers of the trigger; ``state()`` starts the decisions for one reply.

    Attributes:
        min_tokens: a segment that holds at least this many tokens may end at a peak above ``threshold``.
        max_tokens: a segment that holds at least this many tokens ends at the next peak, whatever its score.
        lookahead_tokens: half width of the local-maximum window; a peak is known this many tokens late.
        threshold: cosine in [-1, 1] that a peak must exceed.

    Raises:
        ValueError: a number is out of range.
    """

    min_tokens: int = 20
    max_tokens: int = 50
    lookahead_tokens: int = 5
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if self.min_tokens < 1 or self.max_tokens < self.min_tokens:
            raise ValueError(
                f"trigger: expected 1 <= min_tokens <= max_tokens, found {self.min_tokens} and {self.max_tokens}; "
                "correct the trigger numbers of the configuration"
            )
        if self.lookahead_tokens < 0:
            raise ValueError(f"trigger: expected lookahead_tokens >= 0, found {self.lookahead_tokens}; use 0 or more")
        if not -1.0 <= self.threshold <= 1.0:
            raise ValueError(f"trigger: expected a cosine in [-1, 1] as threshold, found {self.threshold}")

    def state(self) -> TriggerState:
        """A new state for one reply."""
        return TriggerState(self)

    def segment(self, scores: Sequence[float], opens_word: Sequence[bool] | None = None) -> list[Segment]:
        """Segment a finished reply at once (the off-line form of ``TriggerState``).

        Args:
            scores: one score per token.
            opens_word: per token, whether it begins a word; None: every token does.

        Returns:
            Segments that partition ``[0, len(scores))``.

        Raises:
            ValueError: the two sequences differ in length.
        """
        n = len(scores)
        if opens_word is not None and len(opens_word) != n:
            raise ValueError(f"trigger: expected {n} word flags (one per score), found {len(opens_word)}")
        value = np.asarray(scores, dtype=np.float64)
        # A cut is allowed before token b if b opens a word; `next_word[b]` is the first such b' >= b (n: not yet seen).
        next_word = np.arange(n + 1)
        if opens_word is not None:
            for index in range(n - 1, -1, -1):
                next_word[index] = index if opens_word[index] else next_word[index + 1]
        segments: list[Segment] = []
        start = 0
        for k in range(n - self.lookahead_tokens):  # later tokens never see their whole window: the end flushes them
            held = k - start + 1
            window = value[max(0, k - self.lookahead_tokens) : k + self.lookahead_tokens + 1]
            peak = value[k] == window.max()
            if peak and (held >= self.max_tokens or (held >= self.min_tokens and value[k] > self.threshold)):
                end = int(next_word[k + 1])
                if end < n:
                    segments.append(Segment(start, end))
                    start = end
                    continue
                # There is no next token, or the word runs to the end of the reply: the flush is the cut.
                break
        if start < n:
            segments.append(Segment(start, n))
        return segments


class TriggerState:
    """The trigger of one reply, fed token by token.

    Example::

        state = trigger.state()
        for token in reply:
            segment = state.push(score_of(token), opens_word=begins_word(token))
            if segment is not None: speak(segment)
        last = state.flush()
    """

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger
        self._scores: list[float] = []
        self._opens: list[bool] = []
        self._start = 0
        self._waiting = False  # a cut was decided inside a word that has not ended yet
        self._flushed = False

    @property
    def num_tokens(self) -> int:
        """Tokens seen so far."""
        return len(self._scores)

    def push(self, score: float, opens_word: bool = True) -> Segment | None:
        """Add one token; return the segment that it shows to have ended, if any.

        Args:
            score: cos(state that predicts the token, lm_head row of ".").
            opens_word: whether this token begins a word (False for the second token of "Par|is").

        Raises:
            ValueError: the score is not a number, or the reply was flushed already.
        """
        if self._flushed:
            raise ValueError("trigger: this reply was flushed; open a new state for the next reply")
        if score != score:
            raise ValueError(
                f"trigger: token {len(self._scores)} has a score that is not a number: are the weights damaged?"
            )
        self._scores.append(float(score))
        self._opens.append(bool(opens_word))
        newest = len(self._scores) - 1
        if self._waiting and not opens_word:
            return None
        ended = self._cut(newest) if self._waiting else None
        rule = self.trigger
        k = newest - rule.lookahead_tokens
        held = k - self._start + 1
        if held < rule.min_tokens:
            return ended
        peak = self._scores[k] == max(self._scores[max(0, k - rule.lookahead_tokens) :])
        if not peak or not (held >= rule.max_tokens or self._scores[k] > rule.threshold):
            return ended
        for end in range(k + 1, newest + 1):
            if self._opens[end]:
                return self._cut(end)
        # No look-ahead token opens a word: the word may continue. Only the next word, or the end, can show that. (With
        # look-ahead this is never reached right after a cut: the new segment is still empty then.)
        self._waiting = True
        return ended

    def flush(self) -> Segment | None:
        """End the reply; return the segment that holds the rest, or None if nothing is left."""
        self._flushed = True
        end = len(self._scores)
        return self._cut(end) if end > self._start else None

    def _cut(self, end: int) -> Segment:
        segment = Segment(self._start, end)
        self._start, self._waiting = end, False
        return segment
