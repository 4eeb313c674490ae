"""The calls of one reply while it is written: which tokens may come next, and which of them are said."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from echox.tool_calls.call_grammar import CallConstraint
from echox.tool_calls.call_parser import CallParser
from echox.tool_calls.tools import ToolCall, ToolCallDelta


@dataclass(frozen=True)
class WrittenPiece:
    """A token of a reply.

    Attributes:
        token_id: the token.
        denoised: (H,) input of the echo decoder; None: the rest of a character at the end.
        text: that it adds.
        score: of the trigger.
    """

    token_id: int
    denoised: Tensor | None
    text: str
    score: float


class Calling:
    """Separates the tokens that are said from those of calls.

    Args:
        constraint: which tokens of the reply may come next.
    """

    def __init__(self, constraint: CallConstraint) -> None:
        self.constraint = constraint
        self._parser = CallParser(constraint.form)
        self._held: deque[WrittenPiece] = deque()  # not known yet whether they are said
        self._position = 0  # in the reply, of the first of them

    @property
    def begun(self) -> bool:
        """Whether a call has begun; nothing more is said after it."""
        return self._parser.calling

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls that are complete."""
        return tuple(self._parser.calls)

    def push(self, piece: WrittenPiece) -> list[ToolCallDelta]:
        """Add a token; return what it adds to calls. Then `said` has the tokens that are known to be said.

        Raises:
            ValueError: a call that is not written in the format.
        """
        self._held.append(piece)
        return self._parser.push(piece.text)

    def finish(self) -> None:
        """The reply is complete."""
        self._parser.finish()

    def said(self) -> Iterator[WrittenPiece]:
        """The next tokens that are said; of a token that also begins a call, its part."""
        end = self._parser.text_end
        while self._held and self._position + len(self._held[0].text) <= end:
            piece = self._held.popleft()
            self._position += len(piece.text)
            if not self.begun or piece.text:
                yield piece
        if self.begun:
            if self._held and self._position < end:
                piece = self._held[0]
                yield WrittenPiece(piece.token_id, piece.denoised, piece.text[: end - self._position], piece.score)
            self._position = end
            self._held.clear()
