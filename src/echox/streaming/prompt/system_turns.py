"""The language model's memory of system prompts: run once, shared by all conversations that begin with the same one.

A conversation's first question waits for its prompt, of which the system turn may be the most part. Its keys and values
do not depend on what follows, so the first conversation leaves a copy, and the next ones begin with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from echox.models.decoding.row_cache import SavedRow
from echox.streaming.prompt.messages import Message
from echox.tool_calls.tools import Tool

MAX_SYSTEM_TURNS = 8
"""System prompts that are remembered: the last used ones."""

MAX_BYTES = 64 * 1024 * 1024
"""Size of all memories; a system prompt that would need more by itself is run for each conversation."""

MAX_BYTES_ON_GPU = 1024 * 1024 * 1024
"""The same where the models are large: 8,192 positions of a Llama of 8 B weights in bfloat16."""

_QUESTIONS = ("a", "z")
"""Two questions: what their prompts begin with alike is the system turn, whatever the chat template writes."""

P = TypeVar("P")


@dataclass(frozen=True)
class SystemTurn:
    """What a prompt begins with: the text of the system turn ("": there is none), and the tools of the model.

    Its memory also depends on the adapter that the language model has.
    """

    text: str = ""
    tools: tuple[Tool, ...] = ()
    adapter: str | None = None


class SystemTurns:
    """Memories of system turns.

    Args:
        lay_out: positions of a conversation's prompt, with these tools.
        max_bytes: size of all memories.
    """

    def __init__(
        self, lay_out: Callable[[Sequence[Message], Sequence[Tool]], Sequence[object]], max_bytes: int = MAX_BYTES
    ) -> None:
        self._lay_out, self._max_bytes = lay_out, max_bytes
        self._positions: OrderedDict[SystemTurn, list[object]] = OrderedDict()
        self._saved: OrderedDict[SystemTurn, SavedRow] = OrderedDict()

    def recall(self, system: SystemTurn, positions: Sequence[P]) -> tuple[SavedRow | None, list[P]]:
        """The memory that a prompt can begin with, and its positions; None and no positions where there is none.

        Args:
            system: the system turn.
            positions: of the whole prompt.
        """
        saved = self._saved.get(system)
        if saved is None or not self._fits(system, positions):
            return None, []
        self._saved.move_to_end(system)
        return saved, list(positions[: saved.length])

    def awaited(self, system: SystemTurn, positions: Sequence[object]) -> bool:
        """Whether a row that holds these positions should be given to `keep`."""
        return bool(system.text or system.tools) and system not in self._saved and self._fits(system, positions)

    def keep(self, system: SystemTurn, row: SavedRow) -> None:
        """Copy the system turn's part of a row."""
        length = len(self._begins(system))
        if row.length < length or self._size(row) * length // max(1, row.length) > self._max_bytes:
            return
        self._saved[system] = SavedRow([layer[:, :, :length].clone() for layer in row.layers], length)
        while len(self._saved) > MAX_SYSTEM_TURNS or sum(map(self._size, self._saved.values())) > self._max_bytes:
            self._saved.popitem(last=False)

    def _fits(self, system: SystemTurn, positions: Sequence[object]) -> bool:
        begins = self._begins(system)
        return bool(begins) and list(positions[: len(begins)]) == begins

    def _begins(self, system: SystemTurn) -> list[object]:
        """What every prompt with this system prompt begins with, whatever the adapter."""
        system = replace(system, adapter=None)
        if system not in self._positions:
            before = [Message("system", (system.text,))] if system.text else []
            first, second = (
                self._lay_out([*before, Message("user", (question,))], system.tools) for question in _QUESTIONS
            )
            same = next((n for n, (one, other) in enumerate(zip(first, second)) if one != other), 0)
            self._positions[system] = list(first[:same])
            if len(self._positions) > 2 * MAX_SYSTEM_TURNS:
                self._positions.popitem(last=False)
        self._positions.move_to_end(system)
        return self._positions[system]

    @staticmethod
    def _size(row: SavedRow) -> int:
        return sum(layer.nbytes for layer in row.layers)
