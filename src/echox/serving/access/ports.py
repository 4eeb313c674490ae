"""Sockets of a server, bound before the model is loaded, so that a port in use is reported at once."""

from __future__ import annotations

import errno
import os
import socket


def bind(host: str, port: int) -> list[socket.socket]:
    """Reserve a port at all addresses of a host name. The port stays closed to clients until the server listens.

    Args:
        host: a name or address; "0.0.0.0" and "::" are all interfaces.
        port: 0 chooses a free port, the same for all addresses.

    Returns:
        One bound socket per address; the caller closes them.

    Raises:
        ValueError: the port is in use, not allowed, or the host has no address here.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ValueError(f"host {host!r}: expected a name or address of this machine, found: {error}") from error
    listeners: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            listeners.append(_bound(family, kind, protocol, (address[0], port, *address[2:])))
        except OSError as error:
            if listeners and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a name with an IPv6 address on a machine without IPv6
            for listener in listeners:
                listener.close()
            raise ValueError(
                f"port {port} of {host}: expected a free port, found: {error.strerror or error}; stop the program that "
                "listens there, or choose another one with --port"
            ) from error
        port = port or listeners[0].getsockname()[1]
    return listeners


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a port that another program listens at is still refused
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener
