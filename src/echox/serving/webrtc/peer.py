"""The peer connection of a call, by aiortc: one Opus track each way and one data channel. No session is known here.

Made of aiortc's classes, so this file is imported inside functions only (aiortc is an extra).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from aiortc import (
    InvalidStateError,
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCSessionDescription,
    RTCTransportStats,
)
from aiortc.mediastreams import MediaStreamError

from echox.serving.realtime.transport import Disconnected
from echox.serving.webrtc.data_guard import DataGuard
from echox.serving.webrtc.ice import IceSettings
from echox.serving.webrtc.offer import Offer
from echox.serving.webrtc.packet_guard import PacketGuard
from echox.serving.webrtc.playback import RATE
from echox.timeouts import within

log = logging.getLogger("echox.serving")
EVENTS_CHANNEL = "oai-events"
_UNSENT_BYTES = 256 * 1024  # on the way at once; more waits in the outbox, where it can be dropped
_PACKETS = 50
_CLOSE_S = 5.0


class PacketTrack(MediaStreamTrack):
    """A track of Opus packets that are sent as soon as they are put into it."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._packets: asyncio.Queue[av.Packet] = asyncio.Queue(_PACKETS)

    def put(self, data: bytes, timestamp: int) -> None:
        """Send a packet; the oldest is dropped if nobody takes them."""
        packet = av.Packet(data)
        packet.pts, packet.time_base = timestamp, Fraction(1, RATE)
        if self._packets.full():
            self._packets.get_nowait()
        self._packets.put_nowait(packet)

    async def recv(self) -> av.Packet:
        """The next packet, for aiortc."""
        return await self._packets.get()


class Peer:
    """One WebRTC client.

    Args:
        settings: addresses and servers for the media.
        on_message: called with each message of the data channel.

    Attributes:
        opened: set when the client can be talked to.
        lost: set when the connection has ended.
    """

    def __init__(self, settings: IceSettings, on_message: Callable[[str | bytes], None]) -> None:
        self._settings, self._on_message = settings, on_message
        configuration = RTCConfiguration(iceServers=settings.rtc_servers(), bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        self._connection = RTCPeerConnection(configuration)
        self.track = PacketTrack()
        self._transceiver = self._connection.addTransceiver(self.track, direction="sendrecv")
        capabilities = RTCRtpReceiver.getCapabilities("audio")
        assert capabilities is not None
        self._transceiver.setCodecPreferences(
            [codec for codec in capabilities.codecs if codec.mimeType.lower() == "audio/opus"]
        )
        self._channel: RTCDataChannel | None = None
        self._offer: Offer | None = None
        self._room = asyncio.Event()
        self.opened, self.lost = asyncio.Event(), asyncio.Event()
        self._connection.on("connectionstatechange", self._on_state)
        self._connection.on("datachannel", self._on_channel)

    async def answer(self, offer: Offer) -> str:
        """Answer an offer; connecting begins.

        Returns:
            The answer, SDP.

        Raises:
            ValueError: what aiortc finds wrong with the offer, or none of the server's addresses can be used.
        """
        self._offer = offer
        addresses = await asyncio.to_thread(self._settings.addresses)
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(offer.sdp, "offer"))
            if self._connection.sctp is not None:
                DataGuard(self._connection.sctp, self._on_excess)
            await self._gather(addresses)
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except (InvalidStateError, AssertionError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"it cannot be answered ({type(error).__name__})") from error
        return self._connection.localDescription.sdp

    async def _gather(self, addresses: list[str]) -> None:
        """Offer these addresses, and what STUN and TURN servers say; aioice would offer those of all interfaces."""
        connection = self._transceiver.sender.transport.transport.iceGatherer._connection
        connection._local_candidates_start = True
        for candidate in await connection.get_component_candidates(1, addresses):
            if candidate.type != "host":  # behind a relay the server's own address is nobody's business (RFC 8839, 5.1)
                candidate.related_address = "::" if ":" in candidate.host else "0.0.0.0"
                candidate.related_port = 9
            connection._local_candidates.append(candidate)
        connection._local_candidates_end = True
        if not connection._local_candidates:
            raise OSError(f"no address for media: expected to listen at {', '.join(addresses)}")
        PacketGuard(connection, self._on_excess)

    async def send(self, text: str) -> None:
        """Send a message on the data channel, if there is one, and wait until there is room for another.

        Raises:
            Disconnected: the connection has ended.
        """
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(text)
        except (InvalidStateError, ValueError) as error:
            raise Disconnected from error
        while channel.bufferedAmount > _UNSENT_BYTES:
            self._room.clear()
            await self._room.wait()
            if self.lost.is_set():
                raise Disconnected

    async def hear(self, gap_s: float) -> tuple[np.ndarray, int] | None:
        """The next frame of the client's microphone: samples float32 (S,) at 48 kHz, and their timestamp.

        None: nothing has come for so long.

        Raises:
            Disconnected: it has ended, or there is none.
        """
        track = self._transceiver.receiver.track
        if track is None:
            await self.lost.wait()
            raise Disconnected
        try:
            frame = await within(gap_s, track.recv())
        except asyncio.TimeoutError:
            return None
        except MediaStreamError as error:
            raise Disconnected from error
        assert isinstance(frame, av.AudioFrame)
        samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
        return samples.mean(axis=1, dtype=np.float32) / 32768.0, frame.pts or 0

    async def packets_received(self) -> int:
        """Packets that have come, of sound and events."""
        report = await self._connection.getStats()
        return sum(found.packetsReceived for found in report.values() if isinstance(found, RTCTransportStats))

    async def close(self) -> None:
        """End the connection, after what was sent has left."""
        channel = self._channel
        if channel is not None and not self.lost.is_set():
            for _ in range(20):
                if channel.bufferedAmount == 0:
                    break
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.05)
        try:
            await within(_CLOSE_S, self._connection.close())
        except asyncio.TimeoutError:
            log.warning("a call could not be closed within %g s", _CLOSE_S)
        self._end()

    def _on_state(self) -> None:
        state = self._connection.connectionState
        if state in ("failed", "closed"):
            self._end()
        elif state == "connected" and self._offer is not None and not self._offer.has_events:
            self.opened.set()

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if channel.label != EVENTS_CHANNEL or self._channel is not None:
            channel.close()
            return
        self._channel = channel
        channel.bufferedAmountLowThreshold = _UNSENT_BYTES // 2
        channel.on("bufferedamountlow", self._room.set)
        channel.on("message", self._on_message)
        channel.on("close", self._end)
        self.opened.set()

    def _on_excess(self, what: str) -> None:
        log.info("a call ends: its client has sent %s", what)
        self._end()

    def _end(self) -> None:
        self.lost.set()
        self._room.set()
