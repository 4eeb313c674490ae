"""What all clients of one server share: the model, the limits, the places, the figures."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from echox.audio_decoding.pool import DecoderPool
from echox.serving.access.client_secrets import ClientSecrets
from echox.serving.access.places import Places, Uploads
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import SessionOptions
from echox.serving.service.metrics import Metrics
from echox.serving.service.process_memory import give_back
from echox.serving.service.replies import ReplyFeed, SpokenReplies
from echox.serving.turn_detection.end_of_turn import EndOfTurn
from echox.serving.turn_detection.vad import open_vad
from echox.streaming.events import Heard
from echox.streaming.messages import Audio, Message

log = logging.getLogger("echox.serving")
_TIDY_S = 20.0  # between times that free memory is given back


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
        self.metrics = Metrics(self._gauges())
        self.input_rate = int(model.sampling_rate)
        self.executor = ThreadPoolExecutor(4, "echox-audio")  # transcripts
        self.decoders = DecoderPool(self.limits.max_decoders)
        self.decoding = ThreadPoolExecutor(self.limits.max_decoders, "echox-decoding")  # a thread waits for each
        self.sessions: set[Any] = set()  # open realtime sessions
        bounds = self.limits
        self.session_places = Places(bounds.max_sessions, bounds.max_waiting, bounds.wait_s, bounds.max_client_share)
        self.request_places = Places(bounds.max_requests, bounds.max_waiting, bounds.wait_s, bounds.max_client_share)
        self.uploads = Uploads(bounds.max_uploading_bytes, bounds.max_client_share)
        self.spoken_replies = SpokenReplies()
        self.client_secrets = ClientSecrets(time.time)
        self.draining = False
        self._upkeep: asyncio.Task[None] | None = None

    def _gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        return {
            "echox_sessions": ("Open realtime sessions", lambda: self.session_places.taken),
            "echox_sessions_waiting": ("Clients waiting for a session", lambda: self.session_places.waiting),
            "echox_requests": ("HTTP requests at work", lambda: self.request_places.taken),
            "echox_replies_running": ("Replies at work", lambda: self.model.scheduler.num_running),
            "echox_replies_waiting": ("Replies waiting", lambda: self.model.scheduler.num_waiting),
            "echox_requests_waiting": ("HTTP requests waiting", lambda: self.request_places.waiting),
        }

    def session_options(self) -> SessionOptions:
        """What a realtime session is set to before its client asks for anything."""
        return SessionOptions(self.name, self.limits, judges=self.end_of_turn is not None)

    async def transcribe(self, audio: Audio) -> str:
        """The text of `hear`, which says what is raised."""
        return (await self.hear(audio)).text

    async def hear(self, audio: Audio) -> Heard:
        """What the model's ear (CTC) hears.

        Raises:
            ValueError: nothing in it.
            QueueFull: too much work waits.
        """
        question = Message("user", (audio,))
        feed = ReplyFeed(self.model.session().submit, [question], max_new_tokens=1, speak=False)
        try:
            async for event in feed.events():  # hearing comes before writing; what was heard is not heard again
                if isinstance(event, Heard):
                    return event
            return Heard("")
        finally:  # also where the client has gone
            feed.cancel()

    async def holds_speech(self, audio: Audio) -> bool:
        """Whether there is speech in a sound, and not only silence or noise."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, lambda: audio.speech is not None)

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
        self.decoders.warm()
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
        self.decoding.shutdown(wait=False, cancel_futures=True)
        self.decoders.close()
