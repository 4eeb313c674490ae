"""Waiting for a condition with a deadline, for tests of servers that run in other threads and processes."""

import asyncio
import time

_STEP_S = 0.02


def wait_until(condition, what, timeout_s=20.0):
    """Wait until ``condition()`` is true; fail with `what` after a time that a busy machine does not need.

    Args:
        condition: function that returns the state to wait for.
        what: the state in words.
        timeout_s: deadline.
    """
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(_STEP_S)


async def wait_until_async(condition, what, timeout_s=20.0):
    """As `wait_until`, while the event loop runs other tasks."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(_STEP_S)
