"""A reply while it is made: its rows in the batch, its text and speech so far, and its events for the listener."""

from __future__ import annotations

import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from torch import Tensor

from echox.streaming.context import Context
from echox.streaming.engine import Engine, Position
from echox.streaming.events import AudioChunk, ContextDropped, Event, Finished, Judged, TextDelta, Timings
from echox.streaming.prompt.messages import Message
from echox.streaming.reply_text.calling import Calling, WrittenPiece
from echox.streaming.reply_text.settings import GenerationSettings
from echox.streaming.reply_text.token_text import IncrementalDetokenizer
from echox.streaming.speech import ReplySpeech
from echox.tool_calls.tools import ToolCall

EventCallback = Callable[[Event | None], None]


class Driver(Protocol):
    """What a reply needs of the scheduler."""

    engine: Engine

    def keep(self, task: ReplyTask) -> bool:
        """Keep a speculative reply."""

    def drive(self, task: ReplyTask) -> None:
        """Bring a reply forward."""

    def notify_cancelled(self, wait: bool = True) -> None:
        """A reply was cancelled; ``wait``: until no round works on it."""

    def wait(self, task: ReplyTask) -> None:
        """Wait until a cancelled reply has ended."""


class SamplingNumber:
    """A random number in [0, 1) that stays until it was used, so that a step that is repeated has the same one."""

    def __init__(self, seed: str) -> None:
        self._source = random.Random(seed)
        self.value = self._source.random()

    def draw(self) -> None:
        """Take the next number."""
        self.value = self._source.random()


