"""The interface between the training loop and a stage."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Stage(Protocol):
    """What a stage provides to the loop; its recipe's ``build()`` makes it.

    Attributes:
        name: stage name, as in the recipe.
        model: the model that `save` writes.
        objective: ``forward(batch) -> {"loss": scalar, named parts...}``; wrapped in DDP. Holds every trainable
            parameter. The loop moves model and objective to the device and switches between training and evaluation
            mode. To accumulate, or to train on several processes, it also has `denominators`
            (`training/batches/normalisation.py`).
    """

    name: str
    model: nn.Module
    objective: nn.Module

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by group name; everything else must have ``requires_grad=False``."""
        ...

    def dataset(self) -> Sequence[object]:
        """Training items; called once."""
        ...

    def lengths(self) -> list[int]:
        """Length of every item of `dataset()`, for bucketing; called once, after it."""
        ...

    def collate(self, items: list[Any], rng: random.Random) -> Mapping[str, object]:
        """Items to a batch of CPU tensors. Runs in a thread or worker process: randomness only through `rng`."""
        ...

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics; model in eval mode, averaged weights in place, under `inference_mode`."""
        ...

    def save(self, folder: Path) -> None:
        """Write the results (``save_pretrained`` style) into `folder`."""
        ...

    # Optional: def sample(self, folder: Path) -> None    audio and its transcription, every `sample_every_steps`
    # Optional: evaluation_items: Sized                  held-out items; when there are none, the log warns at once
    # Optional: record_details: JsonObject                more for training_record.json (tables, counts)
    # Optional: def token_lengths(self) -> list[int]     text tokens of every item, for `training.max_batch_tokens`
    # Optional: packs: bool                               whether `training.packing` is read
    # Optional: length_unit: tuple[str, float]            what `lengths` counts, and its amount per unit, for the log
