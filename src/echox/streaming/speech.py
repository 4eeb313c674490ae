"""The speech of one reply while it is written: tokens in, sound out, and the account of which text is heard when.

The chain: a policy releases tokens; a `UnitStream` per segment says unit words; the unit language makes them units; one
`VocoderStream` for the whole reply makes them sound, so there are no seams between segments. Every word of the text is
either sounded or reported as `SpeechFailed`; nothing is passed over.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from echox.models.tokenization_unit_language import UnitReader
from echox.models.unit_stream import Said, Sampling, UnitStream, open_stream
from echox.models.vocoder_stream import VocoderStream
from echox.streaming.decoding import GenerationSettings
from echox.streaming.engine import Engine
from echox.streaming.events import AudioChunk, Event, Mark, SpeechFailed
from echox.streaming.policies import Release

FIRST_CHUNK_S = 0.16
"""Sound that the first chunk holds at least: long enough to play while the second is made."""
CROWD_S = 0.06
"""... and so much more for every other reply that is at work."""
LONGEST_CHUNK_S = 1.0
"""Chunks grow to this: long ones cost less, and what plays meanwhile is long enough by then."""


@dataclass
class _Word:
    """A word, or a segment of a decoder that does not know words: its text and, in time, its units."""

    text_start: int
    text_end: int
    first_unit: int = -1  # none yet
    last_unit: int = -1
    said: bool = False


class Speech:
    """The mouth of one reply.

    Args:
        engine: the model.
        settings: policy and sampling of unit words.

    Attributes:
        text: of the reply, as far as it was pushed.
        timeline: marks of the words that were sounded, in order.
        num_segments: that have ended.
        num_unit_words, num_units: that were said.
    """

    def __init__(self, engine: Engine, settings: GenerationSettings) -> None:
        self.engine = engine
        self._policy = engine.policy(settings).state()
        source = random.Random(f"speech {settings.seed}")
        self._sampling = Sampling(
            settings.echo_temperature, settings.echo_top_p, settings.retry_temperature, source=source
        )
        self._counter = engine.word_counter()
        self._tokens: list[tuple[Tensor, int, int, bool]] = []  # state, word, characters, blank
        self._released = 0
        self._reader = self._new_reader()
        self._streams: deque[UnitStream] = deque()
        self._segments: deque[_Word] = deque()  # of the streams
        self._before: UnitStream | None = None  # the segment that was said last
        self._words: dict[int, _Word] = {}
        self._waiting: deque[_Word] = deque()  # said, not sounded yet
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

    # ------------------------------------------------------------------------------------------ text in

    def push(self, token_id: int, state: Tensor, text: str, score: float) -> None:
        """Add a token of the reply: its denoised state (H,), the text it adds, its trigger score."""
        word, opens = self._counter.push(token_id)
        start = len(self.text)
        self.text += text
        if word >= 0:
            place = self._words.setdefault(word, _Word(start, start))
            place.text_end = len(self.text)
        self._tokens.append((state, word, len(text.strip()), self._counter.is_blank(token_id)))
        self._release(self._policy.push(score, text, opens))

    def finish(self, text: str = "") -> None:
        """The reply is complete, with the rest of its text (what is left of a character that was cut off)."""
        if text and self._words:
            last = self._words[max(self._words)]
            end = last.text_end
            for part in (last, *self._segments):
                if part.text_end == end:
                    part.text_end += len(text)
            self.text += text
        # White space at the end belongs to no word.
        for place in range(len(self._tokens) - 1, -1, -1):
            state, word, characters, blank = self._tokens[place]
            if word >= 0 and not blank:
                break
            self._tokens[place] = (state, -1, characters, blank)
        self._release(self._policy.flush())
        self._finishing = True
        self._close_voice()

    def _release(self, releases: Sequence[Release]) -> None:
        for release in releases:
            self._hand_over(release.end, release.final)

    def _hand_over(self, end: int, final: bool) -> None:
        if not self._streams or self._streams[-1].text_finished:
            self._streams.append(open_stream(self.engine.model.echo_decoder, self._sampling))
            self._segments.append(_Word(-1, -1))
            if len(self._streams) == 1:
                self._follow()
        stream, segment = self._streams[-1], self._segments[-1]
        # White space that may be the reply's last waits for the word that it belongs to.
        while not final and end > self._released and self._tokens[end - 1][3]:
            end -= 1
        for state, word, characters, _ in self._tokens[self._released : end]:
            stream.push(state, word, characters)
            if word >= 0:
                if segment.text_start < 0:
                    segment.text_start = self._words[word].text_start
                segment.text_end = self._words[word].text_end
        self._released = max(end, self._released)
        if final:
            self.num_segments += 1
            stream.finish()
            self._next_stream()

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
            segment.said = True
            self._sound(self._reader.finish(), segment)
            self._reader = self._new_reader()
            self._follow()
        self._close_voice()

    def _follow(self) -> None:
        """A segment whose turn has come goes on from the one before, if the decoder was trained so."""
        words = self.engine.model.config.echo_context_words
        if words and self._before is not None and self._streams:
            self._streams[0].follow(self._before, words)

    def _say(self, said: Said, segment: _Word) -> None:
        place = segment if said.word is None else self._words[said.word]
        self.num_unit_words += len(said.unit_words)
        if said.unit_words:
            if place.first_unit < 0:
                place.first_unit = place.last_unit = self.num_units  # the reader may hold units back
                self._waiting.append(place)
            self._sound(self._reader.push(said.unit_words), place)
        if said.word is not None:
            place.said = True
        if said.problem is not None:
            self._events.append(SpeechFailed(self.text[place.text_start : place.text_end], said.problem))

    def _new_reader(self) -> UnitReader:
        return self.engine.unit_language.reader()

    def _sound(self, units: list[int], place: _Word) -> None:
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

    def _starts_s(self, place: _Word) -> float:
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
