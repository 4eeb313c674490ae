"""A realtime session without a network, in the event loop of a test, and replies of the model that a test writes."""

import asyncio
import contextlib
import json

from echox.serving.realtime.session import RealtimeSession
from echox.serving.realtime.speech_events import SpeechEvents
from echox.streaming.events import Finished, Timings
from serving_help import check_event


class Line:
    """A transport without a network; `plays` as in a call."""

    max_event_bytes = None

    def __init__(self, plays=False):
        self.plays, self.events = plays, []

    async def send(self, text):
        self.events.append(check_event(text))

    def speech(self, *args):
        return SpeechEvents(*args)

    def kinds(self):
        return [event["type"] for event in self.events]


@contextlib.asynccontextmanager
async def session_of(server, plays=False, options=None):
    """A session in this event loop, and its line."""
    line = Line(plays)
    session = RealtimeSession(server.service, line, options)
    sending = asyncio.create_task(session.outbox.run())
    try:
        yield session, line
    finally:
        await session.close()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def send(session, kind, **fields):
    await session.receive(json.dumps({"type": kind, **fields}))


class Script:
    """A reply of the model that says what a test wants, and then waits until it is cancelled or told to end."""

    def __init__(self, *events, ends=False):
        self._script, self._end = events, asyncio.Event()
        self.timings, self.timeline = Timings(), ()
        self.cancelled = False
        if ends:
            self._end.set()

    def cancel(self):
        self.cancelled = True
        self._end.set()

    async def events(self):
        for event in self._script:
            yield event
        await self._end.wait()
        if not self.cancelled:
            yield Finished("", "end", self.timings)
