"""Many conversations, one model: the work of all replies, done together in rounds.

A round is one `step`: hear new questions, run prompts, write one token of every reply, say some unit words, make sound;
each of these once, for all replies that are at that point. Replies join and leave at any round. So nobody waits for
another's reply to end, and the text of a reply, its units and its sound are made side by side.

Who drives: whoever iterates over a reply (`drive`), or, for servers, a thread (`start`). One lock makes rounds
exclusive; submitting never waits for a round.

A reply's tokens, units and sound are those it would have alone: rows do not see each other, and randomness is its own.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from echox.errors import QueueFull
from echox.models.decoding.lean_llama import LeanSteps
from echox.models.vocoder.vocoder_stream import VocoderStream
from echox.streaming.context import LayoutCancelled
from echox.streaming.engine import Engine
from echox.streaming.events import Heard
from echox.streaming.rows import Tasks, choose_outputs, first_row, known, leave, neighbours, sample, spans, timed
from echox.streaming.task import ReplyTask

PREFILL_POSITIONS = 512
"""Of each prompt in one round: longer ones take several, so that they do not silence who is speaking."""
HEARD_SECONDS = 30.0
"""Of questions encoded in one round; the questions of one reply that are longer together are encoded step by step."""
HEARING_S = 0.04
"""Of computing on a long question in one round; a step that has begun is finished."""
READING_S = 0.02
"""Of turning one reply's text into spoken words in one round, beside other replies."""
UNIT_STEPS = 8
"""Steps of the echo decoder in one round: a word or two."""


