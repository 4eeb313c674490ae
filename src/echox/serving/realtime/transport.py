"""What carries a session to its client: its events both ways, and the speech of its replies.

A session knows nothing of WebSockets or WebRTC. There are two kinds of transports: those whose client plays the speech
itself, as it comes in events (a WebSocket), and those that send the speech in real time, so that the server knows what
was heard (WebRTC).
"""

from __future__ import annotations

from typing import Protocol, TypedDict

import numpy as np

from echox.serving.protocol.wire import AudioFormat
from echox.serving.service.outbox import Outbox


class ContentPlace(TypedDict):
    """The place of content in a response, as events name it."""

    response_id: str
    item_id: str
    output_index: int
    content_index: int


class Disconnected(Exception):
    """The client has disconnected."""


class Speech(Protocol):
    """The speech of one response, on its way to the client. Times are those of ``time.monotonic``, s."""

    @property
    def sent_s(self) -> float:
        """Length of the speech that the client gets even if the response is cancelled now, s."""
        ...

    @property
    def underruns(self) -> int:
        """How often the client had nothing to play although more followed."""
        ...

    def add(self, waveform: np.ndarray, place: ContentPlace) -> None:
        """Add samples float32 (S,) at the rate of the model."""
        ...

    def end(self) -> None:
        """All was added."""
        ...

    def cut(self) -> None:
        """The response was cancelled: no more is added, and what can still be held back is dropped."""
        ...

    def heard_s(self, now_s: float) -> float:
        """Length of the speech that was played, s."""
        ...

    def playing(self, now_s: float) -> bool:
        """Whether the client is still playing it."""
        ...

    def stop(self, now_s: float) -> None:
        """Nothing more of it is played."""
        ...


class Transport(Protocol):
    """The connection to one client, as its session sees it."""

    @property
    def plays(self) -> bool:
        """Whether the server plays the speech, in real time (WebRTC); else the client does, as it likes."""
        ...

    @property
    def max_event_bytes(self) -> int | None:
        """Largest event that the client takes; None: any."""
        ...

    async def send(self, text: str) -> None:
        """Send one event. It waits while too much is on the way.

        Raises:
            Disconnected: the client has disconnected.
        """
        ...

    def speech(self, response_id: str, model_rate: int, audio_format: AudioFormat, outbox: Outbox) -> Speech:
        """The way of the speech of one response.

        Args:
            response_id: id of the response.
            model_rate: rate of its samples, Hz.
            audio_format: format of speech in events.
            outbox: the events of the client.
        """
        ...


class Connection(Transport, Protocol):
    """A transport with what a server does with it besides."""

    async def receive(self) -> str | bytes | np.ndarray:
        """The next event of the client, or samples float32 (S,) at 16 kHz of its microphone.

        Raises:
            Disconnected: the client has disconnected.
        """
        ...

    async def close(self, code: int, reason: str) -> None:
        """Close the connection.

        Args:
            code: as WebSockets have them (RFC 6455 section 7.4.1).
            reason: for people.
        """
        ...
