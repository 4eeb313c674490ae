"""What waits to be sent to one client: in order, bounded, and forgetful of speech that was interrupted."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from echox.serving.protocol.events import new_id


@dataclass
class _Letter:
    text: str
    sound_of: str | None  # id of the response whose speech this is
    sent: Callable[[], None] | None


class SlowReader(Exception):
    """The client does not take what it is sent."""


class Outbox:
    """Events of one client, sent by `run` one after the other.

    Args:
        send: sends one text, waiting while the network is full.
        send_s: how long one may take. max_unsent_bytes: what may wait.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]], send_s: float, max_unsent_bytes: int) -> None:
        self._send, self._send_s, self._max_unsent_bytes = send, send_s, max_unsent_bytes
        self._letters: deque[_Letter] = deque()
        self._unsent_bytes = 0
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._taken = asyncio.Event()
        self._closed = False

    @property
    def waiting(self) -> bool:
        """Whether something has not left yet."""
        return not self._idle.is_set()

    def put(self, event: dict, sound_of: str | None = None, sent: Callable[[], None] | None = None) -> None:
        """Add an event; it gets its id here.

        Args:
            event: as the protocol writes it.
            sound_of: the response whose speech it carries.
            sent: called when it left.

        Raises:
            SlowReader: too much is waiting already.
        """
        if self._closed:
            return
        text = json.dumps({"event_id": new_id("event"), **event}, separators=(",", ":"))
        self._unsent_bytes += len(text)
        if self._unsent_bytes > self._max_unsent_bytes:
            self._closed = True
            self._news.set()
            self._taken.set()
            raise SlowReader(f"{self._unsent_bytes} bytes wait to be read")
        self._letters.append(_Letter(text, sound_of, sent))
        self._idle.clear()
        self._news.set()

    def close(self) -> None:
        """Nobody reads any more: take nothing, keep nothing."""
        self._closed = True
        self._letters.clear()
        self._news.set()
        self._taken.set()

    def drop_sound(self, response_id: str) -> None:
        """Forget the speech of a response that has not left yet."""
        kept = [letter for letter in self._letters if letter.sound_of != response_id]
        self._letters = deque(kept)
        self._unsent_bytes = sum(len(letter.text) for letter in kept)

    async def run(self) -> None:
        """Send until cancelled.

        Raises:
            SlowReader: one message was not taken in time, or too much is waiting.
        """
        while True:
            while not self._letters:
                if self._closed:
                    raise SlowReader("too much waits to be read")
                self._idle.set()
                self._news.clear()
                await self._news.wait()
            letter = self._letters.popleft()
            self._unsent_bytes -= len(letter.text)
            self._taken.set()
            try:
                await asyncio.wait_for(self._send(letter.text), self._send_s)
            except asyncio.TimeoutError as error:
                raise SlowReader(f"a message was not taken within {self._send_s:g} s") from error
            if letter.sent is not None:
                letter.sent()

    async def room(self) -> None:
        """Wait until no more than half of what may wait does: who asks for much has to take it before asking on."""
        while self._unsent_bytes > self._max_unsent_bytes // 2 and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    async def flushed(self) -> None:
        """Wait until everything has left."""
        await self._idle.wait()
