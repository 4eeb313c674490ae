"""Events of a reply, its timings, and the finished reply (imports no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from echox.tool_calls.tools import ToolCall, ToolCallDelta


@dataclass(frozen=True)
class HeardWord:
    """A word of a question and its time, in seconds of the message's recordings, one after the other."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Heard:
    """The transcript of the question's speech (greedy CTC text of the alignment adapter), before any reply.

    Attributes:
        text: the transcript. words: its words with their times.
        num_audio_tokens: states of audio that the language model reads for the speech.
        num_text_tokens: tokens of the transcript.
    """

    text: str
    words: tuple[HeardWord, ...] = ()
    num_audio_tokens: int = 0
    num_text_tokens: int = 0


@dataclass(frozen=True)
class Judged:
    """What the model's turn head says of the question so far.

    Attributes:
        complete: probability that the speaker has finished.
    """

    complete: float


@dataclass(frozen=True)
class TextDelta:
    """The next piece of the reply's text, never a part of a character. All pieces joined are the reply."""

    text: str


@dataclass(frozen=True, eq=False)
class AudioChunk:
    """The next piece of the spoken reply. All pieces joined are its speech, without seams.

    Attributes:
        waveform: float32 (S,), in [-1, 1].
        sampling_rate: Hz.
        text: the words whose speech begins in it ("" if it holds the rest of a long word).
        start_s: where it begins in the spoken reply, in seconds.
    """

    waveform: np.ndarray
    sampling_rate: int
    text: str
    start_s: float

    @property
    def duration_s(self) -> float:
        """Length of the chunk."""
        return len(self.waveform) / self.sampling_rate


@dataclass(frozen=True)
class Mark:
    """The time of a word of the reply (of a segment, for a decoder without word boundaries).

    Attributes:
        text_start, text_end: its position in the reply's text, in characters.
        start_s, end_s: its position in the spoken reply, in seconds.
    """

    text_start: int
    text_end: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class ContextDropped:
    """The oldest messages left no room for the reply and were taken out of the conversation.

    Attributes:
        messages: number of dropped messages.
    """

    messages: int


@dataclass(frozen=True)
class SpeechFailed:
    """A part of the text that could not be spoken, or not to its end, even at the second try."""

    text: str
    reason: str


@dataclass
class Timings:
    """Compute time of one reply by part, its latencies, and its counts.

    Attributes:
        question_s: length of the new question's audio. audio_s: length of the spoken reply.
        encode_s: features, speech encoder and adapters. prefill_s: the prompt through the language model.
        text_s: writing the reply. echo_s: states to units. vocoder_s: units to sound. All five are compute seconds; of
            a step that was made for several conversations at once, an equal share.
        queued_s: from the question to the first step of work for it.
        first_text_s, ttfa_s: clock time from the end of the question (the call that asked it) to the first text and
            the first sample of the reply (None: nothing was written, or spoken).
        ttfa_tokens: reply tokens that were written before the first sample.
        num_prompt_tokens: positions of the prompt; num_prompt_audio_tokens of them are frames of audio, and
            num_cached_tokens of them were in the language model's memory already.
        num_tokens: reply tokens in all. num_unit_words, num_units: unit words and units that were generated for them.
    """

    question_s: float = 0.0
    audio_s: float = 0.0
    encode_s: float = 0.0
    prefill_s: float = 0.0
    text_s: float = 0.0
    echo_s: float = 0.0
    vocoder_s: float = 0.0
    queued_s: float = 0.0
    first_text_s: float | None = None
    ttfa_s: float | None = None
    ttfa_tokens: int | None = None
    num_prompt_tokens: int = 0
    num_prompt_audio_tokens: int = 0
    num_cached_tokens: int = 0
    num_tokens: int = 0
    num_unit_words: int = 0
    num_units: int = 0

    @property
    def compute_s(self) -> float:
        """Sum of all parts."""
        return self.encode_s + self.prefill_s + self.text_s + self.echo_s + self.vocoder_s

    @property
    def rtf(self) -> float | None:
        """Compute seconds per second of spoken reply: lower is better; None when nothing was spoken."""
        return self.compute_s / self.audio_s if self.audio_s > 0 else None

    def to_dict(self) -> dict[str, float | int | None]:
        """All numbers under their names, with ``compute_s`` and ``rtf``."""
        return {**vars(self), "compute_s": self.compute_s, "rtf": self.rtf}


