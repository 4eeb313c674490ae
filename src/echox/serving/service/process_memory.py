"""What a server that runs for days must not keep: garbage, freed memory, and kernels for sizes that never come again.

Python looks for rings of objects that nothing else refers to only when what is alive has grown by a quarter; with all
of torch and transformers loaded that is after hundreds of replies. And replies come and go in sizes that never fit
exactly into the holes that earlier ones have left, which glibc keeps, unless it is asked to give their pages back.
"""

from __future__ import annotations

import ctypes
import functools
import gc
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


def settle() -> None:
    """All is loaded: what is here now stays, and the collector of garbage need not look at it again.

    For the process of a server, once: its garbage is few objects then, found at once and in milliseconds.

    Source: https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()


def give_back() -> bool:
    """Give free memory back (some milliseconds), after garbage is collected in a settled process; whether this can."""
    if gc.get_freeze_count():
        gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    return trim is not None
