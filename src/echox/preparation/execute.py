"""Processes chunks of rows in this process, in several, or in the actors of a Ray cluster, with one journal for all.

The journal holds a line per finished chunk under a key made of the stage's settings, the chunk itself and the state of
its audio files, so a stopped run continues where it stopped, and changed settings start from scratch. If a worker dies,
its chunk is given to another worker alone; a clip with which three workers die in a row is dropped.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import pickle
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

import torch

from echox.files import JsonObject, stamp

Row = JsonObject
Make = Callable[[], Callable[[Sequence[Row]], list[Row]]]

_ATTEMPTS = 3
_REPORT_EVERY_S = 5.0


@dataclass(frozen=True)
class Workers:
    """Number and place of the workers.

    Attributes:
        count: Processes, or actors.
        ray: Address of a Ray cluster, "local" to start one here; None: processes of this machine.
        gpus: GPUs of an actor.
    """

    count: int = 1
    ray: str | None = None
    gpus: float = 0.0


@dataclass
class ProgressReport:
    """Prints hours done, speed and time left to stderr; ``clock`` is an argument so that it can be tested."""

    label: str
    total_hours: float
    clock: Callable[[], float] = time.monotonic
    done_hours: float = 0.0
    began_s: float = field(default=0.0)
    printed_s: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.began_s = self.printed_s = self.clock()

    def add(self, hours: float, last: bool = False) -> None:
        """Count hours of audio, and print a line every few seconds."""
        self.done_hours += hours
        now = self.clock()
        if last or now - self.printed_s >= _REPORT_EVERY_S:
            self.printed_s = now
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """One line: hours, times real time, time left."""
        wall_s = max(self.clock() - self.began_s, 1e-9)
        speed = self.done_hours * 3600 / wall_s
        left_s = (self.total_hours - self.done_hours) * 3600 / speed if speed > 0 else float("inf")
        eta = "?" if left_s == float("inf") else f"{max(0.0, left_s) / 60:.1f} min"
        hours = f"{self.done_hours:9.2f} of {self.total_hours:.2f} h"
        return f"{self.label:8s}{hours}  {speed:7.1f} x real time  left {eta}"


def stage_results(
    name: str,
    make: Make,
    settings: object,
    chunks: Sequence[list[Row]],
    workers: Workers,
    journal: Path,
    valid: Callable[[list[Row]], bool] = lambda rows: True,
) -> Iterator[Row]:
    """Process all chunks, then yield the results in their order, read from the journal chunk by chunk.

    Only the results of one chunk (of each worker) are in memory at a time. The work begins when the first result is
    taken.

    Args:
        name: Of the stage, for journal and progress.
        make: Returns the function that processes a chunk; pickled, and called once in every worker.
        settings: Everything that the results depend on besides the chunk; needs a stable repr. Of a folder or file
            that is named, also its `stamp`.
        chunks: Rows; "expected_s" is their share of the progress, "audio" a file that they are made from.
        workers: See :class:`Workers`.
        journal: File to append to.
        valid: Whether journaled results are still valid (files that they name may be missing).

    Raises:
        ValueError, ConnectionError: an error of the stage.
    """
    keys = [_key(name, settings, chunk) for chunk in chunks]
    journal.parent.mkdir(parents=True, exist_ok=True)
    _end_line(journal)
    places = {key: place for place, key, results in _journaled(journal, set(keys)) if valid(results)}
    pending = [index for index, key in enumerate(keys) if key not in places]
    hours = [sum(row.get("expected_s", 0.0) for row in chunk) / 3600 for chunk in chunks]
    progress = ProgressReport(name, sum(hours[index] for index in pending))
    with journal.open("ab") as log:
        for index, results in _execute(make, [(index, chunks[index]) for index in pending], workers):
            places[keys[index]] = log.tell()
            entry = json.dumps({"key": keys[index], "results": results}, ensure_ascii=False)
            log.write(entry.encode() + b"\n")
            log.flush()
            progress.add(hours[index])
    if pending:
        progress.add(0.0, last=True)
    with journal.open("rb") as log:
        for key in keys:
            log.seek(places[key])
            yield from json.loads(log.readline())["results"]


def _journaled(journal: Path, wanted: set[str]) -> Iterator[tuple[int, str, list[Row]]]:
    """Offset, key and results of each entry of the journal; a line that was cut by an interruption is left out."""
    if not journal.exists():
        return
    with journal.open("rb") as log:
        place = 0
        for line in log:
            try:
                entry = json.loads(line)
            except ValueError:
                entry = {}
            if entry.get("key") in wanted:
                yield place, entry["key"], entry["results"]
            place += len(line)


def _execute(make: Make, pending: list[tuple[int, list[Row]]], workers: Workers) -> Iterator[tuple[int, list[Row]]]:
    if not pending:
        return
    if workers.ray is not None:
        yield from _on_ray(make, pending, workers)
    elif workers.count == 1:
        threads = torch.get_num_threads()
        try:
            function = make()
            for index, chunk in pending:
                yield index, function(chunk)
        finally:
            torch.set_num_threads(threads)  # the stages use one; the caller's number is restored
    else:
        yield from _in_processes(make, pending, workers.count)


def _in_processes(make: Make, pending: list[tuple[int, list[Row]]], count: int) -> Iterator[tuple[int, list[Row]]]:
    """Chunks in worker processes; those in work when one dies are tried again one at a time, to find the faulty one."""
    pickled = pickle.dumps(make)
    waiting, suspects = deque(pending), deque[tuple[int, list[Row]]]()
    while waiting or suspects:
        while suspects:
            index, chunk = suspects.popleft()
            yield index, _alone(pickled, chunk)
        flying: dict[Future[list[Row]], tuple[int, list[Row]]] = {}
        # "spawn": torch may have started threads that fork would not carry over.
        with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                while waiting or flying:
                    while waiting and len(flying) < 2 * count:
                        flying[pool.submit(_work, pickled, waiting[0][1])] = waiting[0]
                        waiting.popleft()
                    for future in wait(flying, return_when=FIRST_COMPLETED).done:
                        results = future.result()
                        index, _ = flying.pop(future)
                        yield index, results
            except BrokenProcessPool:
                suspects.extend(sorted(flying.values(), key=lambda task: task[0]))


def _alone(pickled: bytes, chunk: list[Row]) -> list[Row]:
    """One chunk in a process of its own; if that dies, its rows one by one; a row that ends it again is dropped."""
    for _ in range(_ATTEMPTS if len(chunk) == 1 else 2):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                return pool.submit(_work, pickled, chunk).result()
            except BrokenProcessPool:
                continue
    if len(chunk) == 1:
        detail = f"{_ATTEMPTS} workers died of it"
        return [{"id": chunk[0]["id"], "dropped": "crashed its worker", "detail": detail}]
    return [result for row in chunk for result in _alone(pickled, [row])]


@functools.lru_cache(maxsize=1)
def _made(pickled: bytes) -> Callable[[Sequence[Row]], list[Row]]:
    """The worker's function, made once per process."""
    return pickle.loads(pickled)()  # bytes of the process that started this one


