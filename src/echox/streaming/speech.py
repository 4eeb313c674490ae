"""The speech of one reply while it is written: tokens in, sound out, and the times at which its words are heard.

The chain: a policy releases tokens; a `UnitStream` per segment generates unit words; the unit language turns them into
units; one `VocoderStream` for the whole reply turns those into sound, so there are no seams between segments. Every
word of the text is either spoken or reported as `SpeechFailed`.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echox.models.t2c.unit_stream import Sampling, UnitStream, UnitStreamOutput, open_stream
from echox.models.unit_language.tokenization_unit_language import UnitReader
from echox.models.vocoder.vocoder_stream import VocoderStream
from echox.streaming.engine import Engine
from echox.streaming.events import AudioChunk, Event, Mark, SpeechFailed
from echox.streaming.reply_text.policies import Policy, Release
from echox.streaming.reply_text.settings import GenerationSettings
from echox.streaming.reply_text.token_text import token_texts
from echox.streaming.reply_text.verbalizer import SpokenRun, Verbalizer, WrittenToken

FIRST_CHUNK_S = 0.16
"""Least sound of the first chunk: long enough to play while the second is made."""
FIRST_CHUNK_EXTRA_S = 0.06
"""Added to it for every other reply that is at work."""
LONGEST_CHUNK_S = 1.0
"""Chunks grow to this length: long ones cost less, and by then enough sound waits to be played."""


@dataclass
class _TextSpan:
    """Written text with one time: a word, a run that is spoken in other words, or a segment without word boundaries.

    Attributes:
        text_start, text_end: its position in the reply, in characters.
        first_unit, last_unit: numbers of its units; -1: none yet.
        words: spoken words that are still to be generated.
        reported: a part of it could not be spoken, and an event says so.
    """

    text_start: int
    text_end: int
    first_unit: int = -1
    last_unit: int = -1
    words: int = 1
    reported: bool = False

    @property
    def spoken(self) -> bool:
        return self.words == 0


class ReplySpeech:
    """The speech of one reply.

    Args:
        engine: the model.
        settings: sampling of unit words, language and speed.
        policy: decides when which part of the reply is spoken.

    Attributes:
        text: of the reply so far.
        timeline: marks of the words in the chunks so far, in order.
        num_segments: number of segments that have ended.
        num_unit_words: number of unit words so far. units: units so far.
    """

    def __init__(self, engine: Engine, settings: GenerationSettings, policy: Policy) -> None:
        self.engine = engine
        self._policy = policy.state()
        source = random.Random(f"speech {settings.seed}")
        self._sampling = Sampling(
            settings.echo_temperature, settings.echo_top_p, settings.retry_temperature, source=source
        )
        self._counter = engine.word_counter()
        self._verbalizer = Verbalizer(engine.language(settings))
        self._undecided: deque[tuple[Tensor, str, int, float]] = deque()  # tokens whose word is not known yet
        self._tokens: list[WrittenToken] = []
        self._released = 0
        self._reader = self._new_reader()
        self._streams: deque[UnitStream] = deque()
        self._segments: deque[_TextSpan] = deque()  # of the streams
        self._segment_tokens = 0  # of the newest stream
        self._previous: UnitStream | None = None  # the segment before the present one
        self._spans: list[_TextSpan] = []  # by number of the spoken word
        self._written_word = -1  # of the newest span, if words are spoken as they are written
        self._blank: list[WrittenToken] = []  # white space before a word, in a language without rules
        self._silent_start: int | None = None  # where silent text begins that belongs to the next word
        self._unmarked: deque[_TextSpan] = deque()  # spans with units, without a mark in the timeline
        self._begun = 0  # how many of `_unmarked` begin in chunks that were made
        self._finishing = False
        self.vocoder = VocoderStream(engine.vocoder, speed=settings.speed)
        self._chunk_s = FIRST_CHUNK_S
        self.text = ""
        self.timeline: list[Mark] = []
        self.num_segments = 0
        self.num_unit_words = 0
        self.units: list[int] = []
        self._events: list[Event] = []
        self._unread: deque[Iterator[None]] = deque()  # work that is still to be done for pushed text

    # ------------------------------------------------------------------------------------------ text in

    def push(self, token_id: int, state: Tensor, text: str, score: float) -> None:
        """Add a token of the reply: its denoised state (H,), the text it adds, its trigger score; then call `read`."""
        start, self.text = len(self.text), self.text + text
        self._unread.append(self._push_token(token_id, state, text, start, score))

    def finish(self, text: str = "") -> None:
        """End the reply; `text` is the rest of its text, from a character that was cut off. Then call `read`."""
        self.text += text
        self._unread.append(self._finish_text(text))

    @property
    def has_unread(self) -> bool:
        """Whether pushed text is still to be read."""
        return bool(self._unread)

    def read(self, enough: Callable[[], bool]) -> None:
        """Read pushed text into spoken words, for the echo decoder; a written word may give thousands of them.

        Args:
            enough: whether to stop for now; called after each spoken word.
        """
        while self._unread:
            for _ in self._unread[0]:
                if enough():
                    return
            self._unread.popleft()
            if enough():
                return

    def _push_token(self, token_id: int, state: Tensor, text: str, start: int, score: float) -> Iterator[None]:
        self._undecided.append((state, text, start, score))
        yield from self._decide(self._counter.push(token_id))

    def _finish_text(self, text: str) -> Iterator[None]:
        if text and self._undecided:
            state, own, start, score = self._undecided.pop()
            self._undecided.append((state, own + text, start, score))
        elif text and len(self._tokens) > self._released:
            last = self._tokens[-1]
            self._tokens[-1] = dataclasses.replace(last, text=last.text + text, end=last.end + len(text))
        yield from self._decide(self._counter.finish())
        yield from self._release(self._policy.flush())
        yield from self._say_runs(self._verbalizer.finish())
        self._end_segment()
        self._attach_silent_end()
        self._finishing = True
        self._finish_vocoder()

    def _decide(self, decided: Sequence[tuple[int, bool]]) -> Iterator[None]:
        """Give tokens whose words are known now to the policy, in order."""
        for word, opens in decided:
            state, text, start, score = self._undecided.popleft()
            self._tokens.append(WrittenToken(state, text, start, start + len(text), word))
            yield from self._release(self._policy.push(score, text, opens))

    def _release(self, releases: Sequence[Release]) -> Iterator[None]:
        for release in releases:
            for token in self._tokens[self._released : release.end]:
                yield from self._say_runs(self._verbalizer.push(token))
            self._released = max(release.end, self._released)
            if release.final:
                yield from self._say_runs(self._verbalizer.end_segment())

    def _say_runs(self, runs: Sequence[SpokenRun]) -> Iterator[None]:
        """Give runs to the streams of the echo decoder."""
        for run in runs:
            if run.ends_segment:
                self._end_segment()
            elif run.special:
                if self._streams and not self._streams[-1].text_finished:
                    self._push(run.tokens[0].state, -1, "")
            elif run.problem is not None:
                self._events.append(SpeechFailed(self.text[run.start : run.end], run.problem))
            elif run.tokens:
                self._say_tokens(run)
                yield
            elif run.spoken:
                yield from self._say_reading(run, run.spoken)
            elif self._silent_start is None:
                self._silent_start = run.start

    def _say_tokens(self, run: SpokenRun) -> None:
        """A run with states of its own: one word, or, in a language without rules, a token of a word."""
        rules = self._verbalizer.language.has_rules
        if rules or run.tokens[0].word != self._written_word:
            # White space that may be the end of the reply opens no word: it waits for letters.
            if not rules and not run.tokens[0].text.strip() and run.tokens[0].text:
                self._blank.append(run.tokens[0])
                return
            self._open_span(run.start if not self._blank else self._blank[0].start, run.end, 1)
            self._written_word = run.tokens[0].word
        span = self._spans[-1]
        span.text_end = max(span.text_end, run.end)
        for token in (*self._blank, *run.tokens):
            self._push(token.state, len(self._spans) - 1, token.text)
        self._blank = []
        self._segments[-1].text_end = span.text_end
        if rules:
            self._streams[-1].end_word()

    def _say_reading(self, run: SpokenRun, spoken: str) -> Iterator[None]:
        """A run that is spoken in other words than it is written in: they have text embeddings in place of states."""
        ids, words = self.engine.tokenize_words(spoken, begins=run.start == 0)
        self._limit_segment(len(ids))
        self._open_span(run.start, run.end, 1 + max(words))
        first = len(self._spans) - 1 - max(words)
        texts = token_texts(self.engine.tokenizer, ids)
        for text, state, word in zip(texts, self.engine.text_states(ids), words, strict=True):
            self._push(state, first + word, text)
            yield
        self._streams[-1].end_word()

    def _open_span(self, start: int, end: int, words: int) -> None:
        """A new span, of this number of spoken words."""
        self._limit_segment(0)
        self._open_stream()
        if self._silent_start is not None:
            start, self._silent_start = self._silent_start, None
        span = _TextSpan(start, end, words=words)
        self._spans += [span] * words
        segment = self._segments[-1]
        if segment.text_start < 0:
            segment.text_start = start
        segment.text_end = end

    def _push(self, state: Tensor, word: int, text: str) -> None:
        self._open_stream()
        self._streams[-1].push(state, word, text)
        self._segment_tokens += 1

    def _open_stream(self) -> None:
        if not self._streams or self._streams[-1].text_finished:
            self._streams.append(open_stream(self.engine.model.echo_decoder, self._sampling))
            self._segments.append(_TextSpan(-1, -1))
            self._segment_tokens = 0
            if len(self._streams) == 1:
                self._continue_previous()

    def _limit_segment(self, more: int) -> None:
        """End a segment that grows longer than policies allow, because figures are spoken in many words."""
        limit = 2 * self.engine.trigger.max_tokens
        if self._verbalizer.language.has_rules and self._segment_tokens and self._segment_tokens + more > limit:
            self._end_segment()

    def _end_segment(self) -> None:
        if self._streams and not self._streams[-1].text_finished:
            self.num_segments += 1
            self._streams[-1].finish()
            self._next_stream()

    def _attach_silent_end(self) -> None:
        """Silent text at the end of the reply belongs to the last word that is not silent."""
        if self._silent_start is None or not self._spans:
            return
        span, end = self._spans[-1], len(self.text.rstrip())
        if self.timeline and self.timeline[-1].text_end == span.text_end:  # it has its mark already
            self.timeline[-1] = dataclasses.replace(self.timeline[-1], text_end=end)
        span.text_end = end
        if self._segments:
            self._segments[-1].text_end = end
        self._silent_start = None

    # ------------------------------------------------------------------------------------------ units

    @property
    def stream(self) -> UnitStream | None:
        """The segment whose unit words are being generated, if there is one."""
        return self._streams[0] if self._streams else None

    @property
    def ready(self) -> bool:
        """Whether a step of the echo decoder can be made."""
        return bool(self._streams) and self._streams[0].ready

    def accept(self, output: int) -> None:
        """Add the output of a step of `stream`."""
        stream, segment = self._streams[0], self._segments[0]
        for said in stream.accept(output):
            self._say(said, segment)
        self._next_stream()

    def _next_stream(self) -> None:
        """Drop segments that are finished."""
        while self._streams and self._streams[0].finished:
            self._previous = self._streams.popleft()
            segment = self._segments.popleft()
            segment.words = 0
            self._push_units(self._reader.finish(), segment)
            self._reader = self._new_reader()
            self._continue_previous()
        self._finish_vocoder()

    def _continue_previous(self) -> None:
        """Let a segment continue from the end of the previous one, if the decoder was trained so."""
        words = self.engine.model.config.echo_context_words
        if words and self._previous is not None and self._streams:
            self._streams[0].follow(self._previous, words)

    def _say(self, said: UnitStreamOutput, segment: _TextSpan) -> None:
        span = segment if said.word is None else self._spans[said.word]
        self.num_unit_words += len(said.unit_words)
        if said.unit_words:
            if span.first_unit < 0:
                span.first_unit = span.last_unit = len(self.units)  # the reader may hold units back
                self._unmarked.append(span)
            self._push_units(self._reader.push(said.unit_words), span)
        if said.word is not None:
            span.words -= 1
        if said.problem is not None and not span.reported:
            span.reported = True
            self._events.append(SpeechFailed(self.text[span.text_start : span.text_end], said.problem))

    def _new_reader(self) -> UnitReader:
        return self.engine.unit_language.reader()

    def _push_units(self, units: list[int], span: _TextSpan) -> None:
        if units:
            self.vocoder.push(units)
            self.units += units
            span.last_unit = len(self.units)

    def _finish_vocoder(self) -> None:
        if self._finishing and not self._streams:
            self._finishing = False
            self.vocoder.finish()

    # ------------------------------------------------------------------------------------------ sound

    def chunk_ready(self, running: int = 1) -> bool:
        """Whether enough sound is final for the next chunk, with `running` replies at work.

        The first chunk must play for as long as the second takes, and a round takes longer the more replies share it.
        """
        ready = self.vocoder.ready_frames
        begun = self._chunk_s > FIRST_CHUNK_S
        enough_s = self._chunk_s if begun else FIRST_CHUNK_S + FIRST_CHUNK_EXTRA_S * (running - 1)
        return ready > 0 and (self.vocoder.finished or ready >= enough_s * self.engine.vocoder.frame_rate_hz)

    def add_chunk(self, waveform: np.ndarray) -> None:
        """Add samples (S,) that the vocoder made: an event, and the marks of the words that end in them."""
        rate = self.engine.output_sampling_rate
        end_s = self.vocoder.num_samples / rate
        self._chunk_s = min(2 * self._chunk_s, LONGEST_CHUNK_S)
        ended = self.vocoder.done  # then also words whose units were all merged with the unit before them
        heard = [span for span in self._unmarked if ended or self._starts_s(span) < end_s]  # at least in part
        text = "".join(self.text[span.text_start : span.text_end] for span in heard[self._begun :])
        self._begun = len(heard)
        if not np.isfinite(waveform).all():
            waveform = np.zeros_like(waveform)  # silence in its place keeps the times right
            missing = self.text[heard[0].text_start : heard[-1].text_end] if heard else ""
            self._events.append(SpeechFailed(missing, "the vocoder's waveform is not finite"))
        self._events.append(AudioChunk(waveform, rate, text, end_s - len(waveform) / rate))
        timed = self.vocoder.num_timed
        while self._begun and self._unmarked[0].spoken and self._unmarked[0].last_unit <= timed:
            span = self._unmarked[0]
            mark = Mark(span.text_start, span.text_end, self._starts_s(span), self.vocoder.end_s(span.last_unit))
            if mark.end_s > end_s and not ended:
                break
            self.timeline.append(mark)
            self._unmarked.popleft()
            self._begun -= 1

    def _starts_s(self, span: _TextSpan) -> float:
        """When the speech of a span begins; infinity while that is not known."""
        return self.vocoder.end_s(span.first_unit) if span.first_unit <= self.vocoder.num_timed else math.inf

    @property
    def done(self) -> bool:
        """Whether everything that was written is spoken or reported."""
        return self.vocoder.done

    def take_events(self) -> list[Event]:
        """Events since the last call."""
        events, self._events = self._events, []
        return events
