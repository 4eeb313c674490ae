"""What a server that runs for days must not keep: memory that was freed, and kernels for sizes that never come again.

Replies come and go in sizes that never fit exactly into the holes that earlier ones have left, and glibc keeps holes: a
server that keeps nothing still grows for hours. Asked, glibc gives their pages back.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable

KERNELS = 64
"""Kernels that oneDNN keeps. It makes one for each size of input, and would keep 1024: 35 MB more every 300 turns."""


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # in the C library that this process runs on, if it is glibc
    except (OSError, TypeError, AttributeError):
        return None


def keep_few_kernels() -> None:
    """Let oneDNN keep fewer kernels, unless the environment says how many; before the first tensor is computed.

    Source: https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def give_back() -> bool:
    """Give free memory back (some milliseconds); whether this system can."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    return trim is not None
