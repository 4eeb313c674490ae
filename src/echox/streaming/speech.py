"""The speech of one reply while it is written: tokens in, sound out, and the account of which text is heard when.

The chain: a policy releases tokens; a `UnitStream` per segment says unit words; the unit language makes them units; one
`VocoderStream` for the whole reply makes them sound, so there are no seams between segments. Every word of the text is
either sounded or reported as `SpeechFailed`; nothing is passed over.
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

from echox.models.t2c.tokenization_unit_language import UnitReader
from echox.models.t2c.unit_stream import Sampling, UnitStream, UnitStreamOutput, open_stream
from echox.models.vocoder.vocoder_stream import VocoderStream
from echox.streaming.decoding import GenerationSettings
from echox.streaming.engine import Engine
from echox.streaming.events import AudioChunk, Event, Mark, SpeechFailed
from echox.streaming.policies import Policy, Release
from echox.streaming.verbalizer import SpokenRun, Verbalizer, WrittenToken

FIRST_CHUNK_S = 0.16
"""Sound that the first chunk holds at least: long enough to play while the second is made."""
CROWD_S = 0.06
"""... and so much more for every other reply that is at work."""
LONGEST_CHUNK_S = 1.0
"""Chunks grow to this: long ones cost less, and what plays meanwhile is long enough by then."""


@dataclass
class _Place:
    """Written text that is heard as one: a word, a run that is said in other words, or a segment without known words.

    Attributes:
        text_start, text_end: in the reply.
        first_unit, last_unit: -1: none yet.
        words: spoken words that are still to be said.
        reported: a part of it could not be said.
    """

    text_start: int
    text_end: int
    first_unit: int = -1
    last_unit: int = -1
    words: int = 1
    reported: bool = False

    @property
    def said(self) -> bool:
        return self.words == 0


class Speech:
    """The mouth of one reply.

    Args:
        engine: the model.
        settings: sampling of unit words, language and speed.
        policy: decides when which part of the reply is spoken.

    Attributes:
        text: of the reply, as far as it was pushed.
        timeline: marks of the words that were sounded, in order.
        num_segments: that have ended.
        num_unit_words, num_units: that were said.
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
        self._segments: deque[_Place] = deque()  # of the streams
        self._segment_tokens = 0  # that the newest stream was given
        self._before: UnitStream | None = None  # the segment that was said last
        self._places: list[_Place] = []  # of the spoken words, by number
        self._written_word = -1  # of the newest place, where words are said as they are written
        self._blank: list[WrittenToken] = []  # white space that waits for its word, in a language without rules
        self._silent_start: int | None = None  # text without a sound, which goes with the word after it
        self._waiting: deque[_Place] = deque()  # said, not sounded yet
        self._begun = 0  # of those in `_waiting`: how many begin in chunks that were made
        self._finishing = False
        self.voice = VocoderStream(engine.model.vocoder, speed=settings.speed)
        self._chunk_s = FIRST_CHUNK_S
        self.text = ""
        self.timeline: list[Mark] = []
        self.num_segments = 0
        self.num_unit_words = 0
        self.num_units = 0
        self._events: list[Event] = []
        self._unread: deque[Iterator[None]] = deque()  # what is still to be done for text that came

    # ------------------------------------------------------------------------------------------ text in

    def push(self, token_id: int, state: Tensor, text: str, score: float) -> None:
        """Add a token of the reply: its denoised state (H,), the text it adds, its trigger score; `read` goes on."""
        start, self.text = len(self.text), self.text + text
        self._unread.append(self._push_token(token_id, state, text, start, score))

    def finish(self, text: str = "") -> None:
        """The reply is complete, with the rest of its text (what is left of a character that was cut off)."""
        self.text += text
        self._unread.append(self._finish_text(text))

    @property
    def behind(self) -> bool:
        """Whether text that came is still to be read."""
        return bool(self._unread)

    def read(self, enough: Callable[[], bool]) -> None:
        """Turn text that came into what the echo decoder says, word by word; a word may be said in thousands.

        Args:
            enough: whether to stop for now; asked after each spoken word.
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
        self._close_voice()

    def _decide(self, decided: Sequence[tuple[int, bool]]) -> Iterator[None]:
        """Tokens whose words are known now, in order, to the policy."""
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
        """Hand runs to the echo decoder's streams."""
        for run in runs:
            if run.ends_segment:
                self._end_segment()
            elif run.special:
                if self._streams and not self._streams[-1].text_finished:
                    self._push(run.tokens[0].state, -1, 0)
            elif run.problem is not None:
                self._events.append(SpeechFailed(self.text[run.start : run.end], run.problem))
            elif run.tokens:
                self._say_tokens(run)
                yield
            elif run.spoken:
                yield from self._say_instead(run, run.spoken)
            elif self._silent_start is None:
                self._silent_start = run.start

    def _say_tokens(self, run: SpokenRun) -> None:
        """A run with its own states: one word, or, in a language without rules, a token of one."""
        rules = self._verbalizer.language.has_rules
        if rules or run.tokens[0].word != self._written_word:
            # White space that may be the reply's last opens no word: it waits for the letters.
            if not rules and not run.tokens[0].text.strip() and run.tokens[0].text:
                self._blank.append(run.tokens[0])
                return
            self._open_place(run.start if not self._blank else self._blank[0].start, run.end, 1)
            self._written_word = run.tokens[0].word
        place = self._places[-1]
        place.text_end = max(place.text_end, run.end)
        for token in (*self._blank, *run.tokens):
            self._push(token.state, len(self._places) - 1, len(token.text.strip()))
        self._blank = []
        self._segments[-1].text_end = place.text_end
        if rules:
            self._streams[-1].end_word()

    def _say_instead(self, run: SpokenRun, spoken: str) -> Iterator[None]:
        """A run that is said in other words than it is written in: their text embeddings, as for text that is given."""
        ids, words = self.engine.tokens_of(spoken, begins=run.start == 0)
        self._limit_segment(len(ids))
        self._open_place(run.start, run.end, 1 + max(words))
        first = len(self._places) - 1 - max(words)
        for token_id, state, word in zip(ids, self.engine.meant(ids), words, strict=True):
            self._push(state, first + word, len(self.engine.tokenizer.decode([token_id]).strip()))
            yield
        self._streams[-1].end_word()

    def _open_place(self, start: int, end: int, words: int) -> None:
        """A new place in the account, of so many spoken words."""
        self._limit_segment(0)
        self._open_stream()
        if self._silent_start is not None:
            start, self._silent_start = self._silent_start, None
        place = _Place(start, end, words=words)
        self._places += [place] * words
        segment = self._segments[-1]
        if segment.text_start < 0:
            segment.text_start = start
        segment.text_end = end

    def _push(self, state: Tensor, word: int, characters: int) -> None:
        self._open_stream()
        self._streams[-1].push(state, word, characters)
        self._segment_tokens += 1

    def _open_stream(self) -> None:
        if not self._streams or self._streams[-1].text_finished:
            self._streams.append(open_stream(self.engine.model.echo_decoder, self._sampling))
            self._segments.append(_Place(-1, -1))
            self._segment_tokens = 0
            if len(self._streams) == 1:
                self._follow()

    def _limit_segment(self, more: int) -> None:
        """End a segment that grows longer than policies allow, because figures are said in many words."""
        limit = 2 * self.engine.trigger.max_tokens
        if self._verbalizer.language.has_rules and self._segment_tokens and self._segment_tokens + more > limit:
            self._end_segment()

    def _end_segment(self) -> None:
        if self._streams and not self._streams[-1].text_finished:
            self.num_segments += 1
            self._streams[-1].finish()
            self._next_stream()

    def _attach_silent_end(self) -> None:
        """Text without a sound at the end goes with the last word that has one."""
        if self._silent_start is None or not self._places:
            return
        place, end = self._places[-1], len(self.text.rstrip())
        if self.timeline and self.timeline[-1].text_end == place.text_end:  # sounded already
            self.timeline[-1] = dataclasses.replace(self.timeline[-1], text_end=end)
        place.text_end = end
        if self._segments:
            self._segments[-1].text_end = end
        self._silent_start = None

    # ------------------------------------------------------------------------------------------ units

    @property
    def stream(self) -> UnitStream | None:
        """The segment that is being said, if one is open."""
        return self._streams[0] if self._streams else None

    @property
    def ready(self) -> bool:
        """Whether a step of the echo decoder can be made."""
        return bool(self._streams) and self._streams[0].ready

    def accept(self, output: int) -> None:
        """Take the output of the step of `stream`."""
        stream, segment = self._streams[0], self._segments[0]
        for said in stream.accept(output):
            self._say(said, segment)
        self._next_stream()

    def _next_stream(self) -> None:
        """Drop segments that are said."""
        while self._streams and self._streams[0].finished:
            self._before = self._streams.popleft()
            segment = self._segments.popleft()
            segment.words = 0
            self._sound(self._reader.finish(), segment)
            self._reader = self._new_reader()
            self._follow()
        self._close_voice()

    def _follow(self) -> None:
        """A segment whose turn has come goes on from the one before, if the decoder was trained so."""
        words = self.engine.model.config.echo_context_words
        if words and self._before is not None and self._streams:
            self._streams[0].follow(self._before, words)

    def _say(self, said: UnitStreamOutput, segment: _Place) -> None:
        place = segment if said.word is None else self._places[said.word]
        self.num_unit_words += len(said.unit_words)
        if said.unit_words:
            if place.first_unit < 0:
                place.first_unit = place.last_unit = self.num_units  # the reader may hold units back
                self._waiting.append(place)
            self._sound(self._reader.push(said.unit_words), place)
        if said.word is not None:
            place.words -= 1
        if said.problem is not None and not place.reported:
            place.reported = True
            self._events.append(SpeechFailed(self.text[place.text_start : place.text_end], said.problem))

    def _new_reader(self) -> UnitReader:
        return self.engine.unit_language.reader()

    def _sound(self, units: list[int], place: _Place) -> None:
        if units:
            self.voice.push(units)
            self.num_units += len(units)
            place.last_unit = self.num_units

    def _close_voice(self) -> None:
        if self._finishing and not self._streams:
            self._finishing = False
            self.voice.finish()

    # ------------------------------------------------------------------------------------------ sound

    def sounds(self, running: int = 1) -> bool:
        """Whether enough sound is certain for the next chunk, with so many replies at work.

        The first chunk must play for as long as the second takes, and a round takes longer the more replies share it.
        """
        ready = self.voice.ready_frames
        begun = self._chunk_s > FIRST_CHUNK_S
        enough_s = self._chunk_s if begun else FIRST_CHUNK_S + CROWD_S * (running - 1)
        return ready > 0 and (self.voice.finished or ready >= enough_s * self.engine.model.vocoder.frame_rate_hz)

    def sounded(self, waveform: np.ndarray) -> None:
        """Take a chunk of the voice."""
        rate = self.engine.output_sampling_rate
        end_s = self.voice.num_samples / rate
        self._chunk_s = min(2 * self._chunk_s, LONGEST_CHUNK_S)
        ended = self.voice.done  # then also words whose units all became one with the last unit before them
        heard = [place for place in self._waiting if ended or self._starts_s(place) < end_s]  # at least in part
        text = "".join(self.text[place.text_start : place.text_end] for place in heard[self._begun :])
        self._begun = len(heard)
        if not np.isfinite(waveform).all():
            waveform = np.zeros_like(waveform)  # silence in its place keeps the account of time
            missing = self.text[heard[0].text_start : heard[-1].text_end] if heard else ""
            self._events.append(SpeechFailed(missing, "the vocoder's waveform is not finite"))
        self._events.append(AudioChunk(waveform, rate, text, end_s - len(waveform) / rate))
        timed = self.voice.num_timed
        while self._begun and self._waiting[0].said and self._waiting[0].last_unit <= timed:
            place = self._waiting[0]
            mark = Mark(place.text_start, place.text_end, self._starts_s(place), self.voice.end_s(place.last_unit))
            if mark.end_s > end_s and not ended:
                break
            self.timeline.append(mark)
            self._waiting.popleft()
            self._begun -= 1

    def _starts_s(self, place: _Place) -> float:
        """When the speech of a word begins; infinity while that is not known."""
        return self.voice.end_s(place.first_unit) if place.first_unit <= self.voice.num_timed else math.inf

    @property
    def done(self) -> bool:
        """Whether everything that was written is sounded or reported."""
        return self.voice.done

    def take_events(self) -> list[Event]:
        """What happened since the last call."""
        events, self._events = self._events, []
        return events
