"""Waiting for at most so long, in tasks that somebody else may end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


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
