"""A log that clients cannot fill: messages of one kind are bounded in number, and the rest is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

LOGGERS = ("asyncio", "echox.serving", "uvicorn.error")  # what clients can make speak
_MAX_KINDS = 200


class LogLimit(logging.Filter):
    """Lets a few messages of each kind pass in each period; the next one that passes says how many did not.

    Args:
        count: messages of one kind (the place in the code that logs them) in one period. period_s: its length.
        clock: seconds.
    """

    def __init__(self, count: int = 5, period_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._count, self._period_s, self._clock = count, period_s, clock
        self._kinds: dict[tuple[str, int], list[float]] = {}  # began at, passed, held back
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record may be written; it may get a remark about others."""
        now = self._clock()
        with self._lock:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            kind = self._kinds.setdefault((record.pathname, record.lineno), [now, 0, 0])
            held_back = 0
            if now - kind[0] >= self._period_s:
                held_back = int(kind[2])
                kind[:] = [now, 0, 0]
            if kind[1] >= self._count:
                kind[2] += 1
                return False
            kind[1] += 1
        if held_back:
            record.msg = f"{record.getMessage()} ({held_back} more like this were not written)"
            record.args = ()
        return True


def limit_logging() -> None:
    """Bound what clients can make this process write."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(found, LogLimit) for found in logger.filters):
            logger.addFilter(LogLimit())
