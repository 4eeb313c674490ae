"""Memory of a process: its peak, free memory returned, garbage of long runs collected, few kernels cached.

Python searches for unreachable cycles of objects only when the number of live objects has grown by a quarter. With
torch and transformers loaded, that is after hundreds of replies. And replies have different sizes, so they do not fit
into the free blocks that earlier replies have left; glibc keeps these blocks unless it is asked to return them.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
from collections.abc import Callable
from pathlib import Path

KERNELS = 64
"""Kernels that oneDNN caches. It makes one for each size of input and caches 1024: 35 MB more every 300 turns."""


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # a function of glibc; other C libraries do not have it
    except (OSError, TypeError, AttributeError):
        return None


def limit_kernel_cache() -> None:
    """Let oneDNN cache fewer kernels, unless the environment sets a number. Call it before the first computation.

    Source: https://uxlfoundation.github.io/oneDNN/dev_guide_primitive_cache.html
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def freeze_loaded_objects() -> None:
    """Exclude all objects that exist now from garbage collection. Call it once, after everything is loaded.

    The garbage of a server is few objects then, and collecting it takes milliseconds.

    Source: https://docs.python.org/3/library/gc.html#gc.freeze
    """
    gc.collect()
    gc.freeze()


def release_free_memory() -> bool:
    """Return free memory to the system, which takes some milliseconds; whether the C library supports it.

    After `freeze_loaded_objects`, garbage is collected first.
    """
    if gc.get_freeze_count():
        gc.collect()
    trim = _malloc_trim()
    if trim is not None:
        trim(0)
    return trim is not None


def peak_resident_bytes() -> int | None:
    """The most memory that this process ever had in RAM; None where the system has no such figure (not Linux).

    ``ru_maxrss`` is no substitute: it includes what the parent process had.
    """
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
