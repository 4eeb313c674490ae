"""A session: one conversation, and the only owner of its state between replies.

The state is in its `Context`: the messages, their encoded audio, and the language model's memory of them. While a reply
runs, its own state is in its `ReplyTask`, and its rows are in the scheduler's batch. The model holds no state, so any
number of sessions can share it.
"""

from __future__ import annotations

from functools import partial

from echox.streaming.context import Context
from echox.streaming.engine import Engine
from echox.streaming.events import Mark, Reply, ReplyBuilder, heard_text
from echox.streaming.prompt.messages import Audio, Message, Question, read_messages
from echox.streaming.reply_text.calling import Calling
from echox.streaming.reply_text.policies import Policy
from echox.streaming.reply_text.settings import GenerationSettings
from echox.streaming.scheduler import Scheduler
from echox.streaming.speech import ReplySpeech
from echox.streaming.task import EventCallback, ReplyEvents, ReplyTask
from echox.tool_calls.tools import ToolUse
from echox.verbalization import verbalize


class Session:
    """A conversation of several turns.

    Example::

        session = model.session(system="You are brief.")
        for event in session.stream("question.wav"):
            ...
        reply = session.reply("and_then.wav")       # knows the first turn

    Args:
        scheduler: makes the replies.
        settings: how replies are written and spoken.
        system: system prompt; None: that of the model (``EchoXConfig.system_prompt``), if it has one.
        policy: speech policy of its replies, for studies; None: the one that the settings name.

    Attributes:
        tools: the tools that its replies may call, and how; it may be replaced between replies.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        settings: GenerationSettings,
        system: str | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.settings = settings
        self.tools = ToolUse()
        self._policy = policy
        self._context = Context(scheduler.engine, system)
        self._running: ReplyTask | None = None
        self._timeline: tuple[Mark, ...] = ()  # of the last reply

    @property
    def messages(self) -> list[Message]:
        """The conversation so far; it may be edited, or replaced, between replies."""
        return self._context.messages

    @messages.setter
    def messages(self, messages: list[Message]) -> None:
        self._context.messages = messages

    @property
    def system(self) -> str | None:
        """The system prompt; it may be replaced between replies."""
        return self._context.system

    @system.setter
    def system(self, system: str | None) -> None:
        self._context.system = system

    @property
    def engine(self) -> Engine:
        """The model."""
        return self.scheduler.engine

    @property
    def output_sampling_rate(self) -> int:
        """Rate of the spoken replies, Hz."""
        return self.engine.output_sampling_rate

    def fork(self) -> Session:
        """A copy of this conversation that goes on from here; what is asked there leaves no trace in this one.

        Raises:
            ValueError: a reply that is still running.
        """
        if self._running is not None:
            raise ValueError("expected a conversation without a running reply, found one; close it first")
        copied = Session(self.scheduler, self.settings, policy=self._policy)
        copied.tools, copied._timeline, copied._context = self.tools, self._timeline, self._context.fork()
        return copied

    # ------------------------------------------------------------------------------------------ asking

    def submit(
        self,
        question: Question,
        *,
        on_event: EventCallback | None = None,
        sampling_rate: int | None = None,
        **changes: object,
    ) -> ReplyTask:
        """Ask, and return at once: the reply comes as events of the task.

        Args:
            question: audio (path, bytes, binary file, samples), a message, or several messages; see `read_messages`.
            on_event: called with every event, and with None at the end, in the thread that makes the rounds; None:
                iterate over the task instead.
            sampling_rate: rate of bare samples; None: the rate of the model.
            **changes: `GenerationSettings` of this reply only.

        Raises:
            ValueError: a question that cannot be decoded or read, unknown settings, or a reply that is still running.
            QueueFull: more replies are waiting than the scheduler takes.
        """
        settings = self.settings.replaced(changes)
        return self._begin(self._task(self._read(question, settings, sampling_rate), settings, on_event))

    def speculate(self, question: Question, *, on_event: EventCallback | None = None, **changes: object) -> ReplyTask:
        """As `submit`, for a reply that nobody has asked for yet; `ReplyTask.keep` it then. Use it in a `fork`.

        Raises:
            ValueError: as `submit`.
            QueueFull: other replies are waiting, or no place is free.
        """
        settings = self.settings.replaced(changes)
        return self._begin(self._task(self._read(question, settings), settings, on_event, speculative=True))

    def _read(
        self, question: Question | list[Message], settings: GenerationSettings, sampling_rate: int | None = None
    ) -> list[Message]:
        rate = self.engine.input_sampling_rate
        new = read_messages(question, rate, settings.max_question_s, audio_rate=sampling_rate)
        late = new if self.messages or self.system is not None else new[1:]
        if any(message.role == "system" for message in late):
            raise ValueError("expected the system prompt once, at the start, found another; start a new session")
        return new

    def transcribe(self, audio: Audio, *, on_event: EventCallback | None = None, keep: bool = True) -> ReplyTask:
        """Only hear: the events are `Heard` and `Finished`, and the conversation stays as it is.

        Args:
            audio: speech at the rate of the model.
            on_event: as in `submit`.
            keep: whether its encoding is kept for a question about the same audio.

        Raises:
            ValueError: a reply that is still running.
            QueueFull: as `submit`.
        """

        def release(task: ReplyTask, error: BaseException | None) -> None:
            if not keep:
                self.engine.forget([audio])
            self._context.drop_unused_audio()
            self._running = None

        new, settings = [Message("user", (audio,))], self.settings.replaced({"speak": False})
        return self._begin(ReplyTask(self.scheduler, self._context, new, settings, release, on_event, replies=False))

    def judge(self, question: Question | list[Message], *, on_event: EventCallback | None = None) -> ReplyTask:
        """Only judge whether a question is complete: the events are `Heard`, `Judged` and `Finished`. Use a `fork`.

        Without a turn head in the model there is no `Judged`.

        Raises:
            ValueError, QueueFull: as `submit`.
        """
        settings = self.settings.replaced({"speak": False})

        def release(task: ReplyTask, error: BaseException | None) -> None:
            self.engine.forget([audio for message in task.new for audio in message.audios])
            self._context.drop_memory()
            self._running = None

        return self._begin(
            ReplyTask(
                self.scheduler,
                self._context,
                self._read(question, settings),
                settings,
                release,
                on_event,
                replies=False,
                judges=True,
            )
        )

    def speak(self, text: str, *, on_event: EventCallback | None = None, **changes: object) -> ReplyTask:
        """Speak a given text; it becomes the newest reply of the conversation.

        Args:
            text: to speak.
            on_event: as in `submit`.
            **changes: as in `submit`.

        Raises:
            ValueError: nothing to say, unknown settings, or a reply that is still running.
            QueueFull: as `submit`.
        """
        if not text.strip():
            raise ValueError("expected text to speak, found none; write something")
        changed = self.settings.replaced(changes)
        return self._begin(self._task([], changed, on_event, given=text))

    def spoken_length(self, text: str) -> int:
        """Characters of the words that are said for a text: "½" is one character and "one half" eight."""
        return len(verbalize(text, self.engine.language(self.settings)))

    def _task(
        self,
        new: list[Message],
        settings: GenerationSettings,
        on_event: EventCallback | None,
        given: str | None = None,
        speculative: bool = False,
    ) -> ReplyTask:
        speech = None
        if settings.speak:
            speech = ReplySpeech(self.engine, settings, self._policy or self.engine.policy(settings))
        calling = None
        if given is None and (self.tools.tools or any(_with_tools(message) for message in [*self.messages, *new])):
            # Also where no tool may be called: earlier calls must not be imitated, and spoken.
            calling = Calling(self.engine.call_constraint(self.tools))
        if self._running is None:
            self._context.tools = self.tools.shown
        release = self._release
        if speculative:
            audios = [audio for message in new for audio in message.audios]
            release = partial(self._release_speculation, [one for one in audios if self.engine.unencoded_s([one])])
        return ReplyTask(
            self.scheduler,
            self._context,
            new,
            settings,
            release,
            on_event,
            given,
            speech,
            calling=calling,
            speculative=speculative,
            judges=speculative,
        )

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

    def stream(self, question: Question, *, sampling_rate: int | None = None, **changes: object) -> ReplyEvents:
        """Answer one turn piece by piece: text and speech together, each piece as soon as it is final.

        Closing the iterator cancels the reply; what was written so far stays in the history.

        Returns:
            Iterator of `Heard`, `ContextDropped`, `TextDelta`, `AudioChunk`, `SpeechFailed` and, last, `Finished`.

        Raises:
            ValueError, QueueFull: as `submit`.
        """
        return ReplyEvents(self.submit(question, on_event=None, sampling_rate=sampling_rate, **changes))

    def reply(self, question: Question, *, sampling_rate: int | None = None, **changes: object) -> Reply:
        """Answer one turn, and return the whole reply.

        Raises:
            ValueError, QueueFull: as `submit`.
        """
        builder = ReplyBuilder(self.output_sampling_rate)
        for event in self.stream(question, sampling_rate=sampling_rate, **changes):
            builder.add(event)
        return builder.build()

    def truncate(self, audio_s: float) -> str:
        """Cut the last reply in the history to the part that was heard, after an interruption. Its calls stay.

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
        reply = self.messages[-1]
        text = "".join(str(part) for part in reply.parts)
        kept = heard_text(text, self._timeline, audio_s)
        self.messages[-1] = Message("assistant", (kept,), reply.calls)
        return kept

    def _release_speculation(self, fresh: list[Audio], task: ReplyTask, error: BaseException | None) -> None:
        """A reply that began as a speculation has ended; `fresh`: audio that nobody had encoded before."""
        if task.speculative:  # it was not kept: this fork is of no use any more
            self.engine.forget(fresh)
            self._running = None
            return
        self._context.share_kept_system_turn()  # which no speculation does
        self._release(task, error)

    def _release(self, task: ReplyTask, error: BaseException | None) -> None:
        """A reply has ended (complete, cancelled or failed): put it into the history."""
        if error is not None:
            self._context.drop_memory()
        if task.text or task.calls or (error is None and not task.cancelled):
            self.messages += [*task.new, Message("assistant", (task.text,), task.calls)]
            self._timeline = tuple(task.speech.timeline) if task.speech is not None else ()
        # Else it was cancelled, or failed, before a word: the question does not stay in the history either.
        self._context.drop_unused_audio()
        self._running = None  # last: from now on another thread may ask


def _with_tools(message: Message) -> bool:
    """Whether a message belongs to a conversation with tools."""
    return bool(message.calls) or message.role == "tool"
