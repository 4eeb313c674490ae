"""A session: one conversation and the only owner of its decoding state.

State: the messages and what was heard in their audio, the language model's key-value cache with the names of the
positions it holds, and, while a reply runs, its trigger, random generator and what is written. Nothing of it lives on
the model, so any number of sessions share one engine without noticing each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache

from echox.streaming.decoding import GenerationSettings, IncrementalDetokenizer, choose_token
from echox.streaming.engine import Engine, HeardAudio, Prompt, SegmentText, timed
from echox.streaming.events import (
    AudioChunk,
    Event,
    Finished,
    Heard,
    Reply,
    ReplyBuilder,
    SpeechFailed,
    TextDelta,
    Timings,
)
from echox.streaming.messages import Audio, Message, join_system, read_messages
from echox.streaming.trigger import Segment


class Session:
    """A conversation of several turns.

    Example::

        session = model.session(system="You are brief.")
        for event in session.stream("question.wav"):
            ...
        reply = session.reply("and_then.wav")       # knows the first turn

    Args:
        engine: the model.
        settings: how replies are written and spoken.
        system: system prompt; None: none.
    """

    def __init__(self, engine: Engine, settings: GenerationSettings, system: str | None = None) -> None:
        self.engine = engine
        self.settings = settings
        self.system = system
        self.messages: list[Message] = []
        self._heard: dict[Audio, HeardAudio] = {}
        self._cache = DynamicCache()
        self._cached: list[Any] = []  # names of the positions in the cache
        self._running = False

    @property
    def output_sampling_rate(self) -> int:
        """Rate of the spoken replies, Hz."""
        return self.engine.output_sampling_rate

    def stream(self, question: Any, *, sampling_rate: int | None = None, **changes: Any) -> Iterator[Event]:
        """Answer one turn piece by piece.

        Text and speech come out together: after the token that completes a segment its speech follows at once. Closing
        the iterator cancels the reply; what was written so far stays in the history.

        Args:
            question: audio (path, bytes, binary file, samples), a message, or several messages; see `read_messages`.
            sampling_rate: rate of bare samples; None: the rate the model hears.
            **changes: `GenerationSettings` of this reply only.

        Returns:
            Iterator of `Heard`, `TextDelta`, `AudioChunk`, `SpeechFailed` and, last, `Finished`.

        Raises:
            ValueError: a question that cannot be heard or read, unknown settings, or a reply that is still running.
        """
        settings, new = self._read(question, sampling_rate, changes)
        return self._run(new, settings, offline=False)

    def reply(self, question: Any, *, sampling_rate: int | None = None, **changes: Any) -> Reply:
        """Answer one turn at once: the same segments as `stream`, spoken in one batch after the text is complete.

        Raises:
            ValueError: as `stream`.
        """
        settings, new = self._read(question, sampling_rate, changes)
        builder = ReplyBuilder(self.output_sampling_rate)
        for event in self._run(new, settings, offline=True):
            builder.add(event)
        return builder.build()

    def _read(
        self, question: Any, sampling_rate: int | None, changes: dict[str, Any]
    ) -> tuple[GenerationSettings, list[Message]]:
        settings = self.settings.replaced(changes)
        rate = self.engine.input_sampling_rate
        new = read_messages(question, rate, settings.max_question_s, audio_rate=sampling_rate)
        late = new if self.messages or self.system is not None else new[1:]
        if any(message.role == "system" for message in late):
            raise ValueError("expected the system prompt once, at the start, found another; start a new session")
        return settings, new

    # ------------------------------------------------------------------------------------------ one reply

    def _run(self, new: list[Message], settings: GenerationSettings, offline: bool) -> Iterator[Event]:
        """One reply. Work is done between the yields, in inference mode; the listener's time is not counted."""
        if self._running:
            raise ValueError("expected one reply at a time, found one still running in this session; close it first")
        self._running = True
        writing = _Writing()
        finished = False
        try:
            yield from self._answer(new, settings, offline, writing)
            finished = True
        except GeneratorExit:  # cancelled, between two steps
            raise
        except BaseException:
            # A step may have ended half way through the layers (Ctrl-C too): what the cache holds is unknown.
            self._cache, self._cached = DynamicCache(), []
            raise
        finally:
            self._running = False
            if finished or writing.text:
                self.messages += [*new, Message("assistant", (writing.text,))]
            else:  # cancelled, or failed, before a word: as if it had not been asked
                for message in new:
                    for audio in message.audios:
                        self._heard.pop(audio, None)

    def _answer(
        self, new: list[Message], settings: GenerationSettings, offline: bool, writing: _Writing
    ) -> Iterator[Event]:
        engine, timings = self.engine, writing.timings
        generator = torch.Generator().manual_seed(settings.seed)
        for message in new:
            for audio in message.audios:
                timings.question_s += audio.duration_s
                with timed(timings, "encode_s"), torch.inference_mode():
                    self._heard[audio] = engine.hear(audio)
        heard = [self._heard[audio].text for audio in new[-1].audios]
        if heard:
            yield Heard(" ".join(heard))
        with timed(timings, "prefill_s"), torch.inference_mode():
            prompt = engine.prompt(join_system(self.system, [*self.messages, *new]), self._heard)
            state = self._prefill(prompt)
        room = (engine.max_positions or len(prompt.keys) + settings.max_new_tokens) - len(prompt.keys)
        trigger = engine.trigger.state()
        detokenizer = IncrementalDetokenizer(engine.tokenizer)
        waiting: list[Segment] = []
        stopped = "length"
        for _ in range(min(settings.max_new_tokens, room)):
            with timed(timings, "text_s"), torch.inference_mode():
                token_id = choose_token(engine.logits(state), settings.temperature, settings.top_p, generator)
                if token_id in engine.eos_ids:
                    stopped = "end"
                    break
                previous = writing.token_ids[-1] if writing.token_ids else None
                segment = trigger.push(engine.score(state), engine.opens_word(previous, token_id))
                writing.add(token_id, state)
                piece = detokenizer.push(token_id)
            if piece:
                writing.text += piece
                yield TextDelta(piece)
            if segment is not None:
                waiting.append(segment)
            if waiting and not offline:
                yield from self._speak(waiting, settings, writing)
                waiting = []
            with timed(timings, "text_s"), torch.inference_mode():
                state = self._advance(token_id)
        piece = detokenizer.flush()
        if piece:
            writing.text += piece
            yield TextDelta(piece)
        last = trigger.flush()
        yield from self._speak([*waiting, last] if last is not None else waiting, settings, writing)
        yield Finished(writing.text, stopped, timings)

    def _speak(self, segments: Sequence[Segment], settings: GenerationSettings, writing: _Writing) -> Iterator[Event]:
        """Audio of segments, in order; each is checked, and its text told where it could not be spoken."""
        if not settings.speak:
            return
        engine, timings = self.engine, writing.timings
        texts = [writing.segment(segment, engine.tokenizer) for segment in segments]
        texts = [text for text in texts if bool((engine.word_ids(text.token_ids) >= 0).any())]  # the others are silent
        if not texts:
            return
        with torch.inference_mode():
            spoken = engine.speak(texts, settings, timings)
        for text, speech in zip(texts, spoken, strict=True):
            if speech.waveform is not None:
                if timings.ttfa_s is None:
                    timings.ttfa_s, timings.ttfa_tokens = timings.compute_s, len(writing.token_ids)
                start_s = timings.audio_s
                writing.samples += len(speech.waveform)
                timings.audio_s = writing.samples / engine.output_sampling_rate
                yield AudioChunk(speech.waveform, engine.output_sampling_rate, text.text, start_s)
            if speech.problem is not None:
                yield SpeechFailed(text.text, speech.problem)

    # ------------------------------------------------------------------------------------------ cache

    def _prefill(self, prompt: Prompt) -> torch.Tensor:
        """Run the part of a prompt that the cache does not hold yet; return the state (H,) that predicts the reply."""
        shared = 0
        # The last position always runs: its state is what is asked for.
        while shared < min(len(self._cached), len(prompt.keys) - 1) and self._cached[shared] == prompt.keys[shared]:
            shared += 1
        if shared < len(self._cached):
            self._cache.crop(shared - len(self._cached))  # negative: positions to remove
        self._cached = prompt.keys[:shared]
        state = self.engine.advance(prompt.embeds[shared:], self._cache)
        self._cached = list(prompt.keys)
        return state

    def _advance(self, token_id: int) -> torch.Tensor:
        state = self.engine.advance(self.engine.embed(token_id), self._cache)
        self._cached.append(token_id)
        return state


class _Writing:
    """A reply while it is written: its tokens, the states that predicted them, its text and timings."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.states: list[torch.Tensor] = []
        self.text = ""
        self.samples = 0
        self.timings = Timings()

    def add(self, token_id: int, state: torch.Tensor) -> None:
        self.token_ids.append(token_id)
        self.states.append(state)
        self.timings.num_tokens = len(self.token_ids)

    def segment(self, segment: Segment, tokenizer: Any) -> SegmentText:
        token_ids = self.token_ids[segment.start : segment.end]
        text = tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        states = torch.stack(self.states[segment.start : segment.end])
        return SegmentText(states, token_ids, text, segment.start)
