"""The replies that are being worked on, and the steps of a round: each step is made once, for all replies together.

The order of a round: encode new questions, run prompts through the language model (prefill), write one token of every
reply, generate some unit words, turn units into sound. Replies join and leave between any two steps.

A reply's tokens, units and sound are those it would have alone: rows do not see each other, and each reply has random
numbers of its own. A step that fails for several replies is made again for each alone, so that only one of them fails.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from echox.models.decoding.lean_llama import LeanSteps
from echox.models.vocoder.vocoder_stream import VocoderStream
from echox.streaming.context import LayoutCancelled
from echox.streaming.engine import Engine
from echox.streaming.rows import (
    Tasks,
    adjacent_rows,
    choose_outputs,
    constrained,
    first_row,
    remove_row,
    required,
    row_range,
    sample,
    timed,
)
from echox.streaming.speech import ReplySpeech
from echox.streaming.task import ReplyTask

PREFILL_POSITIONS = 512
"""Positions of each prompt in one round: longer prompts take several rounds, so that speech of others continues."""
MAX_ENCODED_S = 30.0
"""Seconds of questions encoded in one round; the questions of one reply that are longer are encoded step by step."""
LONG_ENCODING_S = 0.04
"""Compute seconds for a long question in one round; a step that has begun is finished."""
READING_S = 0.02
"""Compute seconds in one round for reading one reply's text into spoken words, beside other replies."""
UNIT_STEPS = 8
"""Steps of the echo decoder in one round: a word or two."""


