"""A WebRTC client in this process, over loopback: aiortc with a microphone of recordings, every event checked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import aioice.ice
import av
import httpx
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError

from serving_help import Client, Running, event_classes

RATE = 48000
FRAME = RATE // 50
LOUD = 0.01


class Microphone(AudioStreamTrack):
    """What is said into it, in real time; else silence."""

    def __init__(self) -> None:
        super().__init__()
        self._frames: deque[np.ndarray] = deque()
        self._count = 0
        self._began_s = time.monotonic()

    def say(self, samples: np.ndarray) -> None:
        """Speech, float32 (S,) at 48 kHz."""
        whole = np.pad(samples, (0, -len(samples) % FRAME))
        self._frames.extend(whole.reshape(-1, FRAME))

    @property
    def speaking(self) -> bool:
        return bool(self._frames)

    async def recv(self) -> av.AudioFrame:
        await asyncio.sleep(max(0.0, self._began_s + self._count * 0.02 - time.monotonic()))
        samples = self._frames.popleft() if self._frames else np.zeros(FRAME, np.float32)
        frame = av.AudioFrame.from_ndarray(
            (samples.clip(-1, 1) * 32767).astype(np.int16)[None], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = RATE, self._count * FRAME, Fraction(1, RATE)
        self._count += 1
        return frame


class Socket:
    """The data channel with the methods of a WebSocket, for `Client`."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.messages: asyncio.Queue[str | None] = asyncio.Queue()
        channel.on("message", self.messages.put_nowait)
        channel.on("close", lambda: self.messages.put_nowait(None))

    async def send(self, text: str) -> None:
        self.channel.send(text)

    async def recv(self) -> str:
        message = await self.messages.get()
        if message is None:
            raise ConnectionError("the call has ended")
        return message


class CallClient(Client):
    """A client in a call."""

    def __init__(self, peer: RTCPeerConnection, microphone: Microphone, location: str) -> None:
        self.peer, self.microphone, self.location = peer, microphone, location
        self.frames: list[tuple[float, np.ndarray]] = []  # when each came, and its samples

    async def listen(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                samples = frame.to_ndarray().reshape(-1, 2)[:, 0].astype(np.float32) / 32768
                self.frames.append((time.monotonic(), samples))

    async def speak(self, samples: np.ndarray) -> None:
        """Say something, to its end; float32 (S,) at 48 kHz."""
        self.microphone.say(samples)
        while self.microphone.speaking:
            await asyncio.sleep(0.02)

    def heard(self) -> np.ndarray:
        """All sound that came."""
        return np.concatenate([samples for _, samples in self.frames]) if self.frames else np.zeros(0, np.float32)

    @property
    def loud_s(self) -> float:
        """How long something was heard."""
        return sum(0.02 for _, samples in self.frames if np.abs(samples).max() > LOUD)

    @property
    def last_loud_at(self) -> float:
        return max((at for at, samples in self.frames if np.abs(samples).max() > LOUD), default=0.0)


async def offer_of(peer: RTCPeerConnection) -> str:
    await peer.setLocalDescription(await peer.createOffer())
    return peer.localDescription.sdp


def on_loopback(monkeypatch: Any) -> None:
    """Clients of this process offer the address of loopback, which aioice leaves out."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])


async def post(server: Running, sdp: str, key: str | None = None, **session: Any) -> httpx.Response:
    """An offer as the two forms of the protocol have it: with options in a form, else alone."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    address = f"{server.url}/v1/realtime/calls"
    async with httpx.AsyncClient(timeout=30) as client:
        if session:
            fields = {"sdp": (None, sdp), "session": (None, json.dumps(session))}
            return await client.post(address, files=fields, headers=headers)
        return await client.post(address, content=sdp, headers={**headers, "Content-Type": "application/sdp"})


@contextlib.asynccontextmanager
async def called(server: Running, key: str | None = None, **session: Any) -> AsyncIterator[CallClient]:
    """A client in a call, after its greeting."""
    event_classes()  # imported, which takes seconds, before the server counts how long nothing comes
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    microphone = Microphone()
    peer.addTrack(microphone)
    channel = peer.createDataChannel("oai-events")
    socket = Socket(channel)
    listening: list[asyncio.Task[None]] = []
    client = CallClient(peer, microphone, "")
    Client.__init__(client, socket)
    peer.on("track", lambda track: listening.append(asyncio.ensure_future(client.listen(track))))
    try:
        response = await post(server, await offer_of(peer), key, **session)
        assert response.status_code == 201, response.text
        assert response.headers["content-type"] == "application/sdp"
        client.location = response.headers["location"]
        await peer.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
        assert (await client.next())["type"] == "session.created"
        yield client
    finally:
        await peer.close()
        for task in listening:
            task.cancel()
