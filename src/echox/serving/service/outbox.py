"""Events that wait to be sent to one client: in order, limited in size; unsent audio of a reply can be dropped."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass

from echox.serving.protocol.events import EventError, new_id
from echox.serving.protocol.json_input import JsonObject
from echox.serving.protocol.limits import Limits
from echox.timeouts import within

answered_event: ContextVar[str | None] = ContextVar("answered_event", default=None)
"""Id of the client's event that is being handled, also in the tasks that began meanwhile; None: it has none."""


@dataclass
class _Outgoing:
    text: str
    audio_of: str | None  # id of the response whose audio this is
    on_sent: Callable[[], None] | None


class SlowReader(Exception):
    """The client does not receive its events fast enough."""


class Pace:
    """The pace at which a client has to take what it is sent.

    Args:
        send_s: time that sending one message may take, beside `min_bytes_per_s`.
        min_bytes_per_s: of a long message.
    """

    def __init__(self, send_s: float, min_bytes_per_s: int) -> None:
        self._send_s, self._min_bytes_per_s = send_s, min_bytes_per_s
        self._before = 0  # bytes of the message before, whose end may still be on its way

    async def keep(self, sending: Coroutine[object, object, None], num_bytes: int) -> None:
        """Send one message.

        Raises:
            SlowReader: it takes too long.
            Exception: any error of sending.
        """
        send_s = self._send_s + (self._before + num_bytes) / self._min_bytes_per_s
        self._before = num_bytes
        try:
            await within(send_s, sending)
        except asyncio.TimeoutError as error:
            raise SlowReader(f"a message was not sent within {send_s:g} s") from error


class Outbox:
    """Events of one client; `run` sends them one by one.

    Args:
        send: sends one text message; it waits while the network buffer is full.
        send_s: time that sending one message may take, beside `min_bytes_per_s`.
        max_unsent_bytes: bytes that may wait.
        max_event_bytes: largest event that the client takes; None: any.
        min_bytes_per_s: of a long message.
    """

    def __init__(
        self,
        send: Callable[[str], Coroutine[object, object, None]],
        send_s: float,
        max_unsent_bytes: int,
        max_event_bytes: int | None = None,
        min_bytes_per_s: int = Limits.min_bytes_per_s,
    ) -> None:
        self._send, self._pace = send, Pace(send_s, min_bytes_per_s)
        self._max_unsent_bytes, self._max_event_bytes = max_unsent_bytes, max_event_bytes
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

    def put(
        self,
        event: JsonObject,
        audio_of: str | None = None,
        on_sent: Callable[[], None] | None = None,
        shorter: JsonObject | None = None,
    ) -> None:
        """Add an event and give it an id. One that is larger than the client takes becomes an ``error`` event.

        Args:
            event: the event without ``event_id``.
            audio_of: id of the response whose audio it contains.
            on_sent: called when it is sent.
            shorter: sent instead, if the client does not take all of it.

        Raises:
            SlowReader: too many bytes are waiting.
        """
        if self._closed:
            return
        text = self._text_of(event, shorter)
        self._unsent_bytes += len(text)
        if self._unsent_bytes > self._max_unsent_bytes:
            self._closed = True
            self._changed.set()
            self._taken.set()
            raise SlowReader(f"{self._unsent_bytes} bytes wait to be sent")
        self._messages.append(_Outgoing(text, audio_of, on_sent))
        self._idle.clear()
        self._changed.set()

    def _text_of(self, event: JsonObject, shorter: JsonObject | None) -> str:
        for one in (event, shorter):
            text = "" if one is None else _to_json(one)
            if text and (self._max_event_bytes is None or len(text) <= self._max_event_bytes):  # it is ASCII
                return text
        message = f"{event['type']}: expected to fit into a message of this client, found more"
        return _to_json(EventError(message, "event_too_large").to_event(answered_event.get()))

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
            await self._pace.keep(self._send(message.text), len(message.text))
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


def _to_json(event: JsonObject) -> str:
    return json.dumps({"event_id": new_id("event"), **event}, separators=(",", ":"))
