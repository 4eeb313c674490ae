"""The micro-batches of one optimizer step at a time; where an objective prepares them, those of several steps together.

Stage echo makes its targets of what the model says (`Prepares`). Its batches go through the model once without
gradients, and the targets of a group of steps are made together; with `ahead`, in another thread while the group before
is trained, so the model says these words one group earlier. A group ends where a checkpoint is saved, and the first
group after it is never made ahead: so a run that continues from such a checkpoint makes what the uninterrupted one
makes. One that was asked to stop (`stopping.py`) may end within a group, and then says the rest of it anew.
"""

from __future__ import annotations

import inspect
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from echox.config import TrainingConfig
from echox.training.batches.stream import BatchStream, MicroBatch, seed_everything
from echox.training.control.schedule import checkpoint_due
from echox.training.networks.modules import autocast, on_device

Batch = Mapping[str, object]


class Prepares(Protocol):
    """An objective whose losses need more than a batch has: ``forward(batch, prepare=True)`` returns it prepared.

    Attributes:
        steps_together: steps whose batches are completed together. ahead: one group before they are needed.
    """

    steps_together: int
    ahead: bool

    def begin_targets(self, batches: Sequence[Batch], ahead: bool) -> Callable[[], list[Batch]]:
        """Begin to complete prepared batches; the function that is returned waits for them."""
        ...


@dataclass
class StepBatches:
    """What one optimizer step takes.

    Attributes:
        micros: its micro-batches. batches: their tensors, on the device, complete.
        data_wait_s: time that was waited for the data.
    """

    micros: list[MicroBatch]
    batches: list[Batch]
    data_wait_s: float


class StepSource:
    """Step after step from a stream.

    Args:
        stream: of this process.
        objective: of the stage. module: the same, as it is called: compiled, or wrapped for several processes.
        config: of the run.
        device: where the batches go.
        step: steps that are done. world: number of processes.
    """

    def __init__(
        self,
        stream: BatchStream,
        objective: nn.Module,
        module: nn.Module,
        config: TrainingConfig,
        device: torch.device,
        step: int,
        world: int = 1,
    ) -> None:
        self._stream, self._objective, self._module = stream, objective, module
        self._config, self._device, self._step = config, device, step
        self._prepares = "prepare" in inspect.signature(objective.forward).parameters
        self._group: int = getattr(objective, "steps_together", 1)
        self._ahead: bool = getattr(objective, "ahead", False)
        self._alone = config.accumulation_steps * world * self._group == 1 and not self._ahead
        self._ready: deque[StepBatches] = deque()
        self._asked: Callable[[], list[StepBatches]] | None = None

    def next(self) -> StepBatches:
        """The micro-batches of the next step. The module must be in training mode, and as it is before that step."""
        if not self._prepares or self._alone:
            return self._taken()
        if not self._ready:
            self._ready.extend((self._asked or self._ask(self._step))())
            end = self._step + len(self._ready)
            ahead = self._ahead and end < self._config.steps and not checkpoint_due(end, self._config)
            self._asked = self._ask(end) if ahead else None
        self._step += 1
        return self._ready.popleft()

    def close(self) -> None:
        """Stop the workers of the stream."""
        self._stream.close()

    def _taken(self) -> StepBatches:
        began_s = time.monotonic()
        micros = [next(self._stream) for _ in range(self._config.accumulation_steps)]
        waited_s = time.monotonic() - began_s
        return StepBatches(micros, [on_device(micro.tensors, self._device) for micro in micros], waited_s)

    def _ask(self, first: int) -> Callable[[], list[StepBatches]]:
        """Prepare the steps of the group that begins after `first` steps, and begin to complete them."""
        last = min(first + self._group, self._config.steps)
        last = next((step for step in range(first + 1, last) if checkpoint_due(step, self._config)), last)
        steps = [self._taken() for _ in range(first, last)]
        prepared = []
        for micro, batch in ((m, b) for step in steps for m, b in zip(step.micros, step.batches, strict=True)):
            seed_everything(self._config.seed, micro.place)  # as in the pass with gradients
            with torch.no_grad(), autocast(self._device, self._config.precision):
                prepared.append(self._module(batch, prepare=True))
        finish = self._objective.begin_targets(prepared, self._ahead)  # type: ignore[operator]  # see `Prepares`

        def finished() -> list[StepBatches]:
            complete = iter(finish())
            return [StepBatches(step.micros, [next(complete) for _ in step.micros], step.data_wait_s) for step in steps]

        return finished
