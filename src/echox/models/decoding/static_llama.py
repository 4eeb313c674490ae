"""Decoding steps of a Llama with constant shapes, for a compiler and for CUDA graphs.

One step of a large model on a GPU is hundreds of small kernel launches, whose overhead takes longer than reading the
weights. `StaticSteps` runs all rows at every step, over the whole key-value memory, with a mask: this is more
arithmetic, which is free while memory bandwidth is the limit, but a single launch. On a CPU `LeanSteps` is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from echox.models.decoding.lean_llama import LeanSteps, LeanWeights
from echox.models.decoding.row_cache import SavedRow

Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, dict[str, Tensor]], Tensor]


class StaticSteps(LeanSteps):
    """`LeanSteps` whose single steps have one shape. Prompts, which are long, are computed by `LeanSteps`.

    Args:
        weights: of the model.
        rows: maximum number of rows.
        capacity: initial number of positions; a longer row doubles it, which needs another compilation.
        step: `static_step` of these weights, compiled or not; see `compiled_step`.
    """

    def __init__(self, weights: LeanWeights, rows: int, capacity: int = 1024, step: Step | None = None) -> None:
        super().__init__(weights, rows, capacity)
        self.lengths, self.adapters = [], []
        self._places = rows
        for name in weights.adapters:
            weights.read_adapter(name)  # nothing is read inside a compiled step
        self._step = step or static_step(weights)
        self._inputs = self.memory.new_zeros(rows, 1, weights.width)
        self._starts = torch.zeros(rows, dtype=torch.long, device=self.memory.device)
        # All rows compute all adapters, so that the step has one form.
        self._chosen = {
            name: torch.zeros(rows, 1, dtype=torch.bool, device=self.memory.device) for name in weights.adapters
        }

    def advance(self, inputs: Tensor, counts: Sequence[int] | None = None, first_row: int = 0) -> Tensor:
        """See `LeanSteps.advance`."""
        batch, count, _ = inputs.shape
        if count > 1:
            return super().advance(inputs, counts, first_row)
        if max(self.lengths) + 1 > self.memory.shape[4]:
            self._grow(max(self.lengths) + 1)
        # Rows outside the batch are computed too; what they write beyond their end is overwritten later.
        self._starts.copy_(torch.tensor(self.lengths + [0] * (self._places - len(self.lengths))))
        self._inputs[first_row : first_row + batch] = inputs
        for name, chosen in self._chosen.items():
            chosen[: len(self.adapters), 0] = torch.tensor([one == name for one in self.adapters], device=chosen.device)
        hidden = self._step(self._inputs, self._starts, self.memory, self.cos, self.sin, self._chosen)
        for row in range(batch):
            self.lengths[first_row + row] += 1 if counts is None else counts[row]
        return hidden[first_row : first_row + batch].clone()

    def join(self, saved: SavedRow | None = None, adapter: str | None = None) -> int:
        """See `LeanSteps.join`.

        Raises:
            ValueError: all places are taken, or the weights have no such adapter.
        """
        if len(self.lengths) == self._places:
            raise ValueError(f"expected at most {self._places} rows, found one more; make the steps with more places")
        return super().join(saved, adapter)


def static_step(weights: LeanWeights) -> Step:
    """One step of all rows as a pure function.

    It takes inputs (R, 1, D), the position (R,) of each, the memory (layers, 2, R, heads, capacity, head width), which
    it writes into, the tables of the rotation, and (R, 1) bool by adapter, which rows have it; it
    returns the last states (R, 1, D).
    """

    def step(
        inputs: Tensor, starts: Tensor, memory: Tensor, cos: Tensor, sin: Tensor, adapted: dict[str, Tensor]
    ) -> Tensor:
        row = torch.arange(len(inputs), device=inputs.device)
        mask = (torch.arange(memory.shape[4], device=inputs.device) <= starts[:, None])[:, None, None]

        def update_cache(number: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            memory[number, 0, row, :, starts] = key[:, 0]
            memory[number, 1, row, :, starts] = value[:, 0]
            return memory[number, 0], memory[number, 1]

        cos, sin = cos[starts][:, None, None], sin[starts][:, None, None]
        return weights.run(inputs, cos, sin, mask, update_cache, adapted)

    return step


def compiled_step(weights: LeanWeights) -> Step:
    """`static_step`, compiled: on a GPU replayed as one CUDA graph."""
    return torch.compile(static_step(weights), mode="reduce-overhead", fullgraph=True)
