"""Micro-batches: an endless, resumable stream, shared out over processes, collated ahead in a thread; random seeds."""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from echox.config import TrainingConfig
from echox.data.sampling import BucketBatchSampler
from echox.training.checkpoint import TrainingProgress


def seed_everything(seed: int, place: int = 0) -> None:
    """Seed torch (all devices), NumPy and random as a function of the run's seed and the place in the data."""
    mixed = (seed * 1_000_003 + place) % 2**32
    torch.manual_seed(mixed)
    np.random.seed(mixed)  # noqa: NPY002 - for other libraries' code inside a stage
    random.seed(mixed)


@dataclass
class MicroBatch:
    """One collated batch of this process.

    Attributes:
        tensors: what the stage's `collate` returned.
        items: number of items in it. length: sum of their lengths.
        place: number of the micro-batch since step 0, counted over all processes.
        epoch_after, batch_after: the place in the data once every process has taken its batch of this round.
    """

    tensors: Mapping[str, object]
    items: int
    length: float
    place: int
    epoch_after: int
    batch_after: int


class BatchStream:
    """Micro-batches of one process. Each of N processes takes every N-th batch of one common sequence."""

    def __init__(
        self,
        items: Sequence[object],
        lengths: Sequence[int],
        collate: Callable[..., Mapping[str, object]],
        config: TrainingConfig,
        start: TrainingProgress,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not len(items) or len(lengths) != len(items):
            raise ValueError(
                f"expected at least one training item and one length for each, found {len(items)} items "
                f"and {len(lengths)} lengths"
            )
        size = int(config.batch_size) if config.batch_by == "items" else config.batch_size
        self._sampler = BucketBatchSampler(lengths, size, seed=config.seed, by=config.batch_by)
        self._items, self._collate, self._config, self._start = items, collate, config, start
        self._rank, self._world, self._lengths = rank, world, lengths
        self._queue: queue.Queue[MicroBatch | BaseException] = queue.Queue(maxsize=max(1, config.prefetch_batches))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="collate")
        self._thread.start()

    def __next__(self) -> MicroBatch:
        """Raises: whatever `collate` raised."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join()

    def _entries(self) -> Iterator[tuple[int, int, list[int]]]:
        """(epoch, number of the batch in it, item indices), from the start, endlessly."""
        overfit = self._config.overfit_one_batch
        epoch, skip = (0, 0) if overfit else (self._start.epoch, self._start.batch)
        while True:
            self._sampler.set_epoch(epoch)
            number = -1
            for number, indices in enumerate(self._sampler):
                while overfit:
                    yield epoch, number, list(indices)
                if number >= skip:
                    yield epoch, number, list(indices)
            if number < 0:
                raise ValueError("training.batch_size: no batch can be formed from the training items; choose another")
            epoch, skip = epoch + 1, 0

    def _work(self) -> None:
        try:
            first_place = self._start.step * self._config.accumulation_steps * self._world
            for count, (epoch, number, indices) in enumerate(self._entries()):
                if count % self._world == self._rank:
                    rng = random.Random(f"{self._config.seed} {epoch} {number}")
                    tensors = self._collate([self._items[index] for index in indices], rng)
                    mine, taken = tensors, indices
                if count % self._world == self._world - 1:
                    place = first_place + count - (self._world - 1) + self._rank
                    length = float(sum(self._lengths[index] for index in taken))
                    self._put(MicroBatch(mine, len(taken), length, place, epoch, number + 1))
                if self._stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the training thread, which raises it
            self._put(error)

    def _put(self, item: MicroBatch | BaseException) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=0.05)
            except queue.Full:
                continue
        return None
