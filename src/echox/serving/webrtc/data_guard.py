"""Limits of what a client sends on data channels, applied to each packet as it comes.

SCTP cuts a message into fragments and keeps them until the last one is there; aiortc sets no bound to that, and looks
at all of them again with each new one. A message that never ends would fill the memory, and one in tiny fragments would
stop the event loop for everybody long before.

Made of aiortc's classes, so this file is imported inside functions only (aiortc is an extra).
"""

from __future__ import annotations

from collections.abc import Callable

from aiortc import RTCSctpTransport
from aiortc.rtcsctptransport import SCTP_DATA_FIRST_FRAG, InboundStream, tsn_plus_one

MAX_MESSAGE_BYTES = 262_144
"""Of a client's message; aiortc's answer says so."""
MAX_FRAGMENTS = 1024
"""That wait for others: a lost packet holds back a whole window, which is 1 MiB and 912 fragments of browsers."""
MAX_STREAMS = 16
"""Data channels, and streams that have none: a client needs one."""


class DataGuard:
    """Stands between DTLS and SCTP; after the first excess, nothing more reaches SCTP, and what waits there is dropped.

    Args:
        sctp: of a connection, before it is connected.
        on_excess: called once, with what was too much.
    """

    def __init__(self, sctp: RTCSctpTransport, on_excess: Callable[[str], None]) -> None:
        self._sctp, self._on_excess = sctp, on_excess
        self._deliver, self._over = sctp._handle_data, False
        setattr(sctp, "_handle_data", self._handle)  # noqa: B010 - the way by which DTLS calls it

    async def _handle(self, data: bytes) -> None:
        if self._over:
            return
        await self._deliver(data)
        excess = self._excess()
        if excess is not None:
            self._over = True
            self._sctp._inbound_streams.clear()
            self._on_excess(excess)

    def _excess(self) -> str | None:
        """What is too much now; None: nothing."""
        streams = self._sctp._inbound_streams
        if max(len(streams), len(self._sctp._data_channels)) > MAX_STREAMS:
            return f"more than {MAX_STREAMS} data channels"
        waiting = sum(len(stream.reassembly) for stream in streams.values())
        if max(waiting, len(self._sctp._sack_misordered)) > MAX_FRAGMENTS:
            return f"more than {MAX_FRAGMENTS} fragments that wait for others"
        if any(_longest_bytes(stream) > MAX_MESSAGE_BYTES for stream in streams.values()):
            return f"a message of more than {MAX_MESSAGE_BYTES} bytes"
        return None


def _longest_bytes(stream: InboundStream) -> int:
    """Bytes of the longest message that has not come completely, as far as it has come in one piece."""
    longest = size = 0
    expected = None
    for chunk in stream.reassembly:
        if chunk.tsn != expected or chunk.flags & SCTP_DATA_FIRST_FRAG:
            size = 0
        size += len(chunk.user_data)
        longest, expected = max(longest, size), tsn_plus_one(chunk.tsn)
    return longest
