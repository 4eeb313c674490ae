"""One reply on its way: its place in the work, what was written so far, and its events for whoever listens."""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor

from echox.streaming.context import Context
from echox.streaming.decoding import GenerationSettings, IncrementalDetokenizer
from echox.streaming.engine import Engine
from echox.streaming.events import AudioChunk, ContextDropped, Event, Finished, TextDelta, Timings
from echox.streaming.messages import Message
from echox.streaming.speech import Speech

EventCallback = Callable[[Event | None], None]


class Driver(Protocol):
    """Who does the work of replies, as they see it."""

    engine: Engine

    def drive(self, task: ReplyTask) -> None:
        """Bring a reply forward."""

    def notice(self, wait: bool = True) -> None:
        """A reply was cancelled; ``wait`` until no one works on it."""

    def wait(self, task: ReplyTask) -> None:
        """Until a cancelled reply has ended."""


class Dice:
    """Numbers in [0, 1) that stay until they are used, so that a step that is made again has the same ones."""

    def __init__(self, seed: str) -> None:
        self._source = random.Random(seed)
        self.value = self._source.random()

    def roll(self) -> None:
        """The number was used: on to the next."""
        self.value = self._source.random()


class ReplyTask(Iterator[Event]):
    """A reply that a session asked for. Iterate over its events; cancel it from any thread.

    Args:
        driver: does the work.
        context: the conversation that is continued.
        new: the messages of this turn.
        settings: of this reply.
        release: called once, with the error if there was one, when the reply has ended and before its last event.
        on_event: called with every event, and with None at the very end, by the thread that does the work, which it
            must not keep; what it raises cancels the reply and is its `error`. None: events wait to be iterated over.
        given: text to speak as it is; None: the language model writes the reply.
        speech: of this reply; None: it is written only.

    Attributes:
        error: why the reply failed, if it did.
        done: whether no more events will come.
    """

    def __init__(
        self,
        driver: Driver,
        context: Context,
        new: list[Message],
        settings: GenerationSettings,
        release: Callable[[ReplyTask, BaseException | None], None],
        on_event: EventCallback | None = None,
        given: str | None = None,
        speech: Speech | None = None,
    ) -> None:
        self.context, self.new, self.settings, self.given = context, new, settings, given
        self.error: BaseException | None = None
        self.done = False
        self.cancelled = False
        self._driver, self._release, self._on_event = driver, release, on_event
        self._events: deque[Event] = deque()
        self._told_error = False
        self.asked_s = time.perf_counter()
        # What the scheduler knows of it.
        self.text_row: int | None = None
        self.echo_row: int | None = None
        self._recital: Iterator[tuple[int, Tensor]] | None = None  # tokens of given text, and what they mean
        self.positions: list[Any] = []  # names of what is still to be run before the next token
        self.state: Tensor | None = None  # (H,) that predicts the next token
        self.dice = Dice(f"text {settings.seed}")
        # What was written.
        engine = driver.engine
        self.speech = speech
        self.detokenizer = IncrementalDetokenizer(engine.tokenizer)
        self.token_ids: list[int] = []
        self.text = ""
        self.text_finished = False
        self.stopped = "length"
        self.room = settings.max_new_tokens
        self.timings = Timings(question_s=sum(audio.duration_s for message in new for audio in message.audios))

    # ------------------------------------------------------------------------------------------ the listener's side

    def __next__(self) -> Event:
        while True:
            done = self.done  # before looking for events: the last ones may come in between
            if self._events:
                return self._events.popleft()
            if done:
                if self.error is not None and not self._told_error:
                    self._told_error = True
                    raise self.error
                raise StopIteration
            self._driver.drive(self)

    @property
    def has_events(self) -> bool:
        """Whether an event waits to be taken."""
        return bool(self._events)

    def cancel(self) -> None:
        """Stop: within one step of the scheduler no more is done for it. What was written stays in the history."""
        self.cancelled = True
        self._driver.notice()

    def let_go(self) -> None:
        """Cancel from where nothing may be waited for: the garbage collector runs anywhere, also within a round."""
        self.cancelled = True
        self._driver.notice(wait=False)

    def settle(self) -> None:
        """Cancel, and wait until it has ended (at most for one round)."""
        self.cancel()
        self._driver.wait(self)

    # ------------------------------------------------------------------------------------------ the scheduler's side

    def lay_out(self) -> list[Any]:
        """Positions of the prompt; turns that had to be dropped are reported.

        Raises:
            ValueError, LayoutCancelled: as `Context.lay_out`.
        """
        layout = self.context.lay_out(self.new, self.settings.max_new_tokens, lambda: self.cancelled)
        if layout.dropped:
            self.emit(ContextDropped(layout.dropped))
        if layout.room is not None:
            self.room = min(self.room, layout.room)
        return layout.keys

    def emit(self, event: Event) -> None:
        """Hand an event to the listener."""
        timings = self.timings
        if isinstance(event, TextDelta) and timings.first_text_s is None:
            timings.first_text_s = time.perf_counter() - self.asked_s
        if isinstance(event, AudioChunk):
            if timings.ttfa_s is None:
                timings.ttfa_s, timings.ttfa_tokens = time.perf_counter() - self.asked_s, len(self.token_ids)
            timings.audio_s = event.start_s + event.duration_s
        self._hand_over(event)

    def _hand_over(self, event: Event | None) -> None:
        if self._on_event is None:
            if event is not None:
                self._events.append(event)
            return
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - the listener's fault is told in its own reply, and is no one else's
            self.error, self.cancelled = self.error or error, True

    def write(self, token_id: int, denoised: Tensor | None, score: float) -> None:
        """Add a token of the reply."""
        self.token_ids.append(token_id)
        self.timings.num_tokens = len(self.token_ids)
        piece = self.detokenizer.push(token_id)
        self._tell(piece)
        if self.speech is not None and denoised is not None:
            self.speech.push(token_id, denoised, piece, score)

    def finish_text(self, stopped: str) -> None:
        """The reply's text is complete."""
        self.stopped, self.text_finished = stopped, True
        piece = self.detokenizer.flush()
        self._tell(piece)
        if self.speech is not None:
            self.speech.finish(piece)

    @property
    def awaits_prompt(self) -> bool:
        """Whether its question is still to be heard and laid out."""
        return self.text_row is None and self.given is None and not self.text_finished

    @property
    def has_text_to_read(self) -> bool:
        """Whether text that was given or written is still to be handed to the mouth."""
        given = self.given is not None and not self.text_finished
        return given or (self.speech is not None and self.speech.behind)

    def read_text(self, enough: Callable[[], bool]) -> None:
        """Hand text to the mouth; of given text token by token, no faster than the mouth takes it.

        Args:
            enough: whether to stop for now.
        """
        if self.given is not None and self._recital is None:
            engine: Engine = self._driver.engine
            token_ids = engine.tokenizer(self.given, add_special_tokens=False)["input_ids"]
            self._recital = zip(token_ids, engine.meant(token_ids), strict=True)
        while self.has_text_to_read:
            if self.speech is not None:
                self.speech.read(enough)
            if enough() or self._recital is None or self.text_finished:
                return
            token = next(self._recital, None)
            if token is None:
                self.finish_text("end")
            else:
                self.write(token[0], token[1], 0.0)

    def _tell(self, piece: str) -> None:
        if piece:
            self.text += piece
            self.emit(TextDelta(piece))

    def pass_on_speech(self) -> None:
        """Emit what became of the speech since the last call."""
        if self.speech is not None:
            self.timings.num_unit_words, self.timings.num_units = self.speech.num_unit_words, self.speech.num_units
            for event in self.speech.take_events():
                self.emit(event)

    @property
    def complete(self) -> bool:
        """Whether all that is to be written and said was."""
        return self.text_finished and (self.speech is None or self.speech.done)

    def end(self, error: BaseException | None = None) -> None:
        """Complete, cancelled, or failed with `error`: the session has its history, and no more events come."""
        self._release(self, error)
        if error is None and not self.cancelled:
            timeline = tuple(self.speech.timeline) if self.speech is not None else ()
            self.emit(Finished(self.text, self.stopped, self.timings, timeline))
        self.error, self.done = error or self.error, True
        self._hand_over(None)


class ReplyEvents(Iterator[Event]):
    """Events of a task, for one listener: closing it, or letting go of it, cancels the reply."""

    def __init__(self, task: ReplyTask) -> None:
        self._task = task

    def __next__(self) -> Event:
        if self._task.cancelled:
            raise StopIteration
        try:
            return next(self._task)
        except KeyboardInterrupt:
            self.close()
            raise

    def close(self) -> None:
        """Cancel, unless it is done; the session may be asked again at once."""
        if not self._task.done:
            self._task.settle()

    def __del__(self) -> None:
        if not self._task.done and not sys.is_finalizing():
            self._task.let_go()