class ReplyTask(Iterator[Event]):
    """A reply that a session asked for. Iterate over its events; cancel it from any thread.

    Args:
        driver: makes the rounds of work.
        context: the conversation that the reply continues.
        new: the messages of this turn.
        settings: of this reply.
        release: called once, with the error if there was one, when the reply has ended and before its last event.
        on_event: called with every event, and with None at the end, by the thread that makes the rounds; it must
            return at once. An exception of it cancels the reply and is its `error`. None: events are iterated over.
        given: text to speak as it is; None: the language model writes the reply.
        speech: of this reply; None: it is written only.
        replies: False: it ends when its question was heard (and judged), without a reply.
        calling: its calls of tools; None: there are no tools.
        speculative: nobody has asked for it yet, and it may be dropped at any time. It is made as far as its first
            sound (or text, if it is not spoken), after replies that are wanted, and then rests until it is kept.
        judges: whether the turn head judges the question as soon as it was heard.

    Attributes:
        error: why the reply failed, if it did.
        done: no more events will come.
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
        speech: ReplySpeech | None = None,
        replies: bool = True,
        calling: Calling | None = None,
        speculative: bool = False,
        judges: bool = False,
    ) -> None:
        self.context, self.new, self.settings, self.given = context, new, settings, given
        self.replies, self.judges = replies, judges
        self.calling = calling
        self.speculative = speculative
        self.error: BaseException | None = None
        self.done = False
        self.cancelled = False
        self._driver, self._release, self._on_event = driver, release, on_event
        self._events: deque[Event] = deque()
        self._error_raised = False
        self.asked_s = time.perf_counter()
        # Set by the batch.
        self.text_row: int | None = None
        self.echo_row: int | None = None
        self._given_tokens: Iterator[tuple[int, Tensor]] | None = None  # of a given text, with their embeddings
        self.positions: list[Position] = []  # still to be run before the next token
        self.state: Tensor | None = None  # (H,) that predicts the next token
        self.sampling_number = SamplingNumber(f"text {settings.seed}")
        # The reply so far.
        engine = driver.engine
        self.speech = speech
        self.detokenizer = IncrementalDetokenizer(engine.tokenizer)
        self.token_ids: list[int] = []
        self.text = ""
        self.text_finished = False
        self.stopped = "length"
        self.room = settings.max_new_tokens
        self.timings = Timings(question_s=sum(audio.duration_s for message in new for audio in message.audios))

    # ------------------------------------------------------------------------------------------ for the listener

    def __next__(self) -> Event:
        while True:
            done = self.done  # before looking for events: the last ones may come in between
            if self._events:
                return self._events.popleft()
            if done:
                if self.error is not None and not self._error_raised:
                    self._error_raised = True
                    raise self.error
                raise StopIteration
            self._driver.drive(self)

    @property
    def has_events(self) -> bool:
        """Whether an event waits to be taken."""
        return bool(self._events)

    def cancel(self) -> None:
        """Stop: after the present round no more work is done for it. What was written stays in the history."""
        self.cancelled = True
        self._driver.notify_cancelled()

    def cancel_without_waiting(self) -> None:
        """Cancel, for callers that must not wait: the garbage collector runs anywhere, also within a round."""
        self.cancelled = True
        self._driver.notify_cancelled(wait=False)

    def cancel_and_wait(self) -> None:
        """Cancel, and wait until it has ended (at most for one round)."""
        self.cancel()
        self._driver.wait(self)

    def keep(self) -> bool:
        """Make a speculative reply an ordinary one; False: it was dropped or has failed, so ask again."""
        return self._driver.keep(self)

    # ------------------------------------------------------------------------------------------ for the scheduler

    def be_wanted(self) -> None:
        """It is kept: it is asked for now, and what is there already came at once."""
        self.speculative, self.asked_s = False, time.perf_counter()
        timings = self.timings
        timings.queued_s = 0.0
        timings.first_text_s = None if timings.first_text_s is None else 0.0
        timings.ttfa_s = None if timings.ttfa_s is None else 0.0

    def judge(self) -> None:
        """The question was heard: tell the listener what the turn head thinks of it, if it can tell."""
        head = self.context.engine.turn_head
        if head is not None and (inputs := self.context.turn_inputs(self.new[-1])) is not None:
            self.emit(Judged(head(inputs)))

    @property
    def begun(self) -> bool:
        """Whether its listener has something of the reply: sound, or text if it is not spoken."""
        first_s = self.timings.first_text_s if self.speech is None else self.timings.ttfa_s
        return first_s is not None or self.complete

    def lay_out(self) -> list[Position]:
        """Positions of the prompt; turns that had to be dropped are reported with an event.

        Raises:
            ValueError, LayoutCancelled: as `Context.lay_out`.
        """
        layout = self.context.lay_out(self.new, self.settings.max_new_tokens, lambda: self.cancelled)
        if layout.dropped:
            self.emit(ContextDropped(layout.dropped))
        if layout.room is not None:
            self.room = min(self.room, layout.room)
        return layout.positions

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
        except Exception as error:  # noqa: BLE001 - a fault of the listener fails its own reply, and no other
            self.error, self.cancelled = self.error or error, True

    def write(self, token_id: int, denoised: Tensor | None, score: float) -> None:
        """Add a token of the reply."""
        self.token_ids.append(token_id)
        self.timings.num_tokens = len(self.token_ids)
        piece = WrittenPiece(token_id, denoised, self.detokenizer.push(token_id), score)
        if self.calling is None:
            self._say(piece)
        else:
            self._write_calling(self.calling, piece)

    def _write_calling(self, calling: Calling, piece: WrittenPiece) -> None:
        """Add a token that may be said, or belong to a call."""
        said_before = not calling.begun
        deltas = calling.push(piece)
        for one in calling.said():
            self._say(one)
        if calling.begun and said_before and self.speech is not None:
            self.speech.finish()  # what is said before a call is spoken while the call is written
        for delta in deltas:
            self.emit(delta)

    def _say(self, piece: WrittenPiece) -> None:
        self._emit_text(piece.text)
        if self.speech is not None and piece.denoised is not None:
            self.speech.push(piece.token_id, piece.denoised, piece.text, piece.score)

    def finish_text(self, stopped: str) -> None:
        """The reply's text is complete."""
        self.stopped, self.text_finished = stopped, True
        rest = self.detokenizer.flush()
        if self.calling is not None:
            self._finish_calling(self.calling, rest)
            return
        self._emit_text(rest)
        if self.speech is not None:
            self.speech.finish(rest)

    def _finish_calling(self, calling: Calling, rest: str) -> None:
        begun = calling.begun
        if not begun:
            calling.finish()
            for one in calling.said():
                self._say(one)
            self._emit_text(rest)
            if self.speech is not None:
                self.speech.finish(rest)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools that are complete."""
        return () if self.calling is None else self.calling.calls

    @property
    def awaits_prompt(self) -> bool:
        """Whether its question is still to be encoded and its prompt to be laid out."""
        return self.text_row is None and self.given is None and not self.text_finished

    @property
    def has_text_to_read(self) -> bool:
        """Whether text that was given or written is still to be read for speech."""
        given = self.given is not None and not self.text_finished
        return given or (self.speech is not None and self.speech.has_unread)

    def read_text(self, enough: Callable[[], bool]) -> None:
        """Read text for speech; a given text token by token, no faster than it can be spoken.

        Args:
            enough: whether to stop for now.
        """
        if self.given is not None and self._given_tokens is None:
            engine: Engine = self._driver.engine
            token_ids = engine.tokenize(self.given)
            self._given_tokens = zip(token_ids, engine.text_states(token_ids), strict=True)
        while self.has_text_to_read:
            if self.speech is not None:
                self.speech.read(enough)
            if enough() or self._given_tokens is None or self.text_finished:
                return
            token = next(self._given_tokens, None)
            if token is None:
                self.finish_text("end")
            else:
                self.write(token[0], token[1], 0.0)

    def _emit_text(self, piece: str) -> None:
        if piece:
            self.text += piece
            self.emit(TextDelta(piece))

    def emit_speech(self) -> None:
        """Emit the events of the speech since the last call."""
        if self.speech is not None:
            self.timings.num_unit_words, self.timings.num_units = self.speech.num_unit_words, len(self.speech.units)
            for event in self.speech.take_events():
                self.emit(event)

    @property
    def complete(self) -> bool:
        """Whether the whole text is written and spoken."""
        return self.text_finished and (self.speech is None or self.speech.done)

    def end(self, error: BaseException | None = None) -> None:
        """The reply is complete, cancelled, or failed with `error`: put it into the history, and end its events."""
        self._release(self, error)
        if error is None and not self.cancelled:
            timeline, units = ((), ()) if self.speech is None else (self.speech.timeline, self.speech.units)
            self.emit(Finished(self.text, self.stopped, self.timings, tuple(timeline), self.calls, tuple(units)))
        self.error, self.done = error or self.error, True
        self._hand_over(None)


class ReplyEvents(Iterator[Event]):
    """Events of a task, for one listener: closing this iterator, or dropping it, cancels the reply."""

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
        """Cancel the reply, unless it is done; the session can be asked again at once."""
        if not self._task.done:
            self._task.cancel_and_wait()

    def __del__(self) -> None:
        if not self._task.done and not sys.is_finalizing():
            self._task.cancel_without_waiting()
