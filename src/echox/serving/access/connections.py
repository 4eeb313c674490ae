"""Limits on open connections: their number, their number per client, and the time in which a request must arrive.

uvicorn itself limits neither the number of connections nor the time in which a request must arrive. Many half-sent
requests could then use up the file descriptors of the process (slow HTTP attacks,
https://cwe.mitre.org/data/definitions/400.html). When all connections are in use, the one that has kept the server
waiting longest is closed for the new one, so a client that sends its request at once is always served.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

from echox.serving.access.security import is_loopback
from echox.serving.protocol.limits import Limits

log = logging.getLogger("echox.serving")
BACKLOG = 128  # connections that wait in the system; the event loop may accept all of them in one step
_RESERVED_FILES = 128  # other files of this process: the model, sockets of workers, standard streams, the log
_LINGER_S = 5.0  # beside `Limits.send_s`: what the application sends may need that long itself
_SWEEP_S = 0.5


@dataclass
class _Delivery:
    """What a client has not taken yet of what it was sent, while nothing is added to it.

    Attributes:
        unsent_bytes: that are left.
        taken_at: when it last took some, s.
        until: when it must have taken all, s.
    """

    unsent_bytes: int
    taken_at: float
    until: float


@dataclass(eq=False)
class Connection:
    """One TCP connection.

    Attributes:
        transport: the transport of asyncio.
        client: the client, as `client_at` names it.
        waiting_since: when the server started to wait for (the rest of) a request, s; None: it does not wait.
        deadline: when that request must have arrived, s.
        blocked: the application waits until the client has taken more of what it was sent.
        delivery: what is left of it; None: nothing, or it grows.
        on_timeout: called when the deadline has passed.
    """

    transport: asyncio.Transport
    client: str
    waiting_since: float | None = None
    deadline: float = math.inf
    blocked: bool = False
    delivery: _Delivery | None = None
    on_timeout: Callable[[], None] | None = None

    def start_waiting(self, now: float, max_wait_s: float, on_timeout: Callable[[], None]) -> None:
        """The server waits for a request of this client from now on."""
        self.waiting_since, self.deadline, self.on_timeout = now, now + max_wait_s, on_timeout

    def stop_waiting(self) -> None:
        """The request is complete: the server does not wait any longer."""
        self.waiting_since, self.deadline, self.on_timeout = None, math.inf, None

    def block(self, blocked: bool) -> None:
        """The application has to wait until the client has taken more, or no longer."""
        self.blocked, self.delivery = blocked, None

    @property
    def delivering(self) -> bool:
        """Whether something is unsent to which nothing is added: the client alone decides how long it takes."""
        finished = self.blocked or self.waiting_since is not None or self.transport.is_closing()
        return finished and self.transport.get_write_buffer_size() > 0


class Connections:
    """All open connections.

    Args:
        limits: see `Limits`.
        clock: the clock of the event loop, s.
        on_refusal: called with a code for each connection that is refused or closed.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float], on_refusal: Callable[[str], None]) -> None:
        self.limits = limits
        self.max_connections = connection_limit(limits.max_connections, open_file_limit())
        self.max_per_client = share(limits.max_client_share, self.max_connections)
        self._clock, self._on_refusal = clock, on_refusal
        self._open: dict[asyncio.Transport, Connection] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def now(self) -> float:
        """Time of the clock, s."""
        return self._clock()

    def open(self, transport: asyncio.Transport) -> Connection | None:
        """Register a new connection; None: there is no room for it, and it was closed."""
        peer = transport.get_extra_info("peername")
        client = client_at(str(peer[0])) if isinstance(peer, tuple) else ""
        entry = Connection(transport, client)
        if not self._make_room_for(client):
            self._on_refusal("too_many_connections")
            log.warning("connection from %s refused: %d connections are open", client or "?", len(self._open))
            transport.abort()
            return None
        self._open[transport] = entry
        return entry

    def get(self, transport: asyncio.Transport) -> Connection | None:
        """The entry of a connection that was registered before."""
        return self._open.get(transport)

    def close(self, transport: asyncio.Transport) -> None:
        """Remove a connection that has ended."""
        self._open.pop(transport, None)

    def _make_room_for(self, client: str) -> bool:
        if counts_as_client(client):
            own = [entry for entry in self._open.values() if entry.client == client]
            if len(own) >= self.max_per_client and not self._evict(own):
                return False
        return len(self._open) < self.max_connections or self._evict(list(self._open.values()))

    def _evict(self, entries: list[Connection]) -> bool:
        """Close the connection that has kept the server waiting longest; False: there is none."""
        waiting = [entry for entry in entries if entry.waiting_since is not None or entry.transport.is_closing()]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda entry: (entry.delivering, entry.waiting_since or 0.0))
        self._on_refusal("connection_evicted")
        self._drop(oldest)
        return True

    def _drop(self, entry: Connection) -> None:
        self.close(entry.transport)
        entry.transport.abort()

    def sweep(self) -> None:
        """Close what is overdue: requests that did not arrive, and answers that are not read."""
        now = self._clock()
        for entry in list(self._open.values()):
            if entry.delivering:
                if not self._is_taken(entry, now):
                    self._on_refusal("slow_reader")
                    self._drop(entry)
                elif entry.waiting_since is not None:  # its next request can follow when it has read the last answer
                    entry.deadline = max(entry.deadline, now + self.limits.header_s)
                continue
            entry.delivery = None
            if now > entry.deadline and not entry.transport.is_closing():
                on_timeout = entry.on_timeout or entry.transport.abort
                entry.stop_waiting()
                self._on_refusal("request_timeout")
                on_timeout()

    def _is_taken(self, entry: Connection, now: float) -> bool:
        """Whether a client takes what it was sent: some of it again and again, and all of it in the end."""
        unsent, patience_s = entry.transport.get_write_buffer_size(), self.limits.send_s + _LINGER_S
        if entry.delivery is None:
            entry.delivery = _Delivery(unsent, now, now + patience_s + unsent / self.limits.min_bytes_per_s)
        elif unsent < entry.delivery.unsent_bytes:
            entry.delivery.unsent_bytes, entry.delivery.taken_at = unsent, now
        return now <= min(entry.delivery.taken_at + patience_s, entry.delivery.until)

    async def watch(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_S)
            self.sweep()


