"""Whose turn is it? A state machine over speech probabilities; time is what it is told, so it needs no clock.

Quiet, somebody begins: after a moment of speech the turn has started, and after enough silence it has ended. While a
reply is being played things differ: a cough or an "mm-hmm" must not silence it. There, speech first lowers the reply
(duck), and only when it goes on it interrupts; when it fades the reply comes back (unduck) and nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

HYSTERESIS = 0.15  # speech that has begun goes on down to this much under the threshold
MIN_SPEECH_MS = 96  # shorter is a click
MAX_GAP_MS = 256  # between the syllables of one utterance, while it is not yet known to be one
PAUSE_MS = 192  # after so much silence a model may be asked whether the sentence is complete


@dataclass(frozen=True)
class TurnSettings:
    """How turns are told apart.

    Attributes:
        threshold: probability from which a frame is speech.
        prefix_padding_ms: audio before the detected start that belongs to the turn.
        silence_ms: silence that ends a turn.
        patience_ms: with a model that judges whether a sentence is complete: silence that ends the turn whatever it
            judges; None: no such model is asked.
        interrupt_after_ms: speech over a reply that is more than a moment.
        max_speech_ms: a turn ends here at the latest.
        interrupts: whether speech interrupts a reply; False: it starts a turn and the reply goes on.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_ms: int = 500
    patience_ms: int | None = None
    interrupt_after_ms: int = 640
    max_speech_ms: int = 120_000
    interrupts: bool = True


@dataclass(frozen=True)
class SpeechStarted:
    """A turn begins at ``start_ms`` (padding included); ``interrupts``: over a reply."""

    start_ms: int
    interrupts: bool


@dataclass(frozen=True)
class SpeechStopped:
    """The turn is over; its audio goes from ``start_ms`` to ``end_ms``."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True)
class Duck:
    """Somebody may be interrupting: lower the reply."""

    at_ms: int


@dataclass(frozen=True)
class Unduck:
    """It was nothing (or the interruption is on): back to full volume."""

    at_ms: int


@dataclass(frozen=True)
class Paused:
    """A short silence: is the sentence from ``start_ms`` complete? Answer with `TurnTaker.judge`."""

    start_ms: int
    at_ms: int


TurnEvent = SpeechStarted | SpeechStopped | Duck | Unduck | Paused


class _State(Enum):
    QUIET = "quiet"
    MAYBE = "maybe"
    SPEAKING = "speaking"


class TurnTaker:
    """The machine of one listener.

    Args:
        settings: may be replaced at any time (attribute ``settings``).
    """

    def __init__(self, settings: TurnSettings) -> None:
        self.settings = settings
        self._earliest_ms = 0  # audio before was committed or cleared
        self._state = _State.QUIET
        self._ducked = False
        self._pause: Paused | None = None  # that the model was asked about
        self._start_ms = self._padded_ms = self._last_ms = self._voiced_ms = 0

    @property
    def speaking(self) -> bool:
        """Whether a turn is going on."""
        return self._state is _State.SPEAKING

    @property
    def keep_from_ms(self) -> int | None:
        """Start of the utterance at hand (without padding), None in quiet."""
        return None if self._state is _State.QUIET else self._start_ms

    def reset(self, now_ms: int) -> list[TurnEvent]:
        """The audio up to now was committed or cleared by hand."""
        events: list[TurnEvent] = [Unduck(now_ms)] if self._ducked else []
        self._earliest_ms = now_ms
        self._to_quiet()
        return events

    def push(self, probability: float, start_ms: int, end_ms: int, replying: bool) -> list[TurnEvent]:
        """Take one frame.

        Args:
            probability: of speech in it.
            start_ms: where it begins in all audio so far.
            end_ms: where it ends.
            replying: whether a reply is being played to this listener.

        Returns:
            What happened, in order.
        """
        low = self._state is not _State.QUIET
        speech = probability >= self.settings.threshold - (HYSTERESIS if low else 0.0)
        if speech:
            self._voiced_ms += end_ms - start_ms
            self._last_ms = end_ms
        if self._state is _State.SPEAKING:
            return self._speaking(speech, end_ms)
        if self._state is _State.QUIET:
            if not speech:
                return []
            self._state, self._start_ms, self._voiced_ms = _State.MAYBE, start_ms, end_ms - start_ms
        return self._maybe(end_ms, replying)

    def judge(self, pause: Paused, complete: bool, now_ms: int) -> list[TurnEvent]:
        """The answer about a pause: a complete sentence ends the turn, unless speech has gone on meanwhile."""
        if complete and self._state is _State.SPEAKING and self._pause == pause:
            return self._stop(now_ms)
        return []

    def _maybe(self, now_ms: int, replying: bool) -> list[TurnEvent]:
        events: list[TurnEvent] = []
        if now_ms - self._last_ms > (MAX_GAP_MS if self._voiced_ms >= MIN_SPEECH_MS else MIN_SPEECH_MS):
            events += [Unduck(now_ms)] if self._ducked else []
            self._to_quiet()
            return events
        if self._voiced_ms < MIN_SPEECH_MS:
            return events
        guarded = replying and self.settings.interrupts
        if guarded and self._voiced_ms < self.settings.interrupt_after_ms:
            if not self._ducked:
                self._ducked = True
                events.append(Duck(now_ms))
            return events
        if self._ducked:
            self._ducked = False
            events.append(Unduck(now_ms))
        self._state = _State.SPEAKING
        self._padded_ms = max(self._earliest_ms, self._start_ms - self.settings.prefix_padding_ms)
        return [*events, SpeechStarted(self._padded_ms, guarded)]

    def _speaking(self, speech: bool, now_ms: int) -> list[TurnEvent]:
        if speech:
            self._pause = None
        silence_ms = now_ms - self._last_ms
        patience_ms = self.settings.patience_ms
        limit_ms = self.settings.silence_ms if patience_ms is None else patience_ms
        if silence_ms >= limit_ms or now_ms - self._padded_ms >= self.settings.max_speech_ms:
            return self._stop(now_ms)
        if patience_ms is not None and silence_ms >= PAUSE_MS and self._pause is None:
            self._pause = Paused(self._padded_ms, now_ms)
            return [self._pause]
        return []

    def _stop(self, now_ms: int) -> list[TurnEvent]:
        start_ms, self._earliest_ms = self._padded_ms, now_ms
        self._to_quiet()
        return [SpeechStopped(start_ms, now_ms)]

    def _to_quiet(self) -> None:
        self._state = _State.QUIET
        self._ducked, self._pause = False, None
        self._start_ms = self._padded_ms = self._last_ms = self._voiced_ms = 0


class PlaybackClock:
    """How much of a reply has been heard, if the client plays what it gets as it comes.

    Chunks that arrive early queue up; a gap between them is silence and counts for nothing.
    """

    def __init__(self) -> None:
        self.sent_s = 0.0
        self._ends_at_s = float("-inf")
        self.underruns = 0

    def add(self, now_s: float, duration_s: float) -> None:
        """A chunk left the server."""
        if self.sent_s > 0 and now_s > self._ends_at_s:
            self.underruns += 1
        self._ends_at_s = max(self._ends_at_s, now_s) + duration_s
        self.sent_s += duration_s

    def heard_s(self, now_s: float) -> float:
        """Seconds of the reply that have been played."""
        return max(0.0, self.sent_s - max(0.0, self._ends_at_s - now_s))

    def playing(self, now_s: float) -> bool:
        """Whether there is something left to play."""
        return now_s < self._ends_at_s

    def stop(self, now_s: float) -> None:
        """The client has stopped playing."""
        self._ends_at_s = min(self._ends_at_s, now_s)
