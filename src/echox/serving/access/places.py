"""Places for requests and sessions, and room for uploads: bounded in all, and for each client address."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from echox.serving.access.connections import counts_as_client, share


class Full(Exception):
    """No place is free, and none came free in time."""


class Places:
    """A number of places, and a bounded queue of those who wait for one.

    Args:
        places: how many at the same time. waiting: how many may wait. wait_s: how long.
        client_share: one client address may hold, or wait for, this part of the places.
    """

    def __init__(self, places: int, waiting: int, wait_s: float, client_share: float = 1.0) -> None:
        self._free, self._places, self._waiting, self._wait_s = places, places, waiting, wait_s
        self._most_of_one = share(client_share, places)
        self._present: Counter[str] = Counter()  # held or waited for, by client
        self._queue: list[asyncio.Future[None]] = []

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._places - self._free

    @property
    def waiting(self) -> int:
        """Clients in the queue."""
        return len(self._queue)

    async def take(self, client: str = "") -> None:
        """Take a place, first come first served; `give` it back with the same address.

        Args:
            client: address of who takes it; no share applies to "" and to this machine.

        Raises:
            Full: the queue is full, the client has its share already, or the wait was in vain.
        """
        if counts_as_client(client) and self._present[client] >= self._most_of_one:
            raise Full
        if self._free and not self._queue:
            self._free -= 1
            self._present[client] += 1
            return
        if len(self._queue) >= self._waiting:
            raise Full
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._present[client] += 1
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._wait_s)
        except BaseException as error:
            if turn.done():  # the place came just now: hand it on
                self.give(client)
            else:
                self._queue.remove(turn)
                self._forget(client)
            if isinstance(error, asyncio.TimeoutError):
                raise Full from error
            raise

    def give(self, client: str = "") -> None:
        """Give a place back; the first in the queue gets it."""
        self._forget(client)
        if self._queue:
            self._queue.pop(0).set_result(None)
        else:
            self._free += 1

    def _forget(self, client: str) -> None:
        self._present[client] -= 1
        if self._present[client] <= 0:
            del self._present[client]


class Upload:
    """The bytes of one request that are in memory; see `Uploads.receiving`."""

    def __init__(self, uploads: Uploads, client: str) -> None:
        self._uploads, self._client = uploads, client
        self.size = 0

    def add(self, num_bytes: int) -> None:
        """So many more bytes have come.

        Raises:
            Full: there is no room for them.
        """
        self._uploads._take(self._client, num_bytes)
        self.size += num_bytes


class Uploads:
    """Memory for the bodies of all requests.

    Args:
        max_bytes: of all together. client_share: the part that one client address may use.
    """

    def __init__(self, max_bytes: int, client_share: float = 1.0) -> None:
        self._max_bytes, self._most_of_one = max_bytes, share(client_share, max_bytes)
        self._bytes: Counter[str] = Counter()

    @property
    def used(self) -> int:
        """Bytes in memory."""
        return sum(self._bytes.values())

    @contextmanager
    def receiving(self, client: str) -> Iterator[Upload]:
        """One request's body, for as long as the block lasts."""
        upload = Upload(self, client)
        try:
            yield upload
        finally:
            self._bytes[client] -= upload.size
            if not self._bytes[client]:
                del self._bytes[client]

    def _take(self, client: str, num_bytes: int) -> None:
        of_client = self._bytes[client] + num_bytes
        if self.used + num_bytes > self._max_bytes:
            raise Full
        if counts_as_client(client) and of_client > self._most_of_one:
            raise Full
        self._bytes[client] = of_client