def share(fraction: float, total: int) -> int:
    """The number out of `total` that one client may use, at least 1."""
    return max(1, math.ceil(fraction * total))


def client_at(address: str) -> str:
    """The client that an address belongs to: the address, or for IPv6 its network of 64 bits, which one client has.

    Source: RFC 6177 section 2 (networks of sites), RFC 4291 section 2.5.5.2 (IPv4 in IPv6).
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
    """Whether the share of one client applies to an address; not to this machine, where a proxy may run."""
    return bool(client) and not is_loopback(client)


def open_file_limit() -> int | None:
    """Number of files that this process may have open; None: the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


def raise_open_file_limit(wanted: int) -> None:
    """Let this process open `wanted` files, as far as the hard limit of the system allows. A higher limit stays."""
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


def files_needed(connections: int) -> int:
    """Number of open files that a server with this number of connections needs."""
    return connections + BACKLOG + _RESERVED_FILES


def connection_limit(wanted: int, open_files: int | None) -> int:
    """The number of connections with which the process never runs out of file descriptors.

    Args:
        wanted: the configured number.
        open_files: result of `open_file_limit`.

    Raises:
        ValueError: the process may open too few files for a single connection.
    """
    if open_files is None or files_needed(wanted) <= open_files:
        return wanted
    possible = open_files - files_needed(0)
    if possible < 1:
        raise ValueError(
            f"open files: expected a limit of {files_needed(1)} or more, found {open_files}; raise it (ulimit -n)"
        )
    log.warning("%d connections instead of %d: this process may open %d files", possible, wanted, open_files)
    return possible
