"""A limit on log messages, so that clients cannot fill the log: a few of each kind are written, the rest is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MAX_KINDS = 200
_PASSES = "passes_log_limit"  # attribute of a record: the decision, made when its first handler received it


class LogLimit(logging.Filter):
    """Writes a few messages of each kind in each period; the first one of the next period says how many were left out.

    Several handlers may share one limit: a record is counted once.

    Args:
        count: messages of one kind (one line of code that logs) that are written in one period.
        period_s: length of a period.
        clock: time, s.
    """

    def __init__(self, count: int = 5, period_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._count, self._period_s, self._clock = count, period_s, clock
        self._kinds: dict[tuple[str, int], list[float]] = {}  # start of the period, written, left out
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written. A note about records that were left out may be added to it."""
        if _PASSES not in vars(record):
            vars(record)[_PASSES] = self._decide(record)
        return bool(vars(record)[_PASSES])

    def _decide(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        with self._lock:
            if len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            kind = self._kinds.setdefault((record.pathname, record.lineno), [now, 0, 0])
            left_out = 0
            if now - kind[0] >= self._period_s:
                left_out = int(kind[2])
                kind[:] = [now, 0, 0]
            if kind[1] >= self._count:
                kind[2] += 1
                return False
            kind[1] += 1
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like this were not written)"
            record.args = ()
        return True


@contextmanager
def limited_logging() -> Iterator[None]:
    """Limit what this process logs, whichever library logs it, while the block runs.

    The limit is added to the handlers that exist when the block starts. A filter of a logger would not see the records
    that its child loggers pass on (https://docs.python.org/3/library/logging.html#filter-objects).
    """
    limit, handlers = LogLimit(), _handlers()
    for handler in handlers:
        handler.addFilter(limit)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(limit)


def _handlers() -> list[logging.Handler]:
    """All handlers of log messages in this process."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return found if logging.lastResort is None else [*found, logging.lastResort]
