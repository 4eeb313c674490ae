"""Open connections of one server: how many, from whom, and how long each may keep the server waiting.

uvicorn itself bounds neither the number of connections nor the time in which a request must arrive, so a crowd of
half-sent requests would use up the process's file descriptors (slow HTTP attacks, https://cwe.mitre.org/data/definitions/400.html).
When all connections are in use, the one that has kept the server waiting longest makes room for the new one: a client
that sends its request at once is always heard.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from echox.serving.access.security import is_loopback
from echox.serving.protocol.limits import Limits

log = logging.getLogger("echox.serving")
BACKLOG = 128  # connections the system holds for us; all of them may be accepted in one step of the event loop
_RESERVED_FILES = 128  # of this process: the model, sockets of workers, standard streams, the log
_LINGER_S = 5.0  # for a closing connection to deliver its last bytes
_SWEEP_S = 0.5


@dataclass(eq=False)
class Connection:
    """One TCP connection.

    Attributes:
        transport: asyncio's. client: of `client_at`.
        waiting_since: when the server began to wait for (the rest of) a request, s; None: it does not wait.
        deadline: when that request must have arrived, s.
        blocked_since: when the client stopped reading what it is sent, s; None: it reads.
        closing_since: when closing was first noticed, s.
        expire: called when the deadline has passed.
    """

    transport: asyncio.Transport
    client: str
    waiting_since: float | None = None
    deadline: float = math.inf
    blocked_since: float | None = None
    closing_since: float | None = None
    expire: Callable[[], None] | None = None

    def wait(self, now: float, longest_s: float, expire: Callable[[], None]) -> None:
        """The server waits for this client from now on."""
        self.waiting_since, self.deadline, self.expire = now, now + longest_s, expire

    def arrived(self) -> None:
        """The request is complete: the server does not wait."""
        self.waiting_since, self.deadline, self.expire = None, math.inf, None


class Connections:
    """All open connections.

    Args:
        limits: see `Limits`. clock: seconds, as the event loop counts them. refused: called with a code for each
            connection that is turned away or closed.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float], refused: Callable[[str], None]) -> None:
        self.limits = limits
        self.most = connection_limit(limits.max_connections, open_file_limit())
        self.most_of_one_client = share(limits.max_client_share, self.most)
        self._clock, self._refused = clock, refused
        self._open: dict[asyncio.Transport, Connection] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def now(self) -> float:
        """Seconds of the clock."""
        return self._clock()

    def open(self, transport: Any) -> Connection | None:
        """Take a new connection in; None: there is no room, and it was closed."""
        peer = transport.get_extra_info("peername")
        client = client_at(str(peer[0])) if isinstance(peer, tuple) else ""
        entry = Connection(transport, client)
        if not self._room_for(client):
            self._refused("too_many_connections")
            log.warning("a connection of %s was refused: %d are open", client or "?", len(self._open))
            transport.abort()
            return None
        self._open[transport] = entry
        return entry

    def get(self, transport: Any) -> Connection | None:
        """The entry of a connection that was opened before."""
        return self._open.get(transport)

    def close(self, transport: Any) -> None:
        """The connection is gone."""
        self._open.pop(transport, None)

    def _room_for(self, client: str) -> bool:
        if counts_as_client(client):
            own = [entry for entry in self._open.values() if entry.client == client]
            if len(own) >= self.most_of_one_client and not self._evict(own):
                return False
        return len(self._open) < self.most or self._evict(list(self._open.values()))

    def _evict(self, entries: list[Connection]) -> bool:
        """Close the connection that has kept the server waiting longest, if any does."""
        waiting = [entry for entry in entries if entry.waiting_since is not None or entry.transport.is_closing()]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda entry: entry.waiting_since or 0.0)
        self._refused("connection_evicted")
        self._drop(oldest)
        return True

    def _drop(self, entry: Connection) -> None:
        self.close(entry.transport)
        entry.transport.abort()

    def sweep(self) -> None:
        """Close what is overdue: requests that did not arrive, and clients that do not read or do not go."""
        now = self._clock()
        for entry in list(self._open.values()):
            if entry.transport.is_closing():
                entry.closing_since = entry.closing_since or now
                if now - entry.closing_since > _LINGER_S:
                    self._drop(entry)
            elif now > entry.deadline:
                expire = entry.expire or entry.transport.abort
                entry.arrived()
                self._refused("request_timeout")
                expire()
            elif entry.blocked_since is not None and now - entry.blocked_since > self.limits.send_s + _LINGER_S:
                self._refused("slow_reader")
                self._drop(entry)

    async def watch(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.sweep()


def share(fraction: float, total: int) -> int:
    """How many of `total` one client may use, at least 1."""
    return max(1, math.ceil(fraction * total))


def client_at(address: str) -> str:
    """Who shares are counted for: an address, or its network of 64 bits in IPv6, where one client has all of that.

    Source: RFC 6177 section 2 (what a site is given), RFC 4291 section 2.5.5.2 (IPv4 in IPv6).
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address) or found.is_loopback:
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False).network_address)


def counts_as_client(client: str) -> bool:
    """Whether the share of one client applies to an address: not to this machine itself, where a proxy may run."""
    return bool(client) and not is_loopback(client)


def open_file_limit() -> int | None:
    """How many files this process may have open; None: the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def raise_open_file_limit(wanted: int) -> None:
    """Let this process open so many files, as far as the system's hard limit allows; a higher limit stays."""
    try:
        import resource
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    reachable = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    except (OSError, ValueError) as error:
        log.warning("the limit of open files stays at %d: %s", soft, error)


def files_for(connections: int) -> int:
    """How many open files a server with so many connections needs."""
    return connections + BACKLOG + _RESERVED_FILES


def connection_limit(wanted: int, open_files: int | None) -> int:
    """How many connections there may be, such that the process never runs out of file descriptors.

    Args:
        wanted: what was configured.
        open_files: of `open_file_limit`.

    Raises:
        ValueError: the process may open too few files to serve anyone.
    """
    if open_files is None or files_for(wanted) <= open_files:
        return wanted
    possible = open_files - files_for(0)
    if possible < 1:
        raise ValueError(
            f"open files: expected a limit of {files_for(1)} or more, found {open_files}; raise it (ulimit -n)"
        )
    log.warning("%d connections instead of %d: this process may open %d files", possible, wanted, open_files)
    return possible
