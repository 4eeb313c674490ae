"""Waiting for at most so long: in tasks that somebody else may end, and for other processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from typing import TypeVar

T = TypeVar("T")


def waits(timeout_s: float, longest_s: float = 1.0) -> Iterator[float]:
    """Short waits that add up to a limit of the time in which this process runs.

    Who waits for another process in one long wait finds the limit passed if both were stopped for an hour (Ctrl-Z, a
    job that makes room for another), and blames the other one. Of such a pause at most a fifth of the limit counts.

    Args:
        timeout_s: the limit, s.
        longest_s: the longest single wait, s; at most a tenth of the limit is used.

    Yields:
        How long to wait now, s; no more of them when the limit is reached.
    """
    left_s = timeout_s
    while left_s > 0:
        wait_s, began_s = min(longest_s, timeout_s / 10, left_s), time.monotonic()
        yield wait_s
        left_s -= min(time.monotonic() - began_s, 2 * wait_s)


async def within(timeout_s: float | None, work: Awaitable[T]) -> T:
    """The result of some work, or the end of it after a time.

    Python's own ``asyncio.wait_for`` loses a cancellation before 3.12, if the work is done at the same moment: a task
    that receives one message after the other then goes on for ever, and so does whoever has cancelled it and waits.

    Args:
        timeout_s: time for the work, s; None: no limit.
        work: is cancelled after that time, and if this is cancelled.

    Raises:
        asyncio.TimeoutError: it was not done in time.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait((task,), timeout=timeout_s)
    except asyncio.CancelledError:
        await _end(task)
        if not task.cancelled():
            task.exception()  # nobody will ask for it
        raise
    if task.done():
        return task.result()
    await _end(task)
    if task.cancelled():
        raise asyncio.TimeoutError
    return task.result()


async def _end(task: asyncio.Future[T]) -> None:
    if task.cancel():
        await asyncio.wait((task,))
