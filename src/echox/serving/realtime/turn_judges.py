"""What turn detection cannot hear: is a sentence complete, and does a word over a reply mean to interrupt it?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial

from echox.serving.protocol.options import Judge, SessionOptions
from echox.serving.realtime.listening.input_audio import InputAudioBuffer
from echox.serving.realtime.speculation import Speculator
from echox.serving.service.service import Service
from echox.serving.turn_detection.end_of_turn import WINDOW_S
from echox.serving.turn_detection.interjections import TAKES_FLOOR
from echox.serving.turn_detection.turns import Interjected, Paused, TurnEvent
from echox.streaming.events import Judged


class TurnJudges:
    """Asks who can judge, and hands what follows to the session.

    Args:
        service: the model and the judges that all clients share.
        audio: the audio of the session.
        options: options of the session.
        speculator: begins the reply to what the model judges.
        handle: called with each event of turn detection that follows.
        spawn: starts a task that ends with the session.
    """

    def __init__(
        self,
        service: Service,
        audio: InputAudioBuffer,
        options: SessionOptions,
        speculator: Speculator,
        handle: Callable[[TurnEvent], None],
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
    ) -> None:
        self._service, self._audio, self._options, self._speculator = service, audio, options, speculator
        self._handle, self._spawn = handle, spawn
        self._newest_pause: Paused | None = None
        self._end_of_turn_lock = asyncio.Lock()

    def ask(self, asked: Paused | Interjected) -> None:
        """Turn detection wants to know more: of a pause, or of short speech over a reply."""
        if isinstance(asked, Interjected):
            self._judge_interjection(asked)
        elif self._options.judge is Judge.MODEL:
            self._speculator.judge(asked, self._options.create_response, partial(self._judged, asked))
        else:
            self._spawn(self._check_end_of_turn(asked))

    async def _check_end_of_turn(self, pause: Paused) -> None:
        """Ask the end-of-turn model whether the sentence is complete; one question at a time, of the newest pause."""
        self._newest_pause = pause
        async with self._end_of_turn_lock:  # pauses that come faster than answers must not pile up
            if self._newest_pause is not pause:
                return
            start_ms = max(pause.start_ms, self._audio.searched_ms - 1000 * WINDOW_S)
            complete = await self._service.is_complete(self._audio.recent(start_ms))
        if self._audio.turns is not None:
            probability = 1.0 if complete else 0.0
            self._handle_all(self._audio.turns.judged(pause, probability, self._audio.searched_ms))

    def _judged(self, pause: Paused, judged: Judged | None) -> None:
        """The model has heard a turn in its pause."""
        turns = self._audio.turns
        if turns is None or not turns.awaits(pause):
            return
        complete = None if judged is None else judged.complete
        self._service.metrics.observe_judgement(complete)
        over = complete is not None and complete >= 0.5
        events = turns.judged(pause, complete, self._audio.searched_ms, final=over)
        if judged is not None and not (over or events):
            self._speculator.drop_early()
        self._handle_all(events)

    def _judge_interjection(self, asked: Interjected) -> None:
        """Decide whether short speech over a reply interrupts it."""
        turns = self._audio.turns
        if turns is None:
            return
        takes_floor = self._service.interjections(self._audio.between(asked.start_ms, asked.at_ms)) >= TAKES_FLOOR
        self._handle_all(turns.interjected(asked, takes_floor, self._audio.searched_ms))

    def _handle_all(self, events: Sequence[TurnEvent]) -> None:
        for event in events:
            self._handle(event)