class Scheduler:
    """The work of one model.

    Args:
        engine: the model.
        max_running: replies that are worked on at a time; memory is bounded by it.
        max_waiting: replies that may wait for their turn; they begin in the order they came.

    Raises:
        ValueError: fewer than one running reply, or fewer than no waiting ones.
    """

    def __init__(self, engine: Engine, max_running: int = 8, max_waiting: int = 64) -> None:
        if max_running < 1 or max_waiting < 0:
            raise ValueError(f"expected max_running >= 1 and max_waiting >= 0, found {max_running} and {max_waiting}")
        self.engine = engine
        self.max_running, self.max_waiting = max_running, max_waiting
        self.num_steps = 0
        self._queue: deque[ReplyTask] = deque()
        self._running: list[ReplyTask] = []
        self._round = threading.RLock()  # held during a round
        self._worker: int | None = None  # the thread that is in a round
        self._news = threading.Condition()  # something was submitted, cancelled or emitted; no round is awaited in it
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._reset_memory()

    def _reset_memory(self) -> None:
        self._memory = self.engine.new_memory(self.max_running)
        self._text_rows: list[ReplyTask] = []
        self._steps = LeanSteps(self.engine.echo_weights)
        self._idle = self.engine.echo_weights.final_norm.new_zeros(1, self.engine.echo_weights.width)
        self._echo_rows: list[ReplyTask] = []
        self._hearing_task: ReplyTask | None = None  # whose long questions are being encoded
        self._hearing: Iterator[None] = iter(())
        self._hearing_due_s = 0.0  # not before, if others are at work

    # ------------------------------------------------------------------------------------------ from outside

    @property
    def num_running(self) -> int:
        """Replies that are being worked on."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Replies that wait for their turn."""
        return len(self._queue)

    @property
    def memory_bytes(self) -> int:
        """Key-value memory of both decoders."""
        return self._memory.num_bytes + self._steps.num_bytes

    def submit(self, task: ReplyTask) -> None:
        """Take a reply into the queue.

        Raises:
            QueueFull: too many are waiting.
        """
        with self._news:
            if len(self._queue) >= self.max_waiting + self.max_running - len(self._running):
                raise QueueFull(
                    f"expected at most {self.max_running} replies at work and {self.max_waiting} waiting, found as "
                    "many already; try again in a moment"
                )
            self._queue.append(task)
            self._news.notify_all()

    def notice(self, wait: bool = True) -> None:
        """A task was cancelled: end it now, or have it ended by who is in a round.

        Args:
            wait: for the end of another thread's round, if no thread of ours does them.
        """
        with self._news:
            self._news.notify_all()
        if self._thread is None and self._worker != threading.get_ident() and self._round.acquire(blocking=wait):
            try:
                with self._in_round():
                    self._drop_cancelled()
            finally:
                self._round.release()

    def wait(self, task: ReplyTask) -> None:
        """Until the thread, if it does the rounds, has ended a cancelled task; a round does not wait for itself."""
        with self._news:
            while self._thread is not None and not task.done and self._worker != threading.get_ident():
                self._news.wait(timeout=1.0)

    def drive(self, task: ReplyTask) -> None:
        """Bring a task forward: do a round, or wait for the thread that does them.

        Raises:
            RuntimeError: from within a round, by what was called with an event.
        """
        self._check_outside()
        if self._thread is None:
            self.step()
            return
        with self._news:
            if not task.has_events and not task.done:
                self._news.wait(timeout=1.0)

    def start(self) -> None:
        """Let a thread do the rounds, as servers need it; it sleeps while there is nothing to do."""
        with self._news:
            if self._thread is None:
                self._stopping = False
                self._thread = threading.Thread(target=self._work, name="echox-scheduler", daemon=True)
                self._thread.start()
                atexit.register(self.stop)  # an interpreter that ends amid a step of torch crashes

    def stop(self) -> None:
        """End the thread after the round at hand; replies on their way stay where they are.

        Raises:
            RuntimeError: as `drive`.
        """
        self._check_outside()
        with self._news:
            thread, self._stopping = self._thread, True
            self._news.notify_all()
        if thread is None:
            return
        thread.join()
        atexit.unregister(self.stop)
        with self._news:
            self._thread = None
            self._news.notify_all()  # who waits for a reply goes on with it

    def _work(self) -> None:
        while not self._stopping:
            busy = self.step()
            with self._news:
                self._news.notify_all()  # also after the last reply was cancelled
                if not (busy or self._queue or self._stopping):
                    self._news.wait(timeout=1.0)

    # ------------------------------------------------------------------------------------------ a round

    def step(self) -> bool:
        """Do one round; whether there was anything to do.

        Raises:
            RuntimeError: as `drive`.
        """
        self._check_outside()
        with self._round, self._in_round():
            try:
                return self._do_round()
            except BaseException as error:  # a fault of ours, or Ctrl-C: what the memories hold is unknown
                self._fail_all(error)
                if not isinstance(error, Exception):
                    raise
                return True

    def _do_round(self) -> bool:
        self._drop_cancelled()
        self._admit()
        if not self._running:
            return False
        self.num_steps += 1
        self._hear()
        self._read()
        self._write()
        self._read_aloud()
        self._say()
        self._sound()
        for task in [task for task in self._running if task.complete]:
            self._end(task)
        self._drop_cancelled()  # meanwhile
        return True

    @contextmanager
    def _in_round(self) -> Iterator[None]:
        self._worker = threading.get_ident()
        try:
            with torch.inference_mode():
                yield
        finally:
            self._worker = None

    def _check_outside(self) -> None:
        if self._worker == threading.get_ident():
            raise RuntimeError(
                "expected replies to be awaited, and the scheduler to be driven, outside of a round; found it in what "
                "was called with an event: hand the event over and return"
            )

    def _drop_cancelled(self) -> None:
        while (task := next((task for task in self._running if task.cancelled), None)) is not None:
            self._end(task)
        if any(task.cancelled for task in self._queue):
            with self._news:
                dropped = [task for task in self._queue if task.cancelled]
                self._queue = deque(task for task in self._queue if not task.cancelled)
            for task in dropped:
                task.end()

    def _admit(self) -> None:
        while self._queue and len(self._running) < self.max_running:
            with self._news:
                self._running.append(task := self._queue.popleft())
            task.timings.queued_s = time.perf_counter() - task.asked_s

    def _end(self, task: ReplyTask, error: BaseException | None = None) -> None:
        """Take a task out of the work; its session keeps what the language model remembers."""
        self._leave_text(task, keep=error is None)
        if task.echo_row is not None:
            self._steps.clear(task.echo_row)  # it may have been given what is not finite, and only failed to speak
            leave(self._steps, self._echo_rows, task, "echo_row")
        self._running.remove(task)
        if task is self._hearing_task:
            self._hearing_task, self._hearing = None, iter(())
        task.end(error)

    def _leave_text(self, task: ReplyTask, keep: bool = True) -> None:
        if task.text_row is None:
            return
        if keep:
            task.context.remember(self._memory.save(task.text_row))
        else:
            self._memory.clear(task.text_row)
        leave(self._memory, self._text_rows, task, "text_row")

    def _fail_all(self, error: BaseException) -> None:
        running, self._running = self._running, []
        self._reset_memory()
        for task in running:
            task.end(error)

    def _each(self, tasks: Tasks, work: Callable[[Tasks], None]) -> None:
        """Do work for several replies at once; if it fails, for each alone, so that only the culprit fails."""
        if not tasks:
            return
        try:
            work(tasks)
        except Exception as error:  # noqa: BLE001 - handed to the reply that caused it
            if len(tasks) == 1:
                self._end(tasks[0], error)
                return
            for task in tasks:
                self._each([task], work)

    @contextmanager
    def _blaming(self, task: ReplyTask) -> Iterator[None]:
        """What is done for one reply after a step for several: it fails alone, and the step is not made again."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - handed to the reply that caused it
            self._end(task, error)

    # ------------------------------------------------------------------------------------------ hear and read

    def _hear(self) -> None:
        """Encode the questions of new replies."""
        new = [
            task for task in self._running if task.text_row is None and task.given is None and not task.text_finished
        ]
        taken, long, seconds = [], [], 0.0
        for task in new:
            unheard_s = self.engine.unheard_s(task.context.unheard(task.new))
            if unheard_s > HEARD_SECONDS or task is self._hearing_task:  # to its end, however little is left
                long.append(task)
            elif seconds < HEARD_SECONDS:
                taken.append(task)
                seconds += unheard_s
        self._each(taken, self._hear_tasks)
        # Beside other replies, long questions get half of the time. One at a time: what is half heard takes memory.
        if len(long) == len(self._running) or time.perf_counter() >= self._hearing_due_s:
            self._each([task for task in long if task is self._hearing_task][:1] or long[:1], self._hear_long)

    def _hear_long(self, tasks: Tasks) -> None:
        """Some steps in hearing long questions, so that nobody waits for the end of them."""
        (task,) = tasks
        if task is not self._hearing_task:
            self._hearing_task, self._hearing = task, self.engine.hear_gradually(task.context.unheard(task.new))
        begin_s = time.perf_counter()
        with timed(tasks, "encode_s"):
            for _ in self._hearing:
                if (now_s := time.perf_counter()) >= begin_s + HEARING_S:
                    self._hearing_due_s = now_s + (now_s - begin_s)
                    return
        self._hearing_task, self._hearing = None, iter(())
        self._hear_tasks(tasks)

    def _hear_tasks(self, tasks: Tasks) -> None:
        audios = [audio for task in tasks for audio in task.context.unheard(task.new)]
        with timed(tasks, "encode_s"):
            heard = iter(self.engine.hear(audios) if audios else [])
        for task in tasks:
            found = {audio: next(heard) for audio in task.context.unheard(task.new)}
            with self._blaming(task), suppress(LayoutCancelled):  # nothing to hear in it, or no room
                task.context.hear(found)
                text = task.context.transcript(task.new[-1])
                keys = task.lay_out()
                task.timings.num_prompt_tokens = len(keys)
                task.timings.num_prompt_audio_tokens = sum(not isinstance(key, int) for key in keys)
                if text:
                    task.emit(Heard(text, task.context.heard_words(task.new[-1])))
                saved, task.positions = task.context.resume(keys)
                task.text_row = self._memory.join(saved)
                self._text_rows.append(task)

    def _read(self) -> None:
        """Run prompts, a part of them if they are long."""
        for tasks in neighbours([task for task in self._text_rows if task.positions]):
            self._each(tasks, self._read_tasks)

    def _read_tasks(self, tasks: Tasks) -> None:
        with timed(tasks, "prefill_s"):
            parts = [task.positions[:PREFILL_POSITIONS] for task in tasks]
            embeds = [task.context.embed(part) for task, part in zip(tasks, parts, strict=True)]
            counts = [len(part) for part in parts]
            states = self._memory.advance(pad_sequence(embeds, batch_first=True), counts, first_row(tasks))
        for task, part, row in zip(tasks, parts, states, strict=True):
            task.context.note(part)
            task.positions = task.positions[len(part) :]
            if not task.positions:
                task.state = row[len(part) - 1]

    # ------------------------------------------------------------------------------------------ write

    def _write(self) -> None:
        """The next token of every reply that needs one: before the first sound, one that has nothing to say."""
        writing = [task for task in self._text_rows if task.state is not None]
        waiting = [task for task in writing if task.speech and task.timings.ttfa_s is None and task.speech.ready]
        self._each([task for task in writing if task not in waiting], self._write_tasks)
        # Several rows at once cost what one costs: rows in between run along, and hold still.
        advancing = [task for task in self._text_rows if task.state is None and not task.positions]
        for tasks in spans(self._text_rows, advancing):
            self._each(tasks, self._advance_tasks)

    def _write_tasks(self, tasks: Tasks) -> None:
        engine = self.engine
        with timed(tasks, "text_s"):
            states = torch.stack([known(task.state) for task in tasks])
            logits = engine.logits(states)
            settings = [task.settings for task in tasks]
            chosen = sample(
                logits,
                [one.temperature for one in settings],
                [one.top_p for one in settings],
                [task.dice.value for task in tasks],
            )
            finite = torch.isfinite(logits).all(-1).tolist()
            denoised = engine.denoise(states, chosen)
            scores = engine.scores(states)
            token_ids = chosen.tolist()
        for number, task in enumerate(tasks):
            with self._blaming(task):
                if not finite[number]:
                    raise FloatingPointError("the language model's logits are not finite; are the weights damaged?")
                self._take(task, token_ids[number], denoised[number], scores[number])

    def _take(self, task: ReplyTask, token_id: int, denoised: Tensor, score: float) -> None:
        task.dice.roll()
        task.state = None
        if token_id in self.engine.eos_ids:
            self._finish_text(task, "end")
            return
        with timed([task], "text_s"):
            task.write(token_id, denoised, score)
        if len(task.token_ids) >= task.room:
            self._finish_text(task, "length")

    def _finish_text(self, task: ReplyTask, stopped: str) -> None:
        task.finish_text(stopped)
        task.pass_on_speech()
        self._leave_text(task)

    def _advance_tasks(self, tasks: Tasks) -> None:
        """Run the newest token of neighbouring rows; those that wait for something else only run along."""
        moving = [task for task in tasks if task.state is None and not task.positions]
        with timed(moving, "text_s"):
            keys = [task.token_ids[-1] if task.token_ids else 0 for task in tasks]
            embeds = self.engine.embed(keys, {})
            counts = [int(task in moving) for task in tasks]
            states = self._memory.advance(embeds[:, None], counts, first_row(tasks))
        for task, row in zip(tasks, states, strict=True):
            if task in moving:
                task.context.note(task.token_ids[-1:])
                task.state = row[0]

    # ------------------------------------------------------------------------------------------ speak

    def _read_aloud(self) -> None:
        """Text to the mouth: what was written in this round, and a part of what was given."""
        for task in [task for task in self._running if task.has_text_to_read]:
            self._each([task], self._read_aloud_task)

    def _read_aloud_task(self, tasks: Tasks) -> None:
        due_s = time.perf_counter() + READING_S

        def enough() -> bool:
            return tasks[0].cancelled or (time.perf_counter() >= due_s and len(self._running) + len(self._queue) > 1)

        with timed(tasks, "text_s"):
            tasks[0].read_text(enough)

    def _say(self) -> None:
        """Unit words of every reply that has text to say."""
        for _ in range(UNIT_STEPS):
            ready = [task for task in self._running if task.speech is not None and task.speech.ready]
            if not ready:
                break
            for task in ready:
                if task.echo_row is None:
                    task.echo_row = self._steps.join()
                    self._echo_rows.append(task)
            # Whole prompts, of decoders that begin with one, run alone: others would only run along, many times.
            long = [task for task in ready if known(known(task.speech).stream).begins_with_prompt]
            for task in long:
                self._each([task], self._say_tasks)
            for tasks in spans(self._echo_rows, [task for task in ready if task not in long]):
                self._each(tasks, self._say_tasks)
        for task in self._running:
            task.pass_on_speech()

    def _say_tasks(self, tasks: Tasks) -> None:
        """One step of the echo decoder for neighbouring rows; those without anything to say only run along."""
        decoder = self.engine.model.echo_decoder
        streams = [task.speech.stream if task.speech is not None and task.speech.ready else None for task in tasks]
        with timed([task for task, stream in zip(tasks, streams, strict=True) if stream], "echo_s"):
            inputs = [stream.inputs() if stream else self._idle for stream in streams]
            counts = [len(one) if stream else 0 for one, stream in zip(inputs, streams, strict=True)]
            first = known(tasks[0].echo_row)
            for row, stream in enumerate(streams, first):
                if stream:
                    self._steps.truncate(row, stream.position)
            hidden = self._steps.advance(pad_sequence(inputs, batch_first=True), counts, first)
            last = hidden[:, -1] if hidden.shape[1] == 1 else hidden[range(len(tasks)), [max(n, 1) - 1 for n in counts]]
            outputs = choose_outputs(streams, decoder.output_logits(last), decoder.end_id)
            for task, stream, output in zip(tasks, streams, outputs, strict=True):
                if stream:
                    with self._blaming(task):
                        known(task.speech).accept(output)

    def _sound(self) -> None:
        """Sound of every reply that has enough for a chunk."""
        voices = [task for task in self._running if task.speech is not None]
        self._each(voices, lambda tasks: VocoderStream.time([known(task.speech).voice for task in tasks]))
        number = len(self._running)
        speaking = [task for task in self._running if task.speech is not None and task.speech.sounds(number)]
        self._each(speaking, self._sound_tasks)

    def _sound_tasks(self, tasks: Tasks) -> None:
        with timed(tasks, "vocoder_s"):
            waveforms = VocoderStream.advance([known(task.speech).voice for task in tasks])
        for task, waveform in zip(tasks, waveforms, strict=True):
            with self._blaming(task):
                known(task.speech).sounded(waveform)
                task.pass_on_speech()
