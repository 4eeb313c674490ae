"""The service: everything that all clients of one server share (model, limits, admission, metrics)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np

from echox.audio_decoding.pool import DecoderPool
from echox.errors import NotHeard, QueueFull
from echox.process_memory import release_free_memory
from echox.serving.access.admission import AdmissionQueue, AdmissionRefused, UploadMemory
from echox.serving.access.client_secrets import ClientSecrets
from echox.serving.protocol.events import EventError
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import Judge, SessionOptions
from echox.serving.service.metrics import Metrics
from echox.serving.service.replies import ReplyFeed, SpokenReplies
from echox.serving.service.spare_time import SpareTime
from echox.serving.service.stored_responses import StoredResponses
from echox.serving.turn_detection.end_of_turn import EndOfTurn
from echox.serving.turn_detection.interjections import bundled_judge
from echox.serving.turn_detection.vad import open_vad
from echox.streaming.events import Heard, Judged
from echox.streaming.prompt.messages import Audio, Message
from echox.tool_calls.tools import ToolUse

if TYPE_CHECKING:
    from echox.api import EchoX

log = logging.getLogger("echox.serving")
_RELEASE_MEMORY_S = 20.0  # period in which free memory is returned


class OpenSession(Protocol):
    """The part of a realtime session that a shutdown needs."""

    @property
    def busy(self) -> bool:
        """Whether a reply is being made or sent."""
        ...

    def shut_down(self) -> None:
        """Cancel running replies, then close the connection."""
        ...


class Service:
    """One copy of the model and everything needed to serve it.

    Args:
        model: the model.
        name: name of the model for clients.
        limits: limits of the server.
        vad: voice activity detector; see `open_vad`.
        end_of_turn: path of an end-of-turn model; None: there is none.
        ends_early: whether turns that are surely complete end early also with ``server_vad`` (`SessionOptions`).

    Raises:
        ValueError: there is no such voice activity detector or end-of-turn model.
    """

    def __init__(
        self,
        model: EchoX,
        name: str = "echox",
        limits: Limits | None = None,
        vad: str = "silero",
        end_of_turn: str | None = None,
        ends_early: bool = True,
    ) -> None:
        self.model, self.name, self._ends_early = model, name, ends_early
        limits = self.limits = limits or Limits()
        self.vad_name, self.new_vad = open_vad(vad)
        self.end_of_turn = None if end_of_turn is None else EndOfTurn(end_of_turn)
        self.interjections = bundled_judge()
        self.metrics = Metrics(self._gauges())
        self.input_rate = int(model.sampling_rate)
        self.output_rate = int(model.engine.output_sampling_rate)
        self.calls_tools = model.engine.call_grammars is not None
        model.engine.read_adapters()
        self.executor = ThreadPoolExecutor(4, "echox-audio")  # speech detection and end-of-turn model
        self.decoders = DecoderPool(self.limits.max_decoders)
        self.decoding = ThreadPoolExecutor(self.limits.max_decoders, "echox-decoding")  # one thread per decoder process
        self.sessions: set[OpenSession] = set()  # open realtime sessions
        self.session_admission = AdmissionQueue(
            limits.max_sessions, limits.max_waiting, limits.wait_s, limits.max_client_share
        )
        self.request_admission = AdmissionQueue(
            limits.max_requests, limits.max_waiting, limits.wait_s, limits.max_client_share
        )
        self.upload_memory = UploadMemory(limits.max_uploading_bytes, limits.max_client_share)
        self.spoken_replies = SpokenReplies()
        self.stored_responses = StoredResponses(limits)
        self.client_secrets = ClientSecrets(time.time)
        self.spare_time = SpareTime(limits.max_partial_share)
        self.draining = False
        self._upkeep: asyncio.Task[None] | None = None

    def _gauges(self) -> dict[str, tuple[str, Callable[[], float]]]:
        return {
            "echox_sessions": ("Open realtime sessions", lambda: self.session_admission.num_admitted),
            "echox_sessions_waiting": ("Clients waiting for a session", lambda: self.session_admission.num_waiting),
            "echox_requests": ("HTTP requests at work", lambda: self.request_admission.num_admitted),
            "echox_replies_running": ("Replies at work", lambda: self.model.scheduler.num_running),
            "echox_replies_waiting": ("Replies waiting", lambda: self.model.scheduler.num_waiting),
            "echox_requests_waiting": ("HTTP requests waiting", lambda: self.request_admission.num_waiting),
        }

    async def admit_session(self, client: str) -> None:
        """Wait for a free session. Call ``session_admission.release`` with the same address afterwards.

        Raises:
            EventError: none is free in time (code "session_limit_reached"), or the server shuts down.
        """
        try:
            if self.draining:
                raise AdmissionRefused
            await self.session_admission.acquire(client)
        except AdmissionRefused as error:
            code = "server_shutting_down" if self.draining else "session_limit_reached"
            raise EventError("the server has no free session; try again later", code, kind="server_error") from error

    @property
    def turn_judge(self) -> Judge | None:
        """Who judges whether a sentence is complete; None: nobody."""
        if self.end_of_turn is not None:
            return Judge.ONNX
        return None if self.model.engine.turn_head is None else Judge.MODEL

    def session_options(self) -> SessionOptions:
        """The options of a new realtime session."""
        return SessionOptions(self.name, self.limits, self.turn_judge, self.calls_tools, self._ends_early)

    async def prepare_tools(self, use: ToolUse, param: str) -> None:
        """Make the grammar of calls, in another thread, so that a reply does not wait for it in the event loop.

        Raises:
            EventError: a schema that cannot be followed, or takes too much work (code "invalid_function_parameters").
        """
        if use.tools and self.calls_tools:
            try:
                await asyncio.to_thread(self.model.engine.call_constraint, use)
            except ValueError as error:
                raise EventError(f"{param}: {error}", "invalid_function_parameters", param) from error

    async def transcribe(self, audio: Audio, keep: bool = True) -> Heard:
        """Transcribe audio with the speech encoder (CTC), with the times of the words; no words: an empty transcript.

        A cough is a voice for a detector of voices, and has no words: that is a result, and nobody's mistake.

        Args:
            audio: what may be speech.
            keep: whether its encoding is kept for a question about the same audio.

        Raises:
            ValueError: audio that the model cannot read.
            QueueFull: too many replies are waiting.
        """
        feed = ReplyFeed(partial(self.model.session().transcribe, keep=keep), audio)
        try:
            async for event in feed.events():
                if isinstance(event, Heard):
                    return event
            return Heard("")
        except NotHeard:
            return Heard("")
        finally:  # also if the client has disconnected
            feed.cancel()

    async def contains_speech(self, audio: Audio) -> bool:
        """Whether audio contains speech, and not only silence or noise."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, lambda: audio.speech is not None)

    async def judge(self, audio: Audio, on_judged: Callable[[Judged | None], None]) -> None:
        """Let the model only judge whether what was said is complete; returns when it has.

        Args:
            audio: speech.
            on_judged: called with what it thinks of it; with None if it says nothing.
        """
        try:
            feed = ReplyFeed(self.model.session().judge, [Message("user", (audio,))], on_judged)
        except (ValueError, QueueFull):  # too long, or the model has other work
            on_judged(None)
            return
        try:
            await feed.ended()
        finally:
            feed.cancel()

    async def is_complete(self, samples: np.ndarray) -> bool:
        """Whether the sentence in samples float32 (S,) at 16 kHz is complete; True without an end-of-turn model."""
        if self.end_of_turn is None:
            return True
        probability = await asyncio.get_running_loop().run_in_executor(self.executor, self.end_of_turn, samples)
        return probability >= 0.5

    async def drain(self) -> None:
        """Shut down: accept no new work, and wait for running replies; those that take too long are cancelled."""
        self.draining = True
        deadline = asyncio.get_running_loop().time() + self.limits.drain_s
        while any(session.busy for session in self.sessions) or self.request_admission.num_admitted:
            if asyncio.get_running_loop().time() >= deadline:
                break
            await asyncio.sleep(0.05)
        for session in list(self.sessions):
            session.shut_down()
        while self.sessions and asyncio.get_running_loop().time() < deadline + 5:
            await asyncio.sleep(0.02)

    def start(self) -> None:
        """Start the thread of the model and the decoders. Call it in the event loop."""
        self.model.scheduler.start()
        self.decoders.warm()
        self._upkeep = asyncio.create_task(self._release_memory_regularly())

    async def _release_memory_regularly(self) -> None:
        while True:
            await asyncio.sleep(_RELEASE_MEMORY_S)
            self.stored_responses.drop_expired()
            if not await asyncio.get_running_loop().run_in_executor(self.executor, release_free_memory):
                return

    def close(self) -> None:
        """Stop all threads and processes."""
        if self._upkeep is not None:
            self._upkeep.cancel()
        self.model.scheduler.stop()
        self.executor.shutdown(wait=False, cancel_futures=True)
        self.decoding.shutdown(wait=False, cancel_futures=True)
        self.decoders.close()
