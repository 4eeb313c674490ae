"""Replies of the model for the event loop, which runs in another thread; and transcripts of spoken replies by id."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from echox.serving.protocol.events import EventError, shorten
from echox.streaming.events import Event, Judged, Mark, Timings
from echox.streaming.task import ReplyTask

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from echox.serving.protocol.options import NewReplySettings


class ReplyFeed:
    """One reply of the model, as an asynchronous iterator of its events.

    Args:
        start: starts the reply: `Session.submit` or `Session.speak`.
        question: its argument: messages, or the text to speak.
        on_judged: called once with what is thought of the question, as soon as it was heard, or with None if the reply
            ends without that; None: nobody wants to know.
        **settings: generation settings of the reply.

    Raises:
        ValueError: a question that cannot be answered.
        QueueFull: too many replies are waiting.
    """

    def __init__(
        self,
        start: Callable[..., ReplyTask],
        question: object,
        on_judged: Callable[[Judged | None], None] | None = None,
        **settings: Unpack[NewReplySettings],
    ) -> None:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        # Not a method: a task that refers to its feed would be a cycle, and a server would keep a thousand replies
        # before Python searches for cycles. If the loop is closed, this raises an error, which cancels the reply.
        waiting = [] if on_judged is None else [on_judged]

        def put(event: Event | None) -> None:
            if waiting and (event is None or isinstance(event, Judged)):
                loop.call_soon_threadsafe(waiting.pop(), event)
            loop.call_soon_threadsafe(events.put_nowait, event)

        self._events = events
        self.task = start(question, on_event=put, **settings)

    @property
    def timeline(self) -> tuple[Mark, ...]:
        """The times of the words, as far as they are spoken."""
        return () if self.task.speech is None else tuple(self.task.speech.timeline)

    @property
    def timings(self) -> Timings:
        """The timings of the reply so far."""
        return self.task.timings

    def cancel(self) -> None:
        """Stop the model within one step. Events that it makes meanwhile are dropped."""
        self.task.cancel()

    async def ended(self) -> None:
        """Wait until the model has stopped; the events until then are dropped."""
        while await self._events.get() is not None:
            pass

    async def events(self) -> AsyncIterator[Event]:
        """The events of the reply. The iterator ends when the model has stopped, also after `cancel`.

        Raises:
            ValueError: the model refused the question.
            Exception: any other error of the model.
        """
        while (event := await self._events.get()) is not None:
            if not self.task.cancelled:
                yield event
        if self.task.error is not None:
            raise self.task.error


_KEPT_S = 3600
_MAX_KEPT = 1000


class SpokenReplies:
    """Transcripts of spoken replies by id, kept for an hour: later requests refer to them (``"audio": {"id": ...}``).

    A cache of a library would save six lines here and be one more dependency; also, callers need the time of expiry.
    """

    def __init__(self) -> None:
        self._texts: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def add(self, audio_id: str, text: str) -> int:
        """Keep a transcript; return the time of its expiry (Unix time, s)."""
        expires_at = time.time() + _KEPT_S
        self._texts[audio_id] = (expires_at, text)
        while len(self._texts) > _MAX_KEPT:
            self._texts.popitem(last=False)
        return int(expires_at)

    def find(self, audio_id: str, where: str) -> str:
        """Find a transcript.

        Raises:
            EventError: there is none with that id, or it has expired.
        """
        expires_at, text = self._texts.get(audio_id, (0.0, ""))
        if expires_at < time.time():
            message = f"{where}: expected the id of a spoken reply, found {shorten(audio_id)}"
            raise EventError(message, "audio_not_found", where)
        return text
