"""Limits of what a client sends in a call, applied to each packet of its sockets, before ICE reads it.

aioice keeps every address from which it gets a valid check (RFC 8445 section 7.3.1.3), pairs it with those of the
server, sorts all pairs anew and sends checks of its own to it. It sets no bound to that, and whoever has made the offer
can send valid checks from ever new ports. Checks are also no traffic for DTLS, so it does not count them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import aioice

MAX_ADDRESSES = 32
"""Of one client: browsers have some ten, with all networks of a telephone and both versions of IP."""
PACKETS_PER_S, PACKETS_AT_ONCE = 1000, 10_000
"""Sound is 50 a second; a message of 256 KiB is 220."""


class PacketGuard:
    """Stands between the sockets of a connection and ICE; after the first excess nothing more is read.

    Args:
        connection: whose sockets are open.
        on_excess: called once, with what was too much.
        clock: the time, s.
    """

    def __init__(
        self,
        connection: aioice.Connection,
        on_excess: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection, self._on_excess, self._clock = connection, on_excess, clock
        self._began_s, self._count, self._over = clock(), 0, False
        for protocol in connection._protocols:
            # The way by which asyncio, or a relay, calls it.
            setattr(protocol, "datagram_received", partial(self._receive, protocol.datagram_received))  # noqa: B010

    def _receive(self, deliver: Callable[[bytes | str, Any], None], data: bytes | str, addr: tuple[Any, ...]) -> None:
        if self._over:
            return
        self._count += 1
        deliver(data, addr)
        excess = self._excess()
        if excess is not None:
            self._over = True
            self._on_excess(excess)

    def _excess(self) -> str | None:
        """What is too much now; None: nothing."""
        if len(self._connection._remote_candidates) > MAX_ADDRESSES:
            return f"from more than {MAX_ADDRESSES} addresses"
        if self._count > PACKETS_AT_ONCE + PACKETS_PER_S * (self._clock() - self._began_s):
            return "too many packets"
        return None
