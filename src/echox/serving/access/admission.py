"""Bounds on simultaneous work: a queue that admits sessions and requests, and a limit on the memory of uploads."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from echox.serving.access.connections import counts_as_client, share
from echox.timeouts import within


class AdmissionRefused(Exception):
    """The server has no capacity for this client now; it may try again later."""


class QueueTimeout(AdmissionRefused):
    """The client waited in the queue, and no capacity became free in time."""


class AdmissionQueue:
    """Admits a bounded number of clients at a time; a bounded number of further clients wait in order.

    Args:
        capacity: how many clients are admitted at the same time.
        max_waiting: how many clients may wait.
        wait_s: how long one client may wait.
        client_share: the part of the capacity that one client address may use or wait for.
    """

    def __init__(self, capacity: int, max_waiting: int, wait_s: float, client_share: float = 1.0) -> None:
        self._free, self._capacity, self._max_waiting, self._wait_s = capacity, capacity, max_waiting, wait_s
        self._max_per_client = share(client_share, capacity)
        self._by_client: Counter[str] = Counter()  # admitted and waiting
        self._queue: list[asyncio.Future[None]] = []

    @property
    def num_admitted(self) -> int:
        """Number of clients that are admitted now."""
        return self._capacity - self._free

    @property
    def num_waiting(self) -> int:
        """Number of clients in the queue."""
        return len(self._queue)

    async def acquire(self, client: str = "") -> None:
        """Wait to be admitted, first come first served. Call `release` with the same address afterwards.

        Args:
            client: address of the client. The share does not apply to "" and to this machine itself.

        Raises:
            AdmissionRefused: the queue is full, or the client uses its whole share already.
            QueueTimeout: no capacity became free in time.
        """
        if counts_as_client(client) and self._by_client[client] >= self._max_per_client:
            raise AdmissionRefused
        if self._free and not self._queue:
            self._free -= 1
            self._by_client[client] += 1
            return
        if len(self._queue) >= self._max_waiting:
            raise AdmissionRefused
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(admitted)
        self._by_client[client] += 1
        try:
            await within(self._wait_s, asyncio.shield(admitted))
        except BaseException as error:
            if admitted.done():  # admitted at the same moment: pass it on
                self.release(client)
            else:
                self._queue.remove(admitted)
                self._remove_client(client)
            if isinstance(error, asyncio.TimeoutError):
                raise QueueTimeout from error
            raise

    def release(self, client: str = "") -> None:
        """End the admission of a client; the first client in the queue is admitted."""
        self._remove_client(client)
        if self._queue:
            self._queue.pop(0).set_result(None)
        else:
            self._free += 1

    def _remove_client(self, client: str) -> None:
        self._by_client[client] -= 1
        if self._by_client[client] <= 0:
            del self._by_client[client]


class UploadReservation:
    """The memory of one request's body; see `UploadMemory.reserve`."""

    def __init__(self, memory: UploadMemory, client: str) -> None:
        self._memory, self._client = memory, client
        self.num_bytes = 0

    def add(self, num_bytes: int) -> None:
        """Reserve memory for more bytes.

        Raises:
            AdmissionRefused: the limit of all uploads, or of this client, is reached.
        """
        self._memory._reserve(self._client, num_bytes)
        self.num_bytes += num_bytes


class UploadMemory:
    """Limits the memory that the bodies of all requests take together.

    Args:
        max_bytes: limit for all bodies together.
        client_share: the part that one client address may use.
    """

    def __init__(self, max_bytes: int, client_share: float = 1.0) -> None:
        self._max_bytes, self._max_per_client = max_bytes, share(client_share, max_bytes)
        self._bytes: Counter[str] = Counter()

    @property
    def used(self) -> int:
        """Bytes in memory."""
        return sum(self._bytes.values())

    @contextmanager
    def reserve(self, client: str) -> Iterator[UploadReservation]:
        """The memory of one request's body, until the block ends."""
        reservation = UploadReservation(self, client)
        try:
            yield reservation
        finally:
            self._bytes[client] -= reservation.num_bytes
            if not self._bytes[client]:
                del self._bytes[client]

    def _reserve(self, client: str, num_bytes: int) -> None:
        of_client = self._bytes[client] + num_bytes
        if self.used + num_bytes > self._max_bytes:
            raise AdmissionRefused
        if counts_as_client(client) and of_client > self._max_per_client:
            raise AdmissionRefused
        self._bytes[client] = of_client
