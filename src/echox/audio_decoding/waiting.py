"""Waiting for another process, for at most so long."""

from __future__ import annotations

import time
from collections.abc import Iterator


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
