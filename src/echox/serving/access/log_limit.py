"""A log that clients cannot fill: messages of one kind are bounded in number, and the rest is counted."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_MAX_KINDS = 200
_PASSES = "passes_log_limit"  # of a record: what was decided when its first handler got it


class LogLimit(logging.Filter):
    """Lets a few messages of each kind pass in each period; the next one that passes says how many did not.

    One limit may stand before several handlers: a record is counted once.

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
        if _PASSES not in vars(record):
            vars(record)[_PASSES] = self._judge(record)
        return bool(vars(record)[_PASSES])

    def _judge(self, record: logging.LogRecord) -> bool:
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


@contextmanager
def limited_logging() -> Iterator[None]:
    """Bound what this process writes, whichever library logs it, as long as the block lasts.

    The limit stands before the handlers that are there when the block begins: a filter of a logger would not see what
    loggers below it pass on (https://docs.python.org/3/library/logging.html#filter-objects).
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
    """Whatever writes messages of this process."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    found = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    return found if logging.lastResort is None else [*found, logging.lastResort]
