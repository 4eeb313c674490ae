"""Many conversations, one model: a queue of replies, and who makes the rounds of work for them.

A round (`ReplyBatch.step`) makes every step once for all replies that are at that point. Replies join and leave at any
round. So no reply waits for the end of another one, and the text of a reply, its units and its sound are made side by
side.

A caller that iterates over a reply makes the rounds (`drive`), or, in servers, a thread (`start`). One lock makes
rounds exclusive; submitting never waits for a round.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from echox.errors import QueueFull
from echox.streaming.batch import ReplyBatch
from echox.streaming.engine import Engine
from echox.streaming.task import ReplyTask


class Scheduler:
    """The work of one model.

    Args:
        engine: the model.
        max_running: most replies that are worked on at a time; memory is bounded by it.
        max_waiting: most replies that wait for their turn; they begin in the order they came.

    Attributes:
        batch: the replies at work.
        num_steps: rounds made so far.

    Raises:
        ValueError: ``max_running`` is below 1 or ``max_waiting`` below 0.
    """

    def __init__(self, engine: Engine, max_running: int = 8, max_waiting: int = 64) -> None:
        if max_running < 1 or max_waiting < 0:
            raise ValueError(f"expected max_running >= 1 and max_waiting >= 0, found {max_running} and {max_waiting}")
        self.engine = engine
        self.max_running, self.max_waiting = max_running, max_waiting
        self.num_steps = 0
        self._queue: deque[ReplyTask] = deque()
        self.batch = ReplyBatch(engine, max_running, lambda: self.num_waiting)
        self._round_lock = threading.RLock()  # held during a round
        self._round_thread: int | None = None  # the thread that makes a round now
        self._changed = threading.Condition()  # a reply was submitted, cancelled or has new events
        self._thread: threading.Thread | None = None
        self._stopping = False

    @property
    def num_running(self) -> int:
        """Replies that are being worked on, without speculations."""
        return sum(not task.speculative for task in list(self.batch.running))

    @property
    def num_waiting(self) -> int:
        """Replies that wait for their turn, without speculations."""
        return sum(not task.speculative for task in list(self._queue))

    @property
    def num_speculating(self) -> int:
        """Speculations that are being worked on, or are about to be."""
        return sum(task.speculative for task in [*list(self._queue), *list(self.batch.running)])

    @property
    def memory_bytes(self) -> int:
        """Size of the key-value memories of both decoders."""
        return self.batch.memory_bytes

    # ------------------------------------------------------------------------------------------ for callers

    def submit(self, task: ReplyTask) -> None:
        """Put a reply into the queue. A speculation begins at once, or not at all.

        A cancelled reply has no place any more, also while the round that will end it is still going on.

        Raises:
            QueueFull: too many are waiting.
        """
        with self._changed:
            running, waiting = list(self.batch.running), [one for one in self._queue if not one.cancelled]
            wanted = sum(not (one.speculative or one.cancelled) for one in [*running, *waiting])
            if task.speculative:
                if waiting or len(running) >= self.max_running:
                    raise QueueFull("expected a free place for a speculation, found other replies at work or waiting")
            elif wanted >= self.max_waiting + self.max_running:
                raise QueueFull(
                    f"expected at most {self.max_running} replies at work and {self.max_waiting} waiting, found as "
                    "many already; try again in a moment"
                )
            self._queue.append(task)
            self._changed.notify_all()

    def keep(self, task: ReplyTask) -> bool:
        """A speculation is wanted now; False: it was dropped, or has failed."""
        with self._changed:
            if task.cancelled or task.done:
                return False
            task.be_wanted()
            self._changed.notify_all()
        return True

    def notify_cancelled(self, wait: bool = True) -> None:
        """A task was cancelled: end it now, or let the thread that makes a round end it.

        Args:
            wait: for the end of another thread's round, if no thread of this scheduler makes them.
        """
        with self._changed:
            self._changed.notify_all()
        in_round = self._round_thread == threading.get_ident()
        if self._thread is None and not in_round and self._round_lock.acquire(blocking=wait):
            try:
                with self._in_round():
                    self._drop_cancelled()
            finally:
                self._round_lock.release()

    def wait(self, task: ReplyTask) -> None:
        """Wait until the thread, if there is one, has ended a cancelled task; a round does not wait for itself."""
        with self._changed:
            while self._thread is not None and not task.done and self._round_thread != threading.get_ident():
                self._changed.wait(timeout=1.0)

    def drive(self, task: ReplyTask) -> None:
        """Bring a task forward: make a round, or wait for the thread that makes them.

        Raises:
            RuntimeError: called from within a round, by a function that receives events.
        """
        self._check_outside()
        if self._thread is None:
            self.step()
            return
        with self._changed:
            if not task.has_events and not task.done:
                self._changed.wait(timeout=1.0)

    def start(self) -> None:
        """Let a thread make the rounds, as servers need it; it sleeps while there is nothing to do."""
        with self._changed:
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._run, name="echox-scheduler", daemon=True)
                self._thread.start()
                atexit.register(self.stop)  # an interpreter that ends during a step of torch crashes

    def stop(self) -> None:
        """End the thread after the present round; replies that are not complete stay where they are.

        Raises:
            RuntimeError: as `drive`.
        """
        self._check_outside()
        with self._changed:
            thread, self._stopping = self._thread, True
            self._changed.notify_all()
        if thread is None:
            return
        thread.join()
        atexit.unregister(self.stop)
        with self._changed:
            self._thread = None
            self._changed.notify_all()  # who waits for a reply now makes the rounds

    def _run(self) -> None:
        while not self._stopping:
            busy = self.step()
            with self._changed:
                self._changed.notify_all()  # also after the last reply was cancelled
                if not (busy or self._queue or self._stopping):
                    self._changed.wait(timeout=1.0)

    # ------------------------------------------------------------------------------------------ a round

    def step(self) -> bool:
        """Make one round; return whether there was anything to do.

        Raises:
            RuntimeError: as `drive`.
        """
        self._check_outside()
        with self._round_lock, self._in_round():
            try:
                return self._make_round()
            except BaseException as error:  # a fault of this package, or Ctrl-C: what the memories hold is unknown
                self.batch.fail_all(error)
                if not isinstance(error, Exception):
                    raise
                return True

    def _make_round(self) -> bool:
        self._drop_cancelled()
        self._admit()
        if not self.batch.step():
            return False
        self.num_steps += 1
        self._drop_cancelled()  # those that were cancelled meanwhile
        return True

    @contextmanager
    def _in_round(self) -> Iterator[None]:
        self._round_thread = threading.get_ident()
        try:
            with torch.inference_mode():
                yield
        finally:
            self._round_thread = None

    def _check_outside(self) -> None:
        if self._round_thread == threading.get_ident():
            raise RuntimeError(
                "expected replies to be awaited, and the scheduler to be driven, outside of a round; found it in what "
                "was called with an event: hand the event over and return"
            )

    def _drop_cancelled(self) -> None:
        self.batch.end_cancelled()
        with self._changed:
            dropped = [task for task in self._queue if task.cancelled]
            if dropped:
                self._queue = deque(task for task in self._queue if not task.cancelled)
        for task in dropped:
            task.end()

    def _admit(self) -> None:
        """Let replies begin: those that are wanted first. For them speculations are dropped; these never wait."""
        while self._queue:
            with self._changed:
                task = next((one for one in self._queue if not one.speculative), self._queue[0])
                if len(self.batch.running) < self.max_running:
                    self._queue.remove(task)
                    self.batch.running.append(task)
                    task.timings.queued_s = time.perf_counter() - task.asked_s
                    continue
                droppable = (one for one in reversed(self.batch.running) if one.speculative)
                dropped = task if task.speculative else next(droppable, None)
                if dropped is None:
                    return
                dropped.cancelled = True  # under the lock: it cannot be kept any more
            self._drop_cancelled()