@dataclass(frozen=True)
class Finished:
    """The last event of a reply that ran to its end.

    Attributes:
        text: the whole reply.
        stopped: "end" (the model ended its turn) or "length" (``max_new_tokens`` were written).
        timeline: times of the words.
        calls: the tools that it calls, after its text.
        units: what its speech was made of: reduced units, the vocoder's input.
    """

    text: str
    stopped: str
    timings: Timings
    timeline: tuple[Mark, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    units: tuple[int, ...] = ()


Event = Heard | Judged | ContextDropped | TextDelta | AudioChunk | SpeechFailed | ToolCallDelta | Finished


def heard_text(text: str, timeline: Sequence[Mark], audio_s: float) -> str:
    """The part of a reply's text that was heard after `audio_s` seconds of its speech: whole words only.

    Args:
        text: of the reply.
        timeline: its marks so far.
        audio_s: seconds that were played.
    """
    end = 0
    for mark in timeline:
        if mark.end_s <= audio_s:
            end = mark.text_end
        elif mark.start_s < audio_s:  # a segment without word boundaries: in proportion to its speech
            share = (audio_s - mark.start_s) / (mark.end_s - mark.start_s)
            part = text[mark.text_start : mark.text_start + int(share * (mark.text_end - mark.text_start))]
            inner = max((place for place, character in enumerate(part) if character.isspace()), default=0)
            end = max(end, mark.text_start + inner)
    return text[:end].rstrip()


@dataclass(frozen=True, eq=False)
class Reply:
    """A finished reply.

    Attributes:
        text: the answer. heard: transcript of the newest question ("" for a typed one).
        waveform: float32 (S,); sampling_rate: Hz.
        timings: the numbers of `Timings` under their names.
        chunks: its pieces in order (text, start_s, waveform).
        failures: parts of the text that could not be spoken.
        timeline: times of the words.
        stopped: "end", "length" or "cancelled".
        calls: the tools that it calls: answer with messages of the role "tool".
        units: reduced units, the vocoder's input; none of a reply that was cancelled.
    """

    text: str
    waveform: np.ndarray
    sampling_rate: int
    heard: str
    timings: dict[str, float | int | None]
    chunks: tuple[AudioChunk, ...] = ()
    failures: tuple[SpeechFailed, ...] = ()
    stopped: str = "end"
    timeline: tuple[Mark, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    units: tuple[int, ...] = ()

    def heard_text(self, audio_s: float) -> str:
        """The part of the text that was heard after `audio_s` seconds of the speech."""
        return heard_text(self.text, self.timeline, audio_s)

    @property
    def duration_s(self) -> float:
        """Length of the spoken reply."""
        return len(self.waveform) / self.sampling_rate


@dataclass
class ReplyBuilder:
    """Collects the events of one reply into a `Reply`."""

    sampling_rate: int
    heard: str = ""
    text: str = ""
    chunks: list[AudioChunk] = field(default_factory=list)
    failures: list[SpeechFailed] = field(default_factory=list)
    timings: Timings = field(default_factory=Timings)
    stopped: str = "cancelled"
    timeline: tuple[Mark, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    units: tuple[int, ...] = ()

    def add(self, event: Event) -> None:
        """Take one event, in order."""
        if isinstance(event, Heard):
            self.heard = event.text
        elif isinstance(event, TextDelta):
            self.text += event.text
        elif isinstance(event, AudioChunk):
            self.chunks.append(event)
        elif isinstance(event, SpeechFailed):
            self.failures.append(event)
        elif isinstance(event, Finished):
            self.timings, self.stopped, self.timeline = event.timings, event.stopped, event.timeline
            self.calls, self.units = event.calls, event.units

    def build(self) -> Reply:
        """The reply so far (``stopped`` is "cancelled" if it never finished)."""
        parts = [chunk.waveform for chunk in self.chunks]
        waveform = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        return Reply(
            text=self.text,
            waveform=waveform,
            sampling_rate=self.sampling_rate,
            heard=self.heard,
            timings=self.timings.to_dict(),
            chunks=tuple(self.chunks),
            failures=tuple(self.failures),
            stopped=self.stopped,
            timeline=self.timeline,
            calls=self.calls,
            units=self.units,
        )
