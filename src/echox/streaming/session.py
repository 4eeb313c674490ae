"""A session: one conversation, and the only owner of what is remembered of it between replies.

State: the messages, what was heard in their audio, and the language model's memory of them with the names of its
positions. While a reply runs its state is in its `ReplyTask`, and its rows are the scheduler's. Nothing lives on the
model, so any number of sessions share one without noticing each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from echox.models.decoding.row_cache import SavedRow
from echox.streaming.decoding import GenerationSettings
from echox.streaming.engine import Engine, HeardAudio
from echox.streaming.events import ContextDropped, HeardWord, Mark, Reply, ReplyBuilder, heard_text
from echox.streaming.messages import Audio, Message, join_system, read_messages
from echox.streaming.scheduler import Scheduler
from echox.streaming.task import EventCallback, ReplyEvents, ReplyTask

KEPT_CONTEXT = 0.75
"""Part of the room that is filled again when old turns are dropped, so that not every turn drops some."""

_CHARACTERS_PER_POSITION = 8
"""A conversation with more characters than this for each position is laid out from its newest turns backwards."""


class Session:
    """A conversation of several turns.

    Example::

        session = model.session(system="You are brief.")
        for event in session.stream("question.wav"):
            ...
        reply = session.reply("and_then.wav")       # knows the first turn

    Args:
        scheduler: does the work.
        settings: how replies are written and spoken.
        system: system prompt; None: none.

    Attributes:
        messages: the conversation so far; may be edited between replies.
    """

    def __init__(self, scheduler: Scheduler, settings: GenerationSettings, system: str | None = None) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.system = system
        self.messages: list[Message] = []
        self._heard: dict[Audio, HeardAudio] = {}
        self._saved: SavedRow | None = None
        self._keys: list[Any] = []  # names of the positions that the memory holds
        self._running: ReplyTask | None = None
        self._timeline: tuple[Mark, ...] = ()  # of the last reply

    @property
    def engine(self) -> Engine:
        """The model."""
        return self.scheduler.engine

    @property
    def output_sampling_rate(self) -> int:
        """Rate of the spoken replies, Hz."""
        return self.engine.output_sampling_rate

    # ------------------------------------------------------------------------------------------ asking

    def submit(
        self, question: Any, *, on_event: EventCallback | None = None, sampling_rate: int | None = None, **changes: Any
    ) -> ReplyTask:
        """Ask, and go on: the reply comes as events of the task.

        Args:
            question: audio (path, bytes, binary file, samples), a message, or several messages; see `read_messages`.
            on_event: called with every event, and with None at the very end, in the thread that does the work; None:
                iterate over the task instead.
            sampling_rate: rate of bare samples; None: the rate the model hears.
            **changes: `GenerationSettings` of this reply only.

        Raises:
            ValueError: a question that cannot be heard or read, unknown settings, or a reply that is still running.
            QueueFull: more replies are waiting than the scheduler takes.
        """
        settings = self.settings.replaced(changes)
        rate = self.engine.input_sampling_rate
        new = read_messages(question, rate, settings.max_question_s, audio_rate=sampling_rate)
        late = new if self.messages or self.system is not None else new[1:]
        if any(message.role == "system" for message in late):
            raise ValueError("expected the system prompt once, at the start, found another; start a new session")
        return self._begin(ReplyTask(self.scheduler, self, new, settings, on_event))

    def speak(self, text: str, *, on_event: EventCallback | None = None, **changes: Any) -> ReplyTask:
        """Say given text; it becomes the newest reply of the conversation.

        Args:
            text: to be said.
            on_event: as in `submit`.
            **changes: as in `submit`.

        Raises:
            ValueError: nothing to say, unknown settings, or a reply that is still running.
            QueueFull: as `submit`.
        """
        if not text.strip():
            raise ValueError("expected text to speak, found none; write something")
        return self._begin(ReplyTask(self.scheduler, self, [], self.settings.replaced(changes), on_event, given=text))

    def _begin(self, task: ReplyTask) -> ReplyTask:
        if self._running is not None:
            raise ValueError("expected one reply at a time, found one still running in this session; close it first")
        self._running = task
        try:
            self.scheduler.submit(task)
        except BaseException:
            self._running = None
            raise
        return task

    def stream(self, question: Any, *, sampling_rate: int | None = None, **changes: Any) -> ReplyEvents:
        """Answer one turn piece by piece: text and speech come out together, each as soon as it is certain.

        Closing the iterator cancels the reply; what was written so far stays in the history.

        Returns:
            Iterator of `Heard`, `ContextDropped`, `TextDelta`, `AudioChunk`, `SpeechFailed` and, last, `Finished`.

        Raises:
            ValueError, QueueFull: as `submit`.
        """
        return ReplyEvents(self.submit(question, sampling_rate=sampling_rate, **changes))

    def reply(self, question: Any, *, sampling_rate: int | None = None, **changes: Any) -> Reply:
        """Answer one turn at once: what `stream` yields, collected.

        Raises:
            ValueError, QueueFull: as `submit`.
        """
        builder = ReplyBuilder(self.output_sampling_rate)
        for event in self.stream(question, sampling_rate=sampling_rate, **changes):
            builder.add(event)
        return builder.build()

    def truncate(self, audio_s: float) -> str:
        """The listener interrupted: cut the last reply, in the history, to what was heard of it.

        Args:
            audio_s: how much of its speech was played.

        Returns:
            What is left of its text.

        Raises:
            ValueError: no reply was made yet, or one is still running.
        """
        if self._running is not None:
            raise ValueError("expected a reply that has ended, found one still running; cancel it first")
        if not self.messages or self.messages[-1].role != "assistant":
            raise ValueError("expected a reply to cut, found none at the end of the conversation")
        text = "".join(str(part) for part in self.messages[-1].parts)
        kept = heard_text(text, self._timeline, audio_s)
        self.messages[-1] = Message("assistant", (kept,))
        return kept

    # ------------------------------------------------------------------------------------------ for the scheduler

    def unheard(self, task: ReplyTask) -> list[Audio]:
        """Audios of the conversation that were not encoded yet."""
        return [audio for one in [*self.messages, *task.new] for audio in one.audios if audio not in self._heard]

    def hear(self, found: dict[Audio, HeardAudio]) -> None:
        """Take what was heard in them.

        Raises:
            ValueError: no word was heard in one of them, though it holds speech.
        """
        for audio, heard in found.items():
            if not heard.text:
                raise ValueError(
                    "expected words, found none: the model's speech encoder wrote only blanks for "
                    f"{audio.duration_s:.1f} s of audio that hold a voice. If it does so for clear speech, it is "
                    "undertrained (see wer or ctc_wer in its training log): train it longer, or load another model"
                )
        self._heard.update(found)

    def transcript(self, message: Message) -> str:
        """What was heard in a message."""
        return " ".join(self._heard[audio].text for audio in message.audios)

    def heard_words(self, message: Message) -> tuple[HeardWord, ...]:
        """The words of `transcript`, with their times."""
        words: list[HeardWord] = []
        before_s = 0.0
        for audio in message.audios:
            found = self._heard[audio].words
            words += [HeardWord(word.text, before_s + word.start_s, before_s + word.end_s) for word in found]
            before_s += audio.duration_s
        return tuple(words)

    def lay_out(self, task: ReplyTask) -> list[Any]:
        """Positions of the prompt. The oldest turns are dropped, and told, where they leave no room for a reply.

        Raises:
            ValueError: the newest turn alone is too long, or text holds special tokens.
        """
        limit = self.engine.max_positions
        if limit is None:
            return self._positions([*self.messages, *task.new])
        # Room for the reply, or at least for a fair part of one.
        room = limit - min(task.settings.max_new_tokens, limit // 4)
        system = [message for message in self.messages[:1] if message.role == "system"]  # never dropped
        turns = self.messages[len(system) :]
        dropped, keys = self._fit(system, turns, task.new, room)
        if len(keys) >= limit:
            raise ValueError(
                f"the question is too long: expected fewer than {limit} positions, found {len(keys)}; ask in shorter "
                "turns"
            )
        if dropped:
            self.messages = [*system, *turns[dropped:]]
            self._keep_heard(task.new)
            task.emit(ContextDropped(dropped))
        task.room = min(task.room, limit - len(keys))
        return keys

    def _fit(
        self, system: list[Message], turns: list[Message], new: Sequence[Message], room: int
    ) -> tuple[int, list[Any]]:
        """How many of the oldest messages to drop, and the positions of the rest.

        Nothing is dropped where everything fits into the room. The number is found by bisection: a conversation is
        laid out O(log n) times, and one that is far too long never as a whole.
        """
        starts = [0, *(n for n, one in enumerate(turns) if n and one.role == "user")]
        if turns:
            starts.append(len(turns))
        last = len(starts) - 1

        def laid_out(index: int) -> list[Any]:
            return self._positions([*system, *turns[starts[index] :], *new])

        over = 0
        characters = sum(len(part) for one in turns for part in one.parts if isinstance(part, str))
        if characters > _CHARACTERS_PER_POSITION * room:
            over = max(0, last - 1)
        keys = laid_out(over)
        while over and len(keys) <= room:
            over = max(0, 2 * over - last)  # twice as many turns
            keys = laid_out(over)
        if len(keys) <= room or not turns:
            return 0, keys
        fits, found = last, None
        while fits - over > 1:
            middle = (over + fits) // 2
            keys = laid_out(middle)
            if len(keys) <= KEPT_CONTEXT * room:
                fits, found = middle, keys
            else:
                over = middle
        return starts[fits], laid_out(last) if found is None else found

    def _positions(self, messages: Sequence[Message]) -> list[Any]:
        return self.engine.lay_out(join_system(self.system, messages), self._heard)

    def _keep_heard(self, new: Sequence[Message] = ()) -> None:
        """Forget audios that are no longer in the conversation."""
        audios = [audio for message in [*self.messages, *new] for audio in message.audios]
        self._heard = {audio: self._heard[audio] for audio in audios if audio in self._heard}

    def resume(self, keys: list[Any]) -> tuple[SavedRow | None, list[Any]]:
        """What the memory holds of the wanted positions, and which are still to be run."""
        shared = 0
        # The last position always runs: its state is what is asked for.
        while shared < min(len(self._keys), len(keys) - 1) and self._keys[shared] == keys[shared]:
            shared += 1
        saved, self._keys = self._saved, keys[:shared]
        if saved is not None and saved.length > shared:
            saved = dataclasses.replace(saved, layers=[layer[:, :, :shared] for layer in saved.layers], length=shared)
        self._saved = None  # it is the scheduler's now
        return saved, keys[shared:]

    def embed(self, keys: Sequence[Any]) -> Tensor:
        """(n, H) inputs of positions."""
        return self.engine.embed(keys, {heard.key: heard for heard in self._heard.values()})

    def note(self, keys: Sequence[Any]) -> None:
        """These positions were run."""
        self._keys.extend(keys)

    def remember(self, saved: SavedRow) -> None:
        """Keep the memory for the next turn."""
        self._saved = saved

    def forget(self) -> None:
        """What the memory held is lost, or unknown: the next turn runs the whole conversation."""
        self._saved, self._keys = None, []

    def release(self, task: ReplyTask, error: BaseException | None) -> None:
        """A reply has ended, one way or the other: put it into the history."""
        if error is not None:
            self.forget()
        if task.text or (error is None and not task.cancelled):
            self.messages += [*task.new, Message("assistant", (task.text,))]
            self._timeline = tuple(task.speech.timeline) if task.speech is not None else ()
        # Else cancelled, or failed, before a word: as if it had not been asked.
        self._keep_heard()
        self._running = None  # last: from now on the next may be asked, by another thread
