"""Where the media of calls goes: the addresses that a server offers, and its STUN and TURN servers (ICE).

Nothing is offered but the addresses that the server was told to listen at, and what STUN and TURN servers that it was
told to use say.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiortc import RTCIceServer

_SERVER = re.compile(r"(stun|turns?):[^\s:?@/]+(:\d{1,5})?(\?transport=(udp|tcp))?")
_ALL_INTERFACES = ("0.0.0.0", "::")


@dataclass(frozen=True)
class IceSettings:
    """Addresses and servers for the media of calls.

    Attributes:
        hosts: names or addresses to listen at, as for ``echox serve --host``; "0.0.0.0" and "::": all interfaces but
            loopback.
        servers: at most one ``stun:HOST[:PORT]`` and one ``turn:HOST[:PORT][?transport=udp|tcp]`` (or ``turns:``).
        username: for the TURN server.
        password: for the TURN server.

    Raises:
        ValueError: a malformed server, more than one of a kind, or TURN without a user.
    """

    hosts: tuple[str, ...] = ("127.0.0.1",)
    servers: tuple[str, ...] = ()
    username: str | None = None
    password: str | None = None

    def __post_init__(self) -> None:
        if not self.hosts:
            raise ValueError("media: expected an address to listen at, found none")
        kinds = []
        for server in self.servers:
            if not _SERVER.fullmatch(server) or (server.startswith("stun") and "?" in server):
                expected = "stun:HOST[:PORT] or turn:HOST[:PORT][?transport=udp|tcp]"
                raise ValueError(f"ICE server: expected {expected}, found {server!r}")
            kinds.append(server[:4])
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"ICE servers: expected at most one of STUN and one of TURN, found {', '.join(kinds)}")
        if "turn" in kinds and not (self.username and self.password):
            raise ValueError("TURN: expected a user name and a password; use --turn-username and --turn-password")

    def addresses(self) -> list[str]:
        """The addresses of this machine that calls may use. It may ask the system for names, and wait for it.

        Raises:
            ValueError: a host has no address.
        """
        from aioice.ice import get_host_addresses

        found: list[str] = []
        for host in self.hosts:
            if host in _ALL_INTERFACES:
                here = get_host_addresses(use_ipv4=host == "0.0.0.0", use_ipv6=host == "::")
                found += here or [{"0.0.0.0": "127.0.0.1", "::": "::1"}[host]]
                continue
            try:
                found += [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)]
            except OSError as error:
                raise ValueError(f"media: expected a name or address of this machine, found {host!r}") from error
        return list(dict.fromkeys(found))

    def rtc_servers(self) -> list[RTCIceServer]:
        """The servers, as aiortc has them."""
        from aiortc import RTCIceServer

        return [RTCIceServer(server, self.username, self.password) for server in self.servers]
