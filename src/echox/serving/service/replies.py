"""The bridge between the model's thread and the event loop: a reply is made there, its events arrive here."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from echox.serving.protocol.events import EventError, short
from echox.streaming.events import Event, Mark, Timings
from echox.streaming.task import ReplyTask


class ReplyFeed:
    """One reply of the model, as an asynchronous iterator of its events.

    Args:
        ask: begins the reply, given what is to be called with its events: `Session.submit` or `Session.speak`.
        *args: its arguments.
        **settings: of the reply.

    Raises:
        ValueError: a question that cannot be answered.
        QueueFull: too many replies wait already.
    """

    def __init__(self, ask: Callable[..., ReplyTask], *args: Any, **settings: Any) -> None:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        # No method: a task that knows its feed is a ring, and a server would keep a thousand replies before Python's
        # collector looks for rings. What this raises, once the loop has gone, cancels the reply.
        def tell(event: Event | None) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        self._events = events
        self.task = ask(*args, on_event=tell, **settings)

    @property
    def timeline(self) -> tuple[Mark, ...]:
        """When which word is heard, as far as it was said."""
        return () if self.task.speech is None else tuple(self.task.speech.timeline)

    @property
    def timings(self) -> Timings:
        """The account of the reply, so far."""
        return self.task.timings

    def cancel(self) -> None:
        """Stop the model within one step; what it says meanwhile is not told any more."""
        self.task.cancel()

    async def events(self) -> AsyncIterator[Event]:
        """Events as they come; the end is the model's end, also of a cancelled reply.

        Raises:
            ValueError: what the model refused. Exception: what else failed in it.
        """
        while (event := await self._events.get()) is not None:
            if not self.task.cancelled:
                yield event
        if self.task.error is not None:
            raise self.task.error


_KEPT_S = 3600  # a spoken reply can be named by its id for so long


_KEPT = 1000  # and no more of them


class SpokenReplies:
    """Transcripts of spoken replies by id: clients name them in later requests (``"audio": {"id": ...}``)."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def keep(self, audio_id: str, text: str) -> int:
        """Remember one; return when it will be forgotten (Unix time, s)."""
        expires_at = time.time() + _KEPT_S
        self._texts[audio_id] = (expires_at, text)
        while len(self._texts) > _KEPT:
            self._texts.popitem(last=False)
        return int(expires_at)

    def find(self, audio_id: str, where: str) -> str:
        """The transcript.

        Raises:
            EventError: there is none, or none any more.
        """
        expires_at, text = self._texts.get(audio_id, (0.0, ""))
        if expires_at < time.time():
            message = f"{where}: expected the id of a spoken reply, found {short(audio_id)}"
            raise EventError(message, "audio_not_found", where)
        return text
