"""Transcripts while the user speaks: windows of the growing audio are transcribed, and words that stay are sent.

The cost is bounded: a window has at most `MAX_WINDOW_S`, a session transcribes one at a time and not before there are
`STEP_S` of new audio, and all sessions together take a limited share of the model's time (`Service.spare_time`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from echox.errors import QueueFull
from echox.serving.realtime.listening.input_audio import InputAudioBuffer
from echox.serving.realtime.listening.stable_words import StableWords
from echox.serving.service.service import Service
from echox.serving.turn_detection.vad import SAMPLING_RATE
from echox.streaming.events import HeardWord
from echox.streaming.prompt.messages import Audio

STEP_S = 0.4
"""New audio before the next transcript."""
MAX_WINDOW_S = 8.0
"""Longest audio of one transcript. A longer window begins anew after the last word that was sent."""


class LiveTranscript:
    """The transcript of the turn that one user is speaking.

    Args:
        service: transcribes.
        audio: the audio of the session.
        send: sends a delta; called with the id of the item and the text.
        spawn: starts a task that ends with the session.
    """

    def __init__(
        self,
        service: Service,
        audio: InputAudioBuffer,
        send: Callable[[str, str], None],
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        self._service, self._audio, self._send, self._spawn = service, audio, send, spawn
        self._item_id: str | None = None
        self._words = StableWords()
        self._window_ms = self._heard_ms = 0  # start of the window, and the end of the audio that was transcribed
        self._task: asyncio.Task[None] | None = None

    @property
    def item_id(self) -> str | None:
        """Id of the turn's item; None: there is no turn."""
        return self._item_id

    def begin(self, item_id: str, start_ms: int) -> None:
        """A turn begins.

        Args:
            item_id: id that its item will have.
            start_ms: where it begins in all audio of the session.
        """
        self.end()
        self._item_id = item_id
        self._window_ms = self._heard_ms = start_ms

    def end(self) -> str:
        """The turn has ended, or was discarded: send nothing more of it. Returns what was sent."""
        self._item_id = None
        sent, self._words = self._words.text, StableWords()
        if self._task is not None:
            self._task.cancel()  # what it transcribes is not needed any more, and the whole turn waits for the model
            self._task = None
        return sent

    def advance(self) -> None:
        """Audio was added: transcribe it, unless that is being done or there is little of it."""
        if self._item_id is not None and self._task is None and self._has_enough:
            self._task = self._spawn(self._follow(self._item_id))

    @property
    def _has_enough(self) -> bool:
        return self._audio.now_ms - self._heard_ms >= 1000 * STEP_S

    async def _follow(self, item_id: str) -> None:
        """Transcribe window after window, until there is no new audio."""
        try:
            while self._item_id == item_id and self._has_enough:
                async with self._service.spare_time.turn():
                    await self._hear_window(item_id)
        finally:
            if self._item_id == item_id:
                self._task = None

    async def _hear_window(self, item_id: str) -> None:
        end_ms = self._audio.now_ms
        if end_ms - self._window_ms > 1000 * MAX_WINDOW_S:
            self._move_window(end_ms)
        audio = Audio(self._audio.since(self._window_ms), SAMPLING_RATE)
        words = await self._heard_words(audio) if audio.duration_s >= STEP_S else ()
        if self._item_id != item_id:
            return
        self._heard_ms = end_ms
        delta = self._words.push(words)
        if delta:
            self._send(item_id, delta)

    def _move_window(self, end_ms: int) -> None:
        after_s = self._words.next_window()
        if after_s is not None:
            self._window_ms += round(1000 * after_s)
        if end_ms - self._window_ms > 1000 * MAX_WINDOW_S:  # noise, or words that change with each transcript
            self._words.skip_window()
            self._window_ms = end_ms - round(500 * MAX_WINDOW_S)

    async def _heard_words(self, audio: Audio) -> tuple[HeardWord, ...]:
        if not await self._service.contains_speech(audio):
            return ()
        self._service.metrics.partial_transcripts.inc()
        try:
            return (await self._service.transcribe(audio, keep=False)).words
        except (ValueError, QueueFull):  # no words so far, or the model has other work: the whole turn comes later
            return ()
