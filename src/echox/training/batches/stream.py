"""Micro-batches: an endless, resumable stream, shared out over processes, collated ahead in workers; random seeds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from echox.config import TrainingConfig
from echox.data.sampling import BucketBatchSampler
from echox.training.checkpoints.checkpoint import TrainingProgress
from echox.training.control.stopping import ignore_signals


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


@dataclass(frozen=True)
class _Task:
    """A micro-batch to make: its items, its number in the epoch, its place, and the place in the data after it."""

    epoch: int
    number: int
    indices: list[int]
    place: int
    epoch_after: int
    batch_after: int


class BatchStream:
    """Micro-batches of one process. Each of N processes takes every N-th batch of one common sequence.

    They are made ahead by a thread, or by `training.workers` processes, in the same order with the same content.

    Args:
        items: training items; with an attribute ``shards`` (the shard of each) those of a few shards come together.
        lengths: of each item.
        collate: see `echox.training.stage.Stage`.
        config: of the run.
        start: where the run is.
        rank: of this process, of `world`.
        tokens: of each item, where `training.max_batch_tokens` limits them.

    Raises:
        ValueError: no items, not one length for each, or worker processes where the system cannot fork.
    """

    def __init__(
        self,
        items: Sequence[object],
        lengths: Sequence[int],
        collate: Callable[..., Mapping[str, object]],
        config: TrainingConfig,
        start: TrainingProgress,
        rank: int = 0,
        world: int = 1,
        tokens: Sequence[int] | None = None,
    ) -> None:
        if not len(items) or len(lengths) != len(items):
            raise ValueError(
                f"expected at least one training item and one length for each, found {len(items)} items "
                f"and {len(lengths)} lengths"
            )
        size = int(config.batch_size) if config.batch_by == "items" else config.batch_size
        limit, shards = config.max_batch_tokens, getattr(items, "shards", None)
        self._sampler = BucketBatchSampler(
            lengths,
            size,
            seed=config.seed,
            by=config.batch_by,
            also=None if limit is None or tokens is None else (tokens, limit),
            shards=None if shards is None else shards.tolist(),
        )
        self._items, self._collate, self._config, self._start = items, collate, config, start
        self._rank, self._world, self._lengths = rank, world, lengths
        self._made: _Thread | _Processes
        ahead = max(1, config.prefetch_batches)
        if config.workers:
            self._made = _Processes(self._make, self._tasks, config.workers, ahead)
        else:
            self._made = _Thread(self._make, self._tasks, ahead)

    def __next__(self) -> MicroBatch:
        """Raises: whatever `collate` raised; RuntimeError where a worker process was killed."""
        item = self._made.next()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the workers."""
        self._made.close()

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

    def _tasks(self) -> Iterator[_Task]:
        """What this process has to make, in order, endlessly."""
        first_place = self._start.step * self._config.accumulation_steps * self._world
        for count, (epoch, number, indices) in enumerate(self._entries()):
            if count % self._world == self._rank:
                mine = epoch, number, indices
            if count % self._world == self._world - 1:
                place = first_place + count - (self._world - 1) + self._rank
                yield _Task(*mine, place, epoch, number + 1)

    def _make(self, task: _Task) -> MicroBatch | BaseException:
        try:
            rng = random.Random(f"{self._config.seed} {task.epoch} {task.number}")
            tensors = self._collate([self._items[index] for index in task.indices], rng)
            length = float(sum(self._lengths[index] for index in task.indices))
            return MicroBatch(tensors, len(task.indices), length, task.place, task.epoch_after, task.batch_after)
        except BaseException as error:  # noqa: BLE001 - handed to the training thread, which raises it
            return error


class _Thread:
    """Makes batches in a thread of this process."""

    def __init__(
        self, make: Callable[[_Task], MicroBatch | BaseException], tasks: Callable[[], Iterator[_Task]], ahead: int
    ) -> None:
        self._make, self._tasks = make, tasks
        self._queue: queue.Queue[MicroBatch | BaseException] = queue.Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True, name="collate")
        self._thread.start()

    def next(self) -> MicroBatch | BaseException:
        return self._queue.get()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            for task in self._tasks():
                made = self._make(task)
                self._put(made)
                if self._stop.is_set() or isinstance(made, BaseException):
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


class _Processes(Dataset[MicroBatch | BaseException]):
    """Makes batches in forked processes, which share the stage's data with this one until they write to them."""

    def __init__(
        self,
        make: Callable[[_Task], MicroBatch | BaseException],
        tasks: Callable[[], Iterator[_Task]],
        workers: int,
        ahead: int,
    ) -> None:
        if "fork" not in multiprocessing.get_all_start_methods():
            raise ValueError(f"training.workers: expected 0 where the system cannot fork processes, found {workers}")
        self._make, self._tasks = make, tasks
        _wait_for_threads()
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=self,  # type: ignore[arg-type]  # its `__iter__` yields tasks, endlessly
            num_workers=workers,
            collate_fn=_unchanged,
            multiprocessing_context="fork",
            prefetch_factor=-(-ahead // workers),
            worker_init_fn=_begin_worker,
        )
        self._batches: Iterator[MicroBatch | BaseException] = iter(loader)

    def __getitem__(self, task: _Task) -> MicroBatch | BaseException:
        return self._make(task)

    def __iter__(self) -> Iterator[_Task]:
        return self._tasks()

    def next(self) -> MicroBatch | BaseException:
        return next(self._batches)

    def close(self) -> None:
        self._batches = iter(())  # without its iterator the loader ends the processes


def _wait_for_threads(limit_s: float = 2.0) -> None:
    """Wait until no other thread of this process computes; no longer than the limit, as some never rest.

    After `join` has returned, a thread that used torch still frees MKL's memory under a lock, and so do the threads of
    OpenMP that it had. A process that is forked meanwhile waits for that lock for ever, at its first product.
    """
    deadline_s = time.monotonic() + limit_s
    quiet = 0
    while quiet < 3 and time.monotonic() < deadline_s:
        time.sleep(0.005)
        quiet = 0 if _others_compute() else quiet + 1


def _others_compute() -> bool:
    here = threading.get_native_id()
    for status in Path("/proc/self/task").glob("*/stat"):  # none where the system has no such files
        with contextlib.suppress(OSError):  # it has ended
            if int(status.parent.name) != here and status.read_text().rpartition(")")[2].split()[0] == "R":
                return True
    return False


def _unchanged(item: Any) -> Any:
    return item


def _begin_worker(_: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive a fork
    ignore_signals()
