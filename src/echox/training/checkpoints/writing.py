"""Checkpoints of a run, written at once or, from a copy in memory, while it goes on (`training.save_in_background`).

Source: PyTorch's asynchronous checkpoints,
https://docs.pytorch.org/tutorials/recipes/distributed_async_checkpoint_recipe.html
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException

from echox.config import TrainingConfig
from echox.files import JsonObject, write_tensors
from echox.training.checkpoints.checkpoint import (
    TrainingProgress,
    checkpoint_path,
    checkpoints,
    live_tensors,
    micro_batches,
    sharded_state,
)
from echox.training.checkpoints.integrity import write_state
from echox.training.networks.optim import WeightAverage

WAIT = timedelta(hours=2)
"""For the processes that write one checkpoint together in the background."""


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time, and drops all but the newest.

    With a sharded objective every process has one and calls the same methods; otherwise only the first.

    Args:
        config: folder, number of checkpoints that are kept, and whether they are written in the background.
        recipe: of the run.
        sharded: several processes write together.
    """

    def __init__(self, config: TrainingConfig, recipe: JsonObject, sharded: bool) -> None:
        self._folder = Path(config.output_dir) / "checkpoints"
        self._keep, self._recipe = config.keep_checkpoints, recipe
        self._sharded, self._first = sharded, not sharded or dist.get_rank() == 0
        self._thread = ThreadPoolExecutor(1, "checkpoint") if config.save_in_background else None
        # Messages of its own, through the CPU: those of the training must not meet them.
        self._group = dist.new_group(backend="gloo", timeout=WAIT) if sharded and self._thread is not None else None
        self._begun: Future[None] | None = None
        self.spared: Path | None = None
        """A checkpoint that somebody reads, so it is not dropped."""

    def save(
        self,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        progress: TrainingProgress,
    ) -> None:
        """Write a checkpoint atomically, after the one before; in the background it is a copy of this moment.

        Raises: OSError (for example: no space left on the device), with no half checkpoint left behind; also of the
            checkpoint before, if that was in the background.
        """
        self.wait()
        final = checkpoint_path(self._folder.parent, progress.step)
        partial = self._folder / f".partial_{final.name}"
        state = {
            **vars(progress),
            "average_updates": average.updates if average else 0,
            "micro_batches": micro_batches(self._recipe),
        }
        with _reported(partial, final):
            if self._first:
                self._folder.mkdir(parents=True, exist_ok=True)
                for left in self._folder.glob(".partial_*"):  # left by a run that was killed
                    shutil.rmtree(left, ignore_errors=True)
                partial.mkdir()
            if self._sharded:
                write = self._shards(sharded_state(objective, optimizer, average), partial / "sharded")
            else:
                write = self._whole(objective, optimizer, average, partial)
        if self._thread is None:
            self._complete(write, partial, final, state)
        else:
            self._begun = self._thread.submit(self._complete, write, partial, final, state)

    def check(self) -> None:
        """Raise what has gone wrong in the background, without waiting. Raises: OSError."""
        if self._begun is not None and self._begun.done():
            self.wait()

    def wait(self) -> None:
        """Until the checkpoint that was begun is complete. Raises: OSError."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.result()

    def _shards(self, tensors: dict[str, Tensor], folder: Path) -> Callable[[], object]:
        """What writes the parts of all processes, or waits until they are written."""
        dist.barrier()  # the folder is there
        if self._group is not None:
            begun = dcp.async_save(tensors, checkpoint_id=folder, process_group=self._group)
            assert isinstance(begun, Future), "another response belongs to another stager"
            return begun.result

        def write() -> None:
            dcp.save(tensors, checkpoint_id=folder)
            dist.barrier()

        return write

    def _whole(
        self, objective: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None, folder: Path
    ) -> Callable[[], object]:
        """What writes the files of an unsharded run; of trained weights, shared ones once."""
        copy = self._thread is not None
        weights = {name: _on_cpu(value, copy).contiguous() for name, value in live_tensors(objective).items()}
        averages = {} if average is None else {name: _on_cpu(value, copy) for name, value in average.averages.items()}
        states = optimizer.state_dict()
        if copy:
            states["state"] = {
                number: {name: _on_cpu(value, copy) for name, value in values.items()}
                for number, values in states["state"].items()
            }

        def write() -> None:
            write_tensors(folder / "trainable.safetensors", weights)
            if average is not None:
                write_tensors(folder / "average.safetensors", averages)
            torch.save(states, folder / "optimizer.pt")

        return write

    def _complete(self, write: Callable[[], object], partial: Path, final: Path, state: JsonObject) -> None:
        """Write all, rename the folder to its final name, and drop the oldest."""
        with _reported(partial, final):
            write()
            if not self._first:
                return
            (partial / "recipe.yaml").write_text(yaml.safe_dump(self._recipe, sort_keys=False), encoding="utf-8")
            write_state(partial, state)
            for path in [*partial.rglob("*"), partial]:
                _flush(path)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            _flush(final.parent)
        for old in checkpoints(self._folder.parent)[: -self._keep]:
            if old != self.spared:  # renamed first: after a kill half-way the rest must not look like a checkpoint
                shutil.rmtree(old.rename(self._folder / f".partial_{old.name}"))


@contextmanager
def _reported(partial: Path, final: Path) -> Iterator[None]:
    """Remove a half checkpoint, and say what to do. Raises: OSError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError, CheckpointException) as error:
        # safetensors and torch report a full disk as their own errors, with the cause only in the message.
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(
            f"{final}: could not write the checkpoint ({error}); free some space, then run the same command "
            "again: it continues from the newest complete checkpoint"
        ) from error


def _on_cpu(value: Any, copy: bool) -> Any:
    return value.detach().to("cpu", copy=copy) if isinstance(value, Tensor) else value


def _flush(path: Path) -> None:
    """Flush a file or folder, so that the disk has the contents before the rename."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