def _work(pickled: bytes, chunk: list[Row]) -> list[Row]:
    return _made(pickled)(chunk)


class _RayWorker:
    """An actor: models are loaded once, chunks come as rows of a Ray dataset."""

    def __init__(self, pickled: bytes) -> None:
        self.function = pickle.loads(pickled)()

    def __call__(self, row: Row) -> Row:
        return {"index": row["index"], "results": json.dumps(self.function(json.loads(row["chunk"])))}


@contextlib.contextmanager
def cluster(workers: Workers) -> Iterator[None]:
    """The Ray cluster of a run: joined, or ("local") started here; without Ray, nothing.

    Raises:
        ImportError: Ray is not installed.
        ConnectionError: there is no cluster at the address.
    """
    if workers.ray is None:
        yield
        return
    try:
        import ray
    except ImportError as error:
        raise ImportError("--ray: expected ray, found none; pip install 'echox[ray]'") from error
    options: dict[str, object] = {"log_to_driver": False, "logging_level": "error"}
    if workers.ray == "local":
        # One CPU more than actors, for Ray's own tasks. Niceness: Ray's workers would yield to everything else here.
        options |= {"num_cpus": workers.count + 1, "include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    else:
        options["address"] = workers.ray
    ray.init(**options)
    try:
        yield
    finally:
        ray.shutdown()


def _on_ray(make: Make, pending: list[tuple[int, list[Row]]], workers: Workers) -> Iterator[tuple[int, list[Row]]]:
    """Chunks as a Ray dataset, mapped by a pool of actors; Ray starts dead actors again and repeats their chunks."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"index": index, "chunk": json.dumps(chunk)} for index, chunk in pending]
    blocks = min(len(rows), 16 * workers.count)  # a block is what is repeated when an actor dies
    dataset = ray.data.from_items(rows, override_num_blocks=blocks).map(
        _RayWorker,
        fn_constructor_args=(pickle.dumps(make),),
        compute=ray.data.ActorPoolStrategy(size=min(workers.count, blocks)),
        num_cpus=1,
        num_gpus=workers.gpus or None,
    )
    for row in dataset.iter_rows():
        yield int(row["index"]), json.loads(row["results"])


def _key(name: str, settings: object, chunk: list[Row]) -> str:
    recordings = [stamp(row["audio"]) for row in chunk if row.get("audio")]
    content = json.dumps([name, repr(settings), chunk, recordings], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _end_line(journal: Path) -> None:
    """End a line that was cut by an interruption, so that the next entry has its own line."""
    if journal.exists() and journal.stat().st_size:
        with journal.open("rb+") as file:
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
