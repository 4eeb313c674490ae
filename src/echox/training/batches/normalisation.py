"""Losses are means over the whole batch of an optimizer step: over accumulated micro-batches and over all processes.

A mean of the micro-batches' means would give a token of a short micro-batch more weight than one of a long micro-batch;
batches of similar lengths make the difference large. So before its first backward pass a step counts what each part of
the loss is a mean over (reply tokens, frames, units ...) in all its micro-batches on all processes, and every
micro-batch then contributes its sum over that count. Accumulating equals one large batch, and N processes equal one.

An objective (see `echox.training.stage.Stage`) takes part with::

    def denominators(self, batch) -> dict[str, Tensor]: ...   # what each returned mean is over, in this micro-batch
    def forward(self, batch, denominators=None): ...          # `share_of_step` scales the means

and, where the counts follow only from a forward pass (stage echo makes its targets itself), with
``forward(batch, prepare=True)``, which returns the batch with all that `denominators` needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

Denominators = Mapping[str, Tensor]
"""Name of a returned mean -> number of what it is over (tokens, frames, rows), a scalar."""


class Counted(Protocol):
    """An objective that counts what its losses are means over."""

    @property
    def denominators(self) -> Callable[..., Mapping[str, Tensor]]:
        """Of a batch: the count of each returned mean, by name."""
        ...


def known_rows(labels: Tensor) -> Tensor:
    """Number of rows of labels (A, N), padded with -100, that have a label: the count of a CTC loss per symbol."""
    return (labels >= 0).any(dim=1).sum()


def share_of_step(
    means: Mapping[str, Tensor], objective: Counted, batch: Mapping[str, object], step: Denominators | None
) -> dict[str, Tensor]:
    """Means over one micro-batch as its shares of the means over a whole step.

    Args:
        means: by name; those that are not among the objective's denominators are returned as they are.
        objective: whose `denominators(batch)` are the counts of this micro-batch.
        batch: the micro-batch.
        step: from `denominators_of_step`; None: the step has this micro-batch alone.

    Returns:
        Values whose sum over the step's micro-batches, averaged over the processes, is the mean over all of them.
    """
    if step is None:
        return dict(means)
    own = objective.denominators(batch)
    return {
        name: value * (own[name].to(step[name]) / step[name].clamp_min(1e-9)) if name in own else value
        for name, value in means.items()
    }


def denominators_of_step(
    objective: nn.Module, batches: Sequence[Mapping[str, object]], device: torch.device
) -> dict[str, Tensor]:
    """Counts of all micro-batches on all processes, divided by the number of processes (which average gradients).

    Args:
        objective: with `denominators`.
        batches: this process's micro-batches of a step, prepared where the objective asks for it.
        device: where processes exchange tensors.

    Raises:
        ValueError: an objective without `denominators`.
    """
    count = getattr(objective, "denominators", None)
    if count is None:
        raise ValueError(
            f"objective: expected {type(objective).__name__}.denominators(batch), found none: to accumulate, or to "
            "train on several processes, the loop must know what each loss is a mean over "
            "(training/batches/normalisation.py)"
        )
    counted = [count(batch) for batch in batches]
    names = sorted(set().union(*counted))  # the same in all processes: every batch has all names
    totals = torch.stack(
        [
            torch.stack([torch.as_tensor(found[name], dtype=torch.float32, device=device) for found in counted]).sum()
            for name in names
        ]
    )
    if dist.is_initialized():
        dist.all_reduce(totals)
        totals = totals / dist.get_world_size()
    return dict(zip(names, totals.unbind(), strict=True))


class RunningMeans:
    """Means over several batches of an evaluation, each batch counted by its denominators."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, float] = {}

    def add(self, means: Mapping[str, Tensor], denominators: Denominators) -> None:
        """Add one batch; names without a denominator are left out."""
        for name, count in denominators.items():
            if name in means:
                self._sums[name] = self._sums.get(name, 0.0) + float(means[name]) * float(count)
                self._counts[name] = self._counts.get(name, 0.0) + float(count)

    def means(self) -> dict[str, float]:
        """By name; 0 where nothing was counted."""
        return {name: total / max(self._counts[name], 1e-9) for name, total in self._sums.items()}
