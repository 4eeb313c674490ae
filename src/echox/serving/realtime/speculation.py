"""Speculative turns: in a pause of the user a reply is begun, before the detector has decided that the turn is over.

If it decides so, the reply becomes that of the turn, and what was made meanwhile is sent at once. If the user goes on,
the reply is thrown away: it was made in a fork of the conversation, so nothing of it is left. No client can tell the
difference but by the time: a reply is kept only if the model would get exactly the same input for the whole turn.

A pause becomes final for the model before the detector decides: it hears the speech and a margin after it, not the
silence that follows. A speculation begins when that margin is complete. Where the model judges pauses, a first one
begins at once: the model hears what was said, and says whether more will follow. If not, the turn ends there, with the
audio that was heard; else that reply is dropped.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from echox.errors import QueueFull
from echox.serving.realtime.listening.input_audio import InputAudioBuffer
from echox.serving.realtime.reply_input import ReplyInput
from echox.serving.service.replies import ReplyFeed
from echox.serving.service.service import Service
from echox.serving.turn_detection.turns import Paused
from echox.serving.turn_detection.vad import SAMPLING_RATE
from echox.streaming.events import Judged
from echox.streaming.prompt.messages import Audio
from echox.streaming.session import Session

SILENCE_MS = 160
"""Silence after which a pause is looked at."""
MAX_LOOKS = 4
"""Looks at one pause: faint speech that the detector takes for silence puts the end of the margin off."""
MAX_JUDGED = 32
"""Pauses of one turn that are judged; of those that have no reply, the model only hears the audio."""
MAX_TURN_S = 30.0
"""Longest turn that a reply is begun to: a longer one is encoded beside other replies, step by step."""


OnJudged = Callable[[Judged | None], None]


@dataclass(frozen=True)
class Speculation:
    """A reply that was begun in a pause.

    Attributes:
        session: the fork of the conversation that it is made in.
        given: what the model got for it.
        feed: its events wait here.
        told: the client knows of it, and is told if it is discarded.
    """

    session: Session
    given: ReplyInput
    feed: ReplyFeed
    told: bool


class Speculator:
    """Begins replies in the pauses of one user, one at a time, and discards those that are not kept.

    Args:
        service: the model and everything that all clients share.
        audio: the audio of the session.
        suppose: a fork of the conversation and the input of the reply, if the audio were a turn; None: it would not be
            answered now.
        spawn: starts a task that ends with the session.
        tell: told "begun" and "discarded"; whether the client wants to know of this beginning.
    """

    def __init__(
        self,
        service: Service,
        audio: InputAudioBuffer,
        suppose: Callable[[Audio], tuple[Session, ReplyInput] | None],
        spawn: Callable[[Coroutine[object, object, None]], asyncio.Task[None]],
        tell: Callable[[str], bool],
    ) -> None:
        self._service, self._audio, self._suppose, self._spawn = service, audio, suppose, spawn
        self._tell = tell
        self._begun = self._judged = 0  # in this turn
        self._looks = 0  # at this pause
        self._due_ms = 0  # silence after which this pause is looked at
        self._looking: asyncio.Task[None] | None = None
        self._on_judged: OnJudged | None = None  # of this turn's newest pause
        self._running: Speculation | None = None
        self._early = False  # it was begun to judge a pause, before the margin was complete
        self._ending: set[asyncio.Task[None]] = set()

    def begin_turn(self) -> None:
        """The user begins to speak."""
        self.discard()
        self._begun = self._judged = 0
        self._on_judged = None

    def judge(self, pause: Paused, answers: bool, on_judged: OnJudged) -> None:
        """A pause has begun: let the model hear the turn, and begin the reply to it.

        Args:
            pause: that the detector reports.
            answers: as in `follow`.
            on_judged: called with what the model thinks of it, or with None if it says nothing; perhaps once more, when
                it has heard more of the silence.
        """
        self.discard()
        turn = Audio(self._audio.between(pause.start_ms, pause.at_ms), SAMPLING_RATE)
        self._judged += 1
        if turn.duration_s > MAX_TURN_S or self._judged > MAX_JUDGED:
            on_judged(None)
            return
        self._on_judged = on_judged
        self._looking = self._spawn(self._hear(turn, answers, on_judged))

    async def _hear(self, turn: Audio, answers: bool, on_judged: OnJudged) -> None:
        """Begin a reply to a turn that may not be over; if none may begin, only judge it."""
        try:
            may_begin = answers and self._begun < self._service.limits.max_speculations
            supposed = self._suppose(turn) if may_begin else None
            if supposed is not None:
                await asyncio.get_running_loop().run_in_executor(self._service.executor, supposed[1].search_audio)
                if self._begin(*supposed, on_judged):
                    self._early = True
                    return
            await self._service.judge(turn, on_judged)
        finally:
            if self._looking is asyncio.current_task():
                self._looking = None

    def follow(self, answers: bool) -> None:
        """A frame was searched for speech: begin or discard a reply.

        Args:
            answers: whether the turn would be answered without a request of the client.
        """
        silence_ms = self._audio.silence_ms
        if not silence_ms:  # no turn, or speech
            self.discard()
        elif answers and self._may_look and silence_ms >= max(self._due_ms, SILENCE_MS):
            turn = Audio(self._audio.turn(), SAMPLING_RATE)
            if turn.duration_s > MAX_TURN_S:
                self._looks = MAX_LOOKS
            else:
                self._looking = self._spawn(self._look(turn, silence_ms))

    @property
    def _may_look(self) -> bool:
        idle = self._looking is None and self._running is None
        return idle and self._looks < MAX_LOOKS and self._begun < self._service.limits.max_speculations

    async def _look(self, turn: Audio, silence_ms: int) -> None:
        """Begin a reply if the end of the speech is final: if what follows it is longer than the margin after it."""
        looks, self._looks = self._looks + 1, MAX_LOOKS
        try:
            supposed = self._suppose(turn)
            if supposed is None:
                return
            await asyncio.get_running_loop().run_in_executor(self._service.executor, supposed[1].search_audio)
            if turn.speech is not None and turn.speech.tail:
                self._looks, self._due_ms = looks, silence_ms + math.ceil(1000 * turn.speech.tail / SAMPLING_RATE)
            elif turn.speech is not None:
                self._early = False
                self._begin(*supposed, self._on_judged)
        finally:
            if self._looking is asyncio.current_task():
                self._looking = None

    def _begin(self, session: Session, given: ReplyInput, on_judged: OnJudged | None) -> bool:
        try:
            feed = given.begin(session, speculative=True, on_judged=on_judged)
        except (ValueError, QueueFull):  # the turn will tell, or the model has other work
            return False
        self._begun += 1
        self._service.metrics.speculations.labels("begun").inc()
        self._running = Speculation(session, given, feed, self._tell("begun"))
        return True

    # ------------------------------------------------------------------------------------------ the end

    def take(self) -> Speculation | None:
        """The turn is over: hand over the reply to it, if one was begun. `keep` it then."""
        found, self._running = self._running, None
        self.discard()
        return found

    async def keep(self, speculation: Speculation, wanted: ReplyInput, still: Callable[[], bool]) -> bool:
        """Keep a reply that was handed over, or discard it.

        Args:
            speculation: the reply.
            wanted: what the model would get for the reply that is wanted.
            still: whether it is still wanted, when both were compared.

        Returns:
            Whether it is the reply that is wanted; else it is discarded.
        """
        kept = False
        try:
            compare = asyncio.get_running_loop().run_in_executor
            equal = await compare(self._service.executor, wanted.equals, speculation.given)
            kept = equal and still() and speculation.feed.task.keep()
        finally:
            if kept:
                self._service.metrics.speculations.labels("kept").inc()
            else:
                self._end(speculation)
        return kept

    def drop_early(self) -> None:
        """More will follow: discard the reply that was begun to judge the pause. One that hears more may follow it."""
        if self._early:
            self._early = False
            self._begun -= 1  # it was for the judgement, of which a turn has `MAX_JUDGED`
            self.discard()

    def discard(self) -> None:
        """The pause is over, or something has changed: discard the reply; a later pause may have another one."""
        self._looks = self._due_ms = 0
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self._running is not None:
            self._end(self._running)
            self._running = None

    def _end(self, speculation: Speculation) -> None:
        metrics, feed = self._service.metrics, speculation.feed
        metrics.speculations.labels("discarded").inc()
        if speculation.told:
            self._tell("discarded")
        feed.cancel()

        async def count() -> None:
            await feed.ended()
            metrics.discarded_compute_s.inc(feed.timings.compute_s)

        task = asyncio.create_task(count())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Discard the reply, and wait until the model has stopped."""
        self.discard()
        if self._ending:
            await asyncio.wait(self._ending)