class ReplyBatch:
    """The replies at work, in the rows of the language model's and the echo decoder's memories.

    Args:
        engine: the model.
        max_running: most replies at a time.
        num_waiting: the number of replies that wait for their turn.

    Attributes:
        running: the replies, in the order they joined.
    """

    def __init__(self, engine: Engine, max_running: int, num_waiting: Callable[[], int]) -> None:
        self.engine, self.max_running = engine, max_running
        self.running: list[ReplyTask] = []
        self._resting: frozenset[ReplyTask] = frozenset()
        self._num_waiting = num_waiting
        self._reset_memory()

    def _reset_memory(self) -> None:
        self._memory = self.engine.new_memory(self.max_running)
        self._text_rows: list[ReplyTask] = []
        self._echo_memory = LeanSteps(self.engine.echo_weights)
        self._no_input = self.engine.echo_weights.final_norm.new_zeros(1, self.engine.echo_weights.width)
        self._echo_rows: list[ReplyTask] = []
        self._encoding_task: ReplyTask | None = None  # the one whose long questions are being encoded
        self._encoding: Iterator[None] = iter(())
        self._encoding_due_s = 0.0  # not before this time, if other replies are at work

    @property
    def memory_bytes(self) -> int:
        """Size of the key-value memories of both decoders."""
        return self._memory.num_bytes + self._echo_memory.num_bytes

    def step(self) -> bool:
        """Make every step of a round once; return whether there was anything to do."""
        self._resting = self._find_resting()
        if not self._working:
            return False
        self._encode()
        self._prefill()
        self._write()
        self._read_texts()
        self._generate_units()
        self._vocode()
        for task in [task for task in self.running if task.complete and not task.speculative]:
            self.end(task)
        return True

    def _find_resting(self) -> frozenset[ReplyTask]:
        """Speculations that do not take part in a round: all while a wanted reply has not begun, later those that have.

        So the first sound of a wanted reply is never later for them, and what they may cost in vain is bounded.
        """
        awaited = any(task.replies and not (task.speculative or task.begun) for task in self.running)
        return frozenset(task for task in self.running if task.speculative and (awaited or task.begun))

    @property
    def _working(self) -> list[ReplyTask]:
        """The replies that take part in this round."""
        return [task for task in self.running if task not in self._resting]

    # ------------------------------------------------------------------------------------------ join and leave

    def end(self, task: ReplyTask, error: BaseException | None = None) -> None:
        """Remove a reply; without an error its context keeps the language model's memory of it."""
        self._leave_text(task, keep=error is None)
        if task.echo_row is not None:
            self._echo_memory.clear(task.echo_row)  # its inputs may not have been finite: then only its speech failed
            remove_row(self._echo_memory, self._echo_rows, task, "echo_row")
        self.running.remove(task)
        if task is self._encoding_task:
            self._encoding_task, self._encoding = None, iter(())
        task.end(error)

    def end_cancelled(self) -> None:
        """Remove the replies that were cancelled."""
        while (task := next((task for task in self.running if task.cancelled), None)) is not None:
            self.end(task)

    def fail_all(self, error: BaseException) -> None:
        """End every reply with an error, and start with empty memories: what they hold is unknown."""
        running, self.running = self.running, []
        self._reset_memory()
        for task in running:
            task.end(error)

    def _leave_text(self, task: ReplyTask, keep: bool = True) -> None:
        if task.text_row is None:
            return
        if keep:
            task.context.keep_memory(self._memory.save(task.text_row))
        else:
            self._memory.clear(task.text_row)
        remove_row(self._memory, self._text_rows, task, "text_row")

    def _each(self, tasks: Tasks, work: Callable[[Tasks], None]) -> None:
        """Do work for several replies at once; if it fails, for each alone, so that only the faulty one fails."""
        if not tasks:
            return
        try:
            work(tasks)
        except Exception as error:  # noqa: BLE001 - handed to the reply that caused it
            if len(tasks) == 1:
                self.end(tasks[0], error)
                return
            for task in tasks:
                self._each([task], work)

    @contextmanager
    def _fails_alone(self, task: ReplyTask) -> Iterator[None]:
        """What is done for one reply after a step for several: it fails alone, and the step is not made again."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - handed to the reply that caused it
            self.end(task, error)

    # ------------------------------------------------------------------------------------------ encode and prefill

    def _encode(self) -> None:
        """Encode the questions of new replies."""
        new = [task for task in self._working if task.awaits_prompt]
        short, long, total_s = [], [], 0.0
        for task in new:
            with timed([task], "encode_s"):  # where speech is in them is searched here
                unencoded_s = self.engine.unencoded_s(task.context.not_encoded(task.new))
            if unencoded_s > MAX_ENCODED_S or task is self._encoding_task:  # to its end, however little is left
                long.append(task)
            elif total_s < MAX_ENCODED_S:
                short.append(task)
                total_s += unencoded_s
        self._each(short, self._encode_tasks)
        # Beside other replies, long questions get half of the time. One at a time: a half encoded one takes memory.
        if len(long) == len(self._working) or time.perf_counter() >= self._encoding_due_s:
            self._each([task for task in long if task is self._encoding_task][:1] or long[:1], self._encode_long)

    def _encode_long(self, tasks: Tasks) -> None:
        """Some steps of encoding long questions, so that no other reply waits for all of them."""
        (task,) = tasks
        if task is not self._encoding_task:
            audios = task.context.not_encoded(task.new)
            self._encoding_task, self._encoding = task, self.engine.encode_gradually(audios)
        begin_s = time.perf_counter()
        with timed(tasks, "encode_s"):
            for _ in self._encoding:
                if (now_s := time.perf_counter()) >= begin_s + LONG_ENCODING_S:
                    self._encoding_due_s = now_s + (now_s - begin_s)
                    return
        self._encoding_task, self._encoding = None, iter(())
        self._encode_tasks(tasks)

    def _encode_tasks(self, tasks: Tasks) -> None:
        audios = [audio for task in tasks for audio in task.context.not_encoded(task.new)]
        with timed(tasks, "encode_s"):
            encoded = iter(self.engine.encode(audios) if audios else [])
        for task in tasks:
            found = {audio: next(encoded) for audio in task.context.not_encoded(task.new)}
            # It fails with no words in it, or no room for a reply.
            with self._fails_alone(task), suppress(LayoutCancelled):
                task.context.add_encoded(found)
                if not task.replies:  # it needs no prompt
                    if task.new[-1].audios:
                        task.emit(task.context.heard(task.new[-1]))
                    if task.judges:
                        task.judge()
                    task.finish_text("end")
                    continue
                positions = task.lay_out()
                task.timings.num_prompt_tokens = len(positions)
                task.timings.num_prompt_audio_tokens = sum(not isinstance(one, int) for one in positions)
                if task.new[-1].audios:
                    task.emit(task.context.heard(task.new[-1]))
                if task.judges:
                    task.judge()
                saved, task.positions = task.context.take_memory(positions)
                task.timings.num_cached_tokens = len(positions) - len(task.positions)
                task.text_row = self._memory.join(saved, task.context.adapter)
                self._text_rows.append(task)

    def _prefill(self) -> None:
        """Run prompts through the language model, a part of them if they are long."""
        for tasks in adjacent_rows([task for task in self._text_rows if task.positions and task not in self._resting]):
            self._each(tasks, self._prefill_tasks)

    def _prefill_tasks(self, tasks: Tasks) -> None:
        with timed(tasks, "prefill_s"):
            parts = [task.positions[:PREFILL_POSITIONS] for task in tasks]
            embeds = [task.context.embed(part) for task, part in zip(tasks, parts, strict=True)]
            counts = [len(part) for part in parts]
            states = self._memory.advance(pad_sequence(embeds, batch_first=True), counts, first_row(tasks))
        for task, part, row in zip(tasks, parts, states, strict=True):
            task.context.mark_run(part)
            task.positions = task.positions[len(part) :]
            if not task.positions:
                task.state = row[len(part) - 1]
                if not task.speculative:  # of that it is shared when the reply is kept and has ended
                    task.context.share_system_turn(partial(self._memory.save, required(task.text_row)))

    # ------------------------------------------------------------------------------------------ write

    def _write(self) -> None:
        """The next token of every reply; before its first sound, only of a reply that has no text to speak."""
        writing = [task for task in self._text_rows if task.state is not None and task not in self._resting]
        waiting = [task for task in writing if task.speech and task.timings.ttfa_s is None and task.speech.ready]
        self._each([task for task in writing if task not in waiting], self._write_tasks)
        # Several rows at once cost what one costs: rows in between take part, and do not advance.
        advancing = [
            task for task in self._text_rows if task.state is None and not task.positions and task not in self._resting
        ]
        for tasks in row_range(self._text_rows, advancing):
            self._each(tasks, self._advance_tasks)

    def _write_tasks(self, tasks: Tasks) -> None:
        engine = self.engine
        with timed(tasks, "text_s"):
            states = torch.stack([required(task.state) for task in tasks])
            logits = engine.logits(states)
            settings = [task.settings for task in tasks]
            chosen = sample(
                constrained(logits, tasks),
                [one.temperature for one in settings],
                [one.top_p for one in settings],
                [task.sampling_number.value for task in tasks],
            )
            finite = torch.isfinite(logits).all(-1).tolist()
            denoised = engine.denoise(states, chosen)
            scores = engine.scores(states)
            token_ids = chosen.tolist()
        for number, task in enumerate(tasks):
            with self._fails_alone(task):
                if not finite[number]:
                    raise FloatingPointError("the language model's logits are not finite; are the weights damaged?")
                self._take(task, token_ids[number], denoised[number], scores[number])

    def _take(self, task: ReplyTask, token_id: int, denoised: Tensor, score: float) -> None:
        task.sampling_number.draw()
        task.state = None
        if token_id in self.engine.eos_ids:
            self._finish_text(task, "end")
            return
        with timed([task], "text_s"):
            if task.calling is not None:
                task.calling.constraint.take(token_id)
            task.write(token_id, denoised, score)
        if task.calling is not None and task.calling.begun and task.calling.constraint.ended:
            self._finish_text(task, "end")
        elif len(task.token_ids) >= task.room:
            self._finish_text(task, "length")

    def _finish_text(self, task: ReplyTask, stopped: str) -> None:
        task.finish_text(stopped)
        task.emit_speech()
        self._leave_text(task)

    def _advance_tasks(self, tasks: Tasks) -> None:
        """Run the newest token of adjacent rows; rows that wait for something else do not advance."""
        moving = [task for task in tasks if task.state is None and not task.positions]
        with timed(moving, "text_s"):
            positions = [task.token_ids[-1] if task.token_ids else 0 for task in tasks]
            embeds = self.engine.embed(positions, {})
            counts = [int(task in moving) for task in tasks]
            states = self._memory.advance(embeds[:, None], counts, first_row(tasks))
        for task, row in zip(tasks, states, strict=True):
            if task in moving:
                task.context.mark_run(task.token_ids[-1:])
                task.state = row[0]

    # ------------------------------------------------------------------------------------------ speak

    def _read_texts(self) -> None:
        """Give text to the speech of each reply: what was written in this round, and a part of a given text."""
        for task in [task for task in self._working if task.has_text_to_read]:
            self._each([task], self._read_text)

    def _read_text(self, tasks: Tasks) -> None:
        (task,) = tasks
        due_s = time.perf_counter() + READING_S

        def enough() -> bool:
            alone = len(self._working) + self._num_waiting() <= 1
            return task.cancelled or (time.perf_counter() >= due_s and not alone)

        with timed(tasks, "text_s"):
            task.read_text(enough)

    def _generate_units(self) -> None:
        """Some unit words of every reply that has text to speak."""
        for _ in range(UNIT_STEPS):
            ready = [task for task, speech in self._speaking() if speech.ready]
            if not ready:
                break
            for task in ready:
                if task.echo_row is None:
                    task.echo_row = self._echo_memory.join()
                    self._echo_rows.append(task)
            # Decoders that begin with a whole prompt run it alone: other rows would take part in it for nothing.
            long = [task for task in ready if required(required(task.speech).stream).begins_with_prompt]
            for task in long:
                self._each([task], self._unit_step)
            for tasks in row_range(self._echo_rows, [task for task in ready if task not in long]):
                self._each(tasks, self._unit_step)
        for task in self._working:
            task.emit_speech()

    def _unit_step(self, tasks: Tasks) -> None:
        """One step of the echo decoder for adjacent rows; rows without text to speak do not advance."""
        decoder = self.engine.model.echo_decoder
        streams = [task.speech.stream if task.speech is not None and task.speech.ready else None for task in tasks]
        with timed([task for task, stream in zip(tasks, streams, strict=True) if stream], "echo_s"):
            inputs = [stream.inputs() if stream else self._no_input for stream in streams]
            counts = [len(one) if stream else 0 for one, stream in zip(inputs, streams, strict=True)]
            first = required(tasks[0].echo_row)
            for row, stream in enumerate(streams, first):
                if stream:
                    self._echo_memory.truncate(row, stream.position)
            hidden = self._echo_memory.advance(pad_sequence(inputs, batch_first=True), counts, first)
            last = hidden[:, -1] if hidden.shape[1] == 1 else hidden[range(len(tasks)), [max(n, 1) - 1 for n in counts]]
            outputs = choose_outputs(streams, decoder.output_logits(last), decoder.end_id)
            for task, stream, output in zip(tasks, streams, outputs, strict=True):
                if stream:
                    with self._fails_alone(task):
                        required(task.speech).accept(output)

    def _speaking(self) -> list[tuple[ReplyTask, ReplySpeech]]:
        return [(task, task.speech) for task in self._working if task.speech is not None]

    def _vocode(self) -> None:
        """Sound of every reply that has enough for a chunk."""
        self._each([task for task, _ in self._speaking()], self._time_units)
        number = len(self._working)
        self._each([task for task, speech in self._speaking() if speech.chunk_ready(number)], self._make_chunks)

    def _time_units(self, tasks: Tasks) -> None:
        VocoderStream.time([required(task.speech).vocoder for task in tasks])

    def _make_chunks(self, tasks: Tasks) -> None:
        with timed(tasks, "vocoder_s"):
            waveforms = VocoderStream.advance([required(task.speech).vocoder for task in tasks])
        for task, waveform in zip(tasks, waveforms, strict=True):
            with self._fails_alone(task):
                required(task.speech).add_chunk(waveform)
                task.emit_speech()
