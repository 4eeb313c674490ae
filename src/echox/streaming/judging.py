"""Judges a question that may not be complete, while its prompt is run: see `echox.models.echox.turn_head`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from echox.models.echox.turn_head import turn_features
from echox.streaming.engine import Position
from echox.streaming.events import Judged


class Judging:
    """Of one question.

    Args:
        head: judges features (D,) of `turn_features`.
    """

    def __init__(self, head: Callable[[Tensor], float]) -> None:
        self._head = head
        self._last_heard: Tensor | None = None

    def follow(self, positions: Sequence[Position], states: Tensor) -> None:
        """A part of the prompt was run: states (n, H) of its positions, or more."""
        heard = [index for index, one in enumerate(positions) if not isinstance(one, int)]
        if heard:
            self._last_heard = states[heard[-1]]

    def judge(self, end: Tensor, heard: Tensor | None) -> Judged | None:
        """The judgement; None: the question has no audio, or its memory was there already.

        Args:
            end: (H,) state at the last position of the prompt.
            heard: (K, H) inputs of its last audio; None: it has none.
        """
        if heard is None or self._last_heard is None:
            return None
        return Judged(self._head(turn_features(end, self._last_heard, heard)))
