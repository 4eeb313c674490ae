"""What all clients of one server share: the model, the limits, the places, the figures."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from echox.serving.end_of_turn import EndOfTurn
from echox.serving.limits import Limits
from echox.serving.memory import give_back
from echox.serving.metrics import Metrics
from echox.serving.replies import ReplyFeed
from echox.serving.spoken_replies import SpokenReplies
from echox.serving.vad import open_vad
from echox.streaming.events import Heard
from echox.streaming.messages import Audio, Message

log = logging.getLogger("echox.serving")
_TIDY_S = 20.0  # between times that free memory is given back


class Full(Exception):
    """No place is free, and none came free in time."""


class Places:
    """A number of places, and a bounded queue of those who wait for one.

    Args:
        places: how many at the same time. waiting: how many may wait. wait_s: how long.
    """

    def __init__(self, places: int, waiting: int, wait_s: float) -> None:
        self._free, self._places, self._waiting, self._wait_s = places, places, waiting, wait_s
        self._queue: list[asyncio.Future[None]] = []

    @property
    def taken(self) -> int:
        """Places in use."""
        return self._places - self._free

    @property
    def waiting(self) -> int:
        """Clients in the queue."""
        return len(self._queue)

    async def take(self) -> None:
        """Take a place, first come first served.

        Raises:
            Full: the queue is full, or the wait was in vain.
        """
        if self._free and not self._queue:
            self._free -= 1
            return
        if len(self._queue) >= self._waiting:
            raise Full
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), self._wait_s)
        except BaseException as error:
            if turn.done():  # the place came just now: hand it on
                self.give()
            else:
                self._queue.remove(turn)
            if isinstance(error, asyncio.TimeoutError):
                raise Full from error
            raise

    def give(self) -> None:
        """Give a place back; the first in the queue gets it."""
        if self._queue:
            self._queue.pop(0).set_result(None)
        else:
            self._free += 1


class Service:
    """One model copy, served.

    Args:
        model: `EchoX`. name: as clients see it. limits: of everything. vad: see `open_vad`.
        end_of_turn: path of an end-of-turn model; None: none.

    Raises:
        ValueError: no such voice activity detector, or end-of-turn model.
    """

    def __init__(
        self,
        model: Any,
        name: str = "echox",
        limits: Limits | None = None,
        vad: str = "silero",
        end_of_turn: str | None = None,
    ) -> None:
        self.model, self.name = model, name
        self.limits = limits or Limits()
        self.vad_name, self.new_vad = open_vad(vad)
        self.end_of_turn = None if end_of_turn is None else EndOfTurn(end_of_turn)
        self.metrics = Metrics(self)
        self.input_rate = int(model.sampling_rate)
        self.executor = ThreadPoolExecutor(4, "echox-audio")  # decoding, transcripts
        self.sessions: set[Any] = set()  # open realtime sessions
        self.session_places = Places(self.limits.max_sessions, self.limits.max_waiting, self.limits.wait_s)
        self.request_places = Places(self.limits.max_requests, self.limits.max_waiting, self.limits.wait_s)
        self.spoken_replies = SpokenReplies()
        self.draining = False
        self._upkeep: asyncio.Task[None] | None = None

    async def transcribe(self, audio: Audio) -> str:
        """What the model's ear (CTC) hears.

        Raises:
            ValueError: nothing in it.
            QueueFull: too much work waits.
        """
        question = Message("user", (audio,))
        feed = ReplyFeed(self.model.session().submit, [question], max_new_tokens=1, speak=False)
        async for event in feed.events():  # hearing comes before writing, and what was heard once is not heard again
            if isinstance(event, Heard):
                feed.cancel()
                return event.text
        return ""

    async def is_complete(self, samples: np.ndarray) -> bool:
        """Whether the sentence in samples float32 (S,) at 16 kHz sounds complete; without a model for it: yes."""
        if self.end_of_turn is None:
            return True
        probability = await asyncio.get_running_loop().run_in_executor(self.executor, self.end_of_turn, samples)
        return probability >= 0.5

    async def drain(self) -> None:
        """Shut down with grace: no new work, running replies finish or end with ``response.done``, clients are told."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + self.limits.drain_s
        while any(session.busy for session in self.sessions) or self.request_places.taken:
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.05)
        for session in list(self.sessions):
            session.shut_down()
        while self.sessions and asyncio.get_running_loop().time() < deadline + 5:
            await asyncio.sleep(0.02)

    def begin(self) -> None:
        """The event loop runs: let the model's thread work."""
        self.model.scheduler.start()
        self._upkeep = asyncio.create_task(self._tidy())

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(_TIDY_S)
            if not await asyncio.get_running_loop().run_in_executor(self.executor, give_back):
                return

    def close(self) -> None:
        """Let the threads go."""
        if self._upkeep is not None:
            self._upkeep.cancel()
        self.model.scheduler.stop()
        self.executor.shutdown(wait=False, cancel_futures=True)
