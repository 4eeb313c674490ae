"""What the training loop asks of a stage."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Stage(Protocol):
    """What the loop asks of a stage; built by its recipe's ``build()``.

    Attributes:
        name: stage name, as in the recipe.
        model: what `save` writes.
        objective: ``forward(batch) -> {"loss": scalar, named parts...}``; wrapped in DDP. Holds every trainable
            parameter. The loop moves model and objective to the device and switches train/eval mode. To accumulate
            or to train on several processes it also says what its losses are means over: `training/normalisation.py`.
    """

    name: str
    model: nn.Module
    objective: nn.Module

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group name; everything else must have ``requires_grad=False``."""
        ...

    def dataset(self) -> Sequence[Any]:
        """Training items; called once."""
        ...

    def lengths(self) -> list[int]:
        """Length of every item of `dataset()`, for bucketing; called once, after it."""
        ...

    def collate(self, items: list[Any], rng: random.Random) -> dict[str, Any]:
        """Items to a batch of CPU tensors. Runs in a thread: randomness only through `rng`."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics; model in eval mode, averaged weights in place, under `inference_mode`."""
        ...

    def save(self, folder: Path) -> None:
        """Write the results (``save_pretrained`` style) into `folder`."""
        ...

    # Optional: def sample(self, folder: Path) -> None    audio and its transcription, every `sample_every_steps`
    # Optional: evaluation_items: Sized                  held-out items; when there are none the log says so at once
    # Optional: record_details: dict[str, Any]            more for training_record.json (tables, counts)
    # Optional: length_unit: tuple[str, float]            what `lengths` count, for the log, and how much of it one is
