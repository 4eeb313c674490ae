"""Work that may wait: one piece at a time on the whole server, and only a share of the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class SpareTime:
    """Lets pieces of work begin one after the other, in order of request, with pauses in between.

    After a piece that took t seconds by the clock, the next one begins after a pause of t (1 / share - 1). If the model
    is busy with replies, a piece takes longer, and the pause with it.

    Args:
        share: part of the time that all of the work may take, above 0 to 1.
        clock: the time, s.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share, self._clock = share, clock
        self._lock = asyncio.Lock()
        self._due_s = clock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn of one piece of work; it ends with the block."""
        async with self._lock:
            await asyncio.sleep(max(0.0, self._due_s - self._clock()))
            began_s = self._clock()
            try:
                yield
            finally:
                now_s = self._clock()
                self._due_s = now_s + (now_s - began_s) * (1.0 / self._share - 1.0)
