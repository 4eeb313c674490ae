"""Micro-batches by worker processes are those of a thread: the same, in the same order, also after a restart."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from echox.training.batches.stream import BatchStream
from echox.training.checkpoints.checkpoint import TrainingProgress
from test_loop import ToyStage, config, run, same


class Items:
    """Thirty numbers in six shards."""

    shards = np.arange(30) // 5

    def __len__(self) -> int:
        return 30

    def __getitem__(self, place: int) -> int:
        return place


def collate(items: list[int], rng: random.Random) -> dict[str, torch.Tensor]:
    return {"items": torch.tensor(items), "noise": torch.tensor(rng.random()), "by": torch.tensor(os.getpid())}


def taken(tmp_path, start=None, count=20, rank=0, world=1, items=None, **changes):
    """What a stream gives: (place, items, noise, where the data stand), and the processes that made it."""
    settings = config(tmp_path, **changes)
    items = items or Items()
    start = start or TrainingProgress()
    stream = BatchStream(items, [1 + i % 3 for i in range(30)], collate, settings, start, rank, world)
    try:
        found = [next(stream) for _ in range(count)]
    finally:
        stream.close()
    rows = [
        (one.place, one.tensors["items"].tolist(), float(one.tensors["noise"]), one.epoch_after, one.batch_after)
        for one in found
    ]
    return rows, {int(one.tensors["by"]) for one in found}


def test_processes_make_what_a_thread_makes(tmp_path):
    alone, by_thread = taken(tmp_path)
    several, by_processes = taken(tmp_path, workers=2, prefetch_batches=3)
    assert several == alone
    assert by_thread == {os.getpid()}
    assert len(by_processes) == 2
    assert os.getpid() not in by_processes
    assert {row[3] for row in alone} > {0, 1}, "more than one epoch"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_continues_anywhere(tmp_path, workers):
    whole, _ = taken(tmp_path, count=16, workers=workers)
    for step in (1, 7, 9):
        *_, epoch, batch = whole[step - 1]
        rest, _ = taken(tmp_path, TrainingProgress(step, epoch, batch), count=16 - step, workers=workers)
        assert rest == whole[step:]


def test_two_ranks_share_the_sequence_of_one(tmp_path):
    alone, _ = taken(tmp_path, count=12, accumulation_steps=2)
    ranks = [taken(tmp_path, count=6, rank=rank, world=2, workers=rank)[0] for rank in range(2)]
    for number in range(6):
        for rank in range(2):
            assert ranks[rank][number][:3] == alone[2 * number + rank][:3]


def test_an_error_of_a_worker_is_raised_here(tmp_path):
    class Broken(Items):
        def __getitem__(self, place: int) -> int:
            raise ValueError(f"item {place}: damaged")

    with pytest.raises(ValueError, match=r"^item \d+: damaged$"):
        taken(tmp_path, items=Broken(), workers=1)


def test_closing_ends_the_workers_and_may_be_repeated(tmp_path):
    stream = BatchStream(Items(), [1] * 30, collate, config(tmp_path, workers=2), TrainingProgress())
    by = {int(next(stream).tensors["by"]) for _ in range(2)}
    for _ in range(2):
        stream.close()
    assert not any(psutil.pid_exists(process) for process in by)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list a process's threads")
def test_workers_are_forked_when_no_other_thread_computes(tmp_path):
    """A thread at work may hold a lock of MKL; in the forked process nobody would ever give it back."""
    begun = threading.Event()

    def work():
        size = 500
        begun.set()
        until_s = time.monotonic() + 0.2
        while time.monotonic() < until_s:
            torch.linalg.svdvals(torch.ones(size, size) + torch.eye(size))  # long, and without Python's lock

    worker = threading.Thread(target=work)
    worker.start()
    begun.wait()
    stream = BatchStream(Items(), [1] * 30, collate, config(tmp_path, workers=1), TrainingProgress())
    try:
        assert not worker.is_alive()
    finally:
        stream.close()
        worker.join()


def test_training_with_workers_equals_training_without(tmp_path):
    assert same(run(tmp_path / "thread")[0].model, run(tmp_path / "processes", workers=2)[0].model)


def test_tokens_are_counted_where_a_stage_counts_them(tmp_path):
    with pytest.raises(ValueError, match=r"max_batch_tokens: stage 'toy' counts no tokens"):
        run(tmp_path / "without", max_batch_tokens=5)

    class Counting(ToyStage):
        def token_lengths(self):
            return [3] * 30

        def collate(self, items, rng):
            self.sizes = {*getattr(self, "sizes", ()), len(items)}
            return super().collate(items, rng)

    stage, _ = run(tmp_path / "with", Counting(), max_batch_tokens=6)
    assert stage.sizes == {2}
