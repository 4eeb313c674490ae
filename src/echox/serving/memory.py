"""Memory that was freed goes back to the system.

Replies come and go in sizes that never fit exactly into the holes that earlier ones have left, and glibc keeps holes: a
server that keeps nothing still grows for hours. Asked, glibc gives their pages back.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # in the C library that this process runs on, if it is glibc
    except (OSError, TypeError, AttributeError):
        return None


def give_back() -> bool:
    """Give free memory back (some milliseconds); whether this system can."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    return trim is not None
