"""Events that wait to be sent to one client: in order, limited in size; unsent audio of a reply can be dropped."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from echox.serving.protocol.events import new_id
from echox.serving.protocol.json_input import JsonObject
from echox.timeouts import within


@dataclass
class _Outgoing:
    text: str
    audio_of: str | None  # id of the response whose audio this is
    on_sent: Callable[[], None] | None


class SlowReader(Exception):
    """The client does not receive its events fast enough."""


class Outbox:
    """Events of one client; `run` sends them one by one.

    Args:
        send: sends one text message; it waits while the network buffer is full.
        send_s: time that sending one message may take.
        max_unsent_bytes: bytes that may wait.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]], send_s: float, max_unsent_bytes: int) -> None:
        self._send, self._send_s, self._max_unsent_bytes = send, send_s, max_unsent_bytes
        self._messages: deque[_Outgoing] = deque()
        self._unsent_bytes = 0
        self._changed = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._taken = asyncio.Event()
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether something is not sent yet."""
        return not self._idle.is_set()

    def put(self, event: JsonObject, audio_of: str | None = None, on_sent: Callable[[], None] | None = None) -> None:
        """Add an event and give it an id.

        Args:
            event: the event without ``event_id``.
            audio_of: id of the response whose audio it contains.
            on_sent: called when it is sent.

        Raises:
            SlowReader: too many bytes are waiting.
        """
        if self._closed:
            return
        text = json.dumps({"event_id": new_id("event"), **event}, separators=(",", ":"))
        self._unsent_bytes += len(text)
        if self._unsent_bytes > self._max_unsent_bytes:
            self._closed = True
            self._changed.set()
            self._taken.set()
            raise SlowReader(f"{self._unsent_bytes} bytes wait to be sent")
        self._messages.append(_Outgoing(text, audio_of, on_sent))
        self._idle.clear()
        self._changed.set()

    def close(self) -> None:
        """The client has disconnected: drop all events, also later ones."""
        self._closed = True
        self._messages.clear()
        self._changed.set()
        self._taken.set()

    def drop_audio(self, response_id: str) -> None:
        """Drop the audio of a response that is not sent yet."""
        kept = [message for message in self._messages if message.audio_of != response_id]
        self._messages = deque(kept)
        self._unsent_bytes = sum(len(message.text) for message in kept)

    async def run(self) -> None:
        """Send until cancelled.

        Raises:
            SlowReader: a message was not sent in time, or too many bytes are waiting.
        """
        while True:
            while not self._messages:
                if self._closed:
                    raise SlowReader("too many bytes wait to be sent")
                self._idle.set()
                self._changed.clear()
                await self._changed.wait()
            message = self._messages.popleft()
            self._unsent_bytes -= len(message.text)
            self._taken.set()
            try:
                await within(self._send_s, self._send(message.text))
            except asyncio.TimeoutError as error:
                raise SlowReader(f"a message was not sent within {self._send_s:g} s") from error
            if message.on_sent is not None:
                message.on_sent()

    async def wait_for_room(self) -> None:
        """Wait until at most half of the allowed bytes are waiting. No client event is read until then."""
        while self._unsent_bytes > self._max_unsent_bytes // 2 and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    async def wait_until_sent(self) -> None:
        """Wait until everything is sent."""
        await self._idle.wait()
