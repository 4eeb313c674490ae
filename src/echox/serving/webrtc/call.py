"""A call: the WebRTC connection of one session."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from echox.serving.protocol.events import new_id
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.wire import AudioFormat
from echox.serving.realtime.transport import Disconnected
from echox.serving.service.outbox import Outbox, SlowReader
from echox.serving.webrtc.ice import IceSettings
from echox.serving.webrtc.microphone import Microphone
from echox.serving.webrtc.offer import Offer
from echox.serving.webrtc.opus import OpusEncoder
from echox.serving.webrtc.playback import FRAME_S, FRAME_SAMPLES, Playback, PlayedSpeech

if TYPE_CHECKING:
    from collections.abc import Coroutine

log = logging.getLogger("echox.serving")
_GAP_S = 0.1  # after so long without sound from the client, silence is assumed
_LATE_S = 0.2  # frames that are later than this are left out instead of sent all at once
_WATCH_S = 1.0


class Call:
    """One WebRTC client, as the connection of a session.

    Args:
        settings: addresses and servers for the media.
        limits: limits of the server.
    """

    plays = True

    def __init__(self, settings: IceSettings, limits: Limits) -> None:
        from echox.serving.webrtc.peer import Peer

        self.id = new_id("rtc")
        self._limits = limits
        self._peer = Peer(settings, self._put)
        self._playback = Playback()
        self._inbox: asyncio.Queue[str | bytes | np.ndarray | None] = asyncio.Queue()
        self._inbox_bytes = 0
        self._max_event_bytes: int | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def max_event_bytes(self) -> int | None:
        """Largest event that the client takes, once its offer is known."""
        return self._max_event_bytes

    async def answer(self, offer: Offer) -> str:
        """Answer an offer (SDP); see `Peer.answer`."""
        self._max_event_bytes = offer.max_message_bytes
        return await self._peer.answer(offer)

    async def connect(self) -> None:
        """Wait until the client can be talked to, then play and listen.

        Raises:
            Disconnected: it is not connected in time.
        """
        opened, lost = (asyncio.create_task(event.wait()) for event in (self._peer.opened, self._peer.lost))
        try:
            await asyncio.wait((opened, lost), timeout=self._limits.connect_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (opened, lost):
                task.cancel()
        if not self._peer.opened.is_set() or self._peer.lost.is_set():
            raise Disconnected
        for work in (self._play(), self._listen(), self._watch(), self._wait_until_lost()):
            self._tasks.append(asyncio.create_task(self._until_lost(work)))

    async def send(self, text: str) -> None:
        """Send one event, of at most `max_event_bytes`."""
        await self._peer.send(text)

    def speech(self, response_id: str, model_rate: int, audio_format: AudioFormat, outbox: Outbox) -> PlayedSpeech:
        """The speech of one response, played by the server. It is Opus, whatever the format of speech in events."""
        return self._playback.speech(response_id, model_rate, outbox)

    async def receive(self) -> str | bytes | np.ndarray:
        """The next event, or samples float32 (S,) at 16 kHz of the microphone."""
        message = await self._inbox.get()
        if message is None:
            raise Disconnected
        self._inbox_bytes -= _size(message)
        return message

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """End the call."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._peer.close()

    def hang_up(self) -> None:
        """Let the session end, as if the client had left; what it has sent and was not handled is dropped."""
        while not self._inbox.empty():
            self._inbox.get_nowait()
        self._inbox.put_nowait(None)
        self._peer.lost.set()

    # ------------------------------------------------------------------------------------------ what runs meanwhile

    async def _play(self) -> None:
        """Send what is played, frame by frame, in real time."""
        encoder, began_s, count = OpusEncoder(), time.monotonic(), 0
        while True:
            now_s = time.monotonic()
            wait_s = began_s + count * FRAME_S - now_s
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif -wait_s > _LATE_S:
                count = int((now_s - began_s) / FRAME_S)
            frame = self._playback.next_frame(time.monotonic())
            if frame is not None:
                self._peer.track.put(encoder.encode(frame), count * FRAME_SAMPLES)
            count += 1

    async def _listen(self) -> None:
        """Receive sound of the client."""
        microphone = Microphone(time.monotonic())
        while True:
            heard = await self._peer.hear(_GAP_S)
            now_s = time.monotonic()
            samples = microphone.miss(now_s) if heard is None else microphone.hear(*heard, now_s)
            if len(samples):
                self._put(samples)

    async def _watch(self) -> None:
        """Watch whether something comes.

        Raises:
            Disconnected: nothing has come for too long.
        """
        silent_since_s = time.monotonic()
        before = -1
        while True:
            await asyncio.sleep(_WATCH_S)
            now_s, count = time.monotonic(), await self._peer.packets_received()
            if count != before:
                before, silent_since_s = count, now_s
            elif now_s - silent_since_s > self._limits.lost_s:
                raise Disconnected(f"nothing came for {self._limits.lost_s:g} s")

    async def _wait_until_lost(self) -> None:
        await self._peer.lost.wait()
        raise Disconnected("the connection has ended")

    async def _until_lost(self, work: Coroutine[object, object, None]) -> None:
        """Do this work; when it ends, the session ends."""
        try:
            await work
        except Disconnected as error:
            if str(error):
                log.info("%s: %s", self.id, error)
        except SlowReader:
            log.debug("%s: the client does not read its events", self.id)
        except Exception:
            log.exception("%s: a call has failed", self.id)
        self._inbox.put_nowait(None)

    def _put(self, message: str | bytes | np.ndarray) -> None:
        """Keep what the client has sent until the session takes it; if that is too much, the call ends."""
        self._inbox_bytes += _size(message)
        if self._inbox_bytes > self._limits.max_message_bytes:
            self.hang_up()
        else:
            self._inbox.put_nowait(message)


def _size(message: str | bytes | np.ndarray) -> int:
    """Memory that it takes, bytes: an empty message takes some, too."""
    return message.nbytes if isinstance(message, np.ndarray) else sys.getsizeof(message)
