"""Turn detection: a state machine over speech probabilities. Times come from its caller, so it needs no clock.

In silence, a turn starts after a short stretch of speech and ends after enough silence. A cough or an "mm-hmm" must not
stop a reply that is being played. So there, speech first lowers the volume of the reply (duck). It interrupts the reply
only if it continues, or if it is judged to mean it ("stop"); otherwise the volume is raised again (unduck) and the
speech is discarded. Nobody wants to stop what was not heard yet: speech that begins before a reply, or with its first
words, and ends it is the rest of the question, and never a "stop". Shorter speech is discarded there, too.

A judge (a turn head in the model, or an ONNX model) makes the silence that ends a turn depend on what was said: short
after a sentence that is surely complete, long in the middle of one. Without `TurnSettings.patience_ms` beyond
`silence_ms` it can only make it shorter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

HYSTERESIS = 0.15  # speech continues down to the threshold minus this
MIN_SPEECH_MS = 96  # shorter sounds are clicks
MAX_GAP_MS = 256  # longest gap between syllables, before a turn has started
PAUSE_MS = 96  # silence after which a turn head is asked
EARLY_MS = 160  # silence that ends a turn which is surely complete
INTERJECTION_MS = 96  # silence after which short speech over a reply is judged
NOTICED_MS = 700  # of a reply, sent and played in real time: sooner nobody has heard it, understood it and said "stop"


@dataclass(frozen=True)
class TurnSettings:
    """Settings of turn detection.

    Attributes:
        threshold: probability from which on a frame is speech.
        prefix_padding_ms: audio before the detected start that belongs to the turn.
        silence_ms: silence that ends a turn; with a judge: of which it does not know whether it is complete.
        patience_ms: with a judge: silence that ends the turn whatever it says; None: it is not asked.
        pause_ms: with a judge: silence after which it is asked.
        sure: probability of a complete sentence from which on the turn ends early.
        judges_interjections: whether short speech over a reply is judged.
        interrupt_after_ms: length of speech that interrupts a reply.
        max_speech_ms: longest turn.
        interrupts: whether speech interrupts a reply; False: it starts a turn and the reply continues.
    """

    threshold: float = 0.5
    prefix_padding_ms: int = 300
    silence_ms: int = 500
    patience_ms: int | None = None
    pause_ms: int = PAUSE_MS
    sure: float = 0.9
    judges_interjections: bool = False
    interrupt_after_ms: int = 640
    max_speech_ms: int = 120_000
    interrupts: bool = True

    def wait_ms(self, complete: float | None) -> int:
        """Silence that ends a turn, by the probability that its sentence is complete; None: nobody can say."""
        if complete is None or self.patience_ms is None:
            return self.silence_ms
        sure = math.log(self.sure / (1.0 - self.sure))
        odds = math.log(max(complete, 1e-9) / max(1.0 - complete, 1e-9))
        doubt = min(1.0, max(0.0, (sure - odds) / (2.0 * sure)))  # 0: surely complete, 1: surely not
        if doubt == 0.0:
            return min(EARLY_MS, self.silence_ms)
        return round(self.silence_ms + doubt * max(0, self.patience_ms - self.silence_ms))


@dataclass(frozen=True)
class SpeechStarted:
    """A turn starts at ``start_ms`` (with padding); ``interrupts``: it interrupts a reply.

    ``unnoticed``: it began before that reply or with its first words, so it is the rest of the question, and not about
    them.
    """

    start_ms: int
    interrupts: bool
    unnoticed: bool = False


@dataclass(frozen=True)
class SpeechStopped:
    """The turn has ended; its audio is from ``start_ms`` to ``end_ms``, and nothing was said after ``voice_end_ms``.

    ``only_interrupts``: it is a word or two that stopped a reply, and nothing followed.
    """

    start_ms: int
    end_ms: int
    voice_end_ms: int
    only_interrupts: bool = False


@dataclass(frozen=True)
class Duck:
    """The user may be interrupting: lower the volume of the reply."""

    at_ms: int


@dataclass(frozen=True)
class Unduck:
    """It was no interruption, or the interruption has started: back to full volume."""

    at_ms: int


@dataclass(frozen=True)
class Paused:
    """A short silence: ask whether the sentence from ``start_ms`` is complete, then call `TurnDetector.judged`."""

    start_ms: int
    at_ms: int


@dataclass(frozen=True)
class Interjected:
    """Short speech over a reply, until ``last_ms``: ask whether it interrupts, then call `TurnDetector.interjected`.

    ``noticed``: it began when the reply had been heard for long enough to be about it.
    """

    start_ms: int
    at_ms: int
    last_ms: int
    voiced_ms: int
    noticed: bool


TurnEvent = SpeechStarted | SpeechStopped | Duck | Unduck | Paused | Interjected


class _State(Enum):
    SILENCE = "silence"
    POSSIBLE_SPEECH = "possible speech"
    SPEAKING = "speaking"


class TurnDetector:
    """Detects the turns of one user.

    Args:
        settings: settings; the attribute ``settings`` may be replaced at any time.
    """

    def __init__(self, settings: TurnSettings) -> None:
        self.settings = settings
        self._earliest_ms = 0  # audio before this time was committed or cleared
        self._state = _State.SILENCE
        self._ducked = False
        self._pause: Paused | None = None  # the pause that the judge was asked about
        self._wait_ms: int | None = None  # silence that ends the turn in this pause; None: the judge has not answered
        self._end_ms: int | None = None  # where the turn ends then; None: where it is noticed
        self._interjection: Interjected | None = None  # that was asked about last
        self._interjected = False  # the turn began as an interjection
        self._heard_ms: int | None = None  # of the reply that was being played when the speech began
        self._start_ms = self._padded_ms = self._last_ms = self._voiced_ms = 0

    @property
    def speaking(self) -> bool:
        """Whether the user is in the middle of a turn."""
        return self._state is _State.SPEAKING

    def silence_ms(self, now_ms: int) -> int | None:
        """How long the user has been silent in the middle of a turn; None: there is no turn."""
        return now_ms - self._last_ms if self.speaking else None

    @property
    def begin_ms(self) -> int:
        """Where the turn that the user is speaking begins, with padding."""
        return self._padded_ms

    def reset(self, now_ms: int) -> list[TurnEvent]:
        """Start again: the client has committed or cleared the audio up to now."""
        events: list[TurnEvent] = [Unduck(now_ms)] if self._ducked else []
        self._earliest_ms = now_ms
        self._to_silence()
        return events

    def push(self, probability: float, start_ms: int, end_ms: int, heard_ms: int | None = None) -> list[TurnEvent]:
        """Process one frame.

        Args:
            probability: probability of speech in the frame.
            start_ms: start of the frame in all audio so far.
            end_ms: end of the frame.
            heard_ms: how much was heard of the reply that is being played to the user, ms; None: none is being played.

        Returns:
            The events, in order.
        """
        started = self._state is not _State.SILENCE
        speech = probability >= self.settings.threshold - (HYSTERESIS if started else 0.0)
        if speech:
            self._voiced_ms += end_ms - start_ms
            self._last_ms = end_ms
        if self._state is _State.SPEAKING:
            return self._continue_turn(speech, end_ms)
        if self._state is _State.SILENCE:
            if not speech:
                return []
            self._state, self._start_ms, self._voiced_ms = _State.POSSIBLE_SPEECH, start_ms, end_ms - start_ms
            self._interjection, self._heard_ms = None, heard_ms
        return self._start_turn(end_ms, heard_ms is not None)

    def awaits(self, pause: Paused) -> bool:
        """Whether this pause goes on: an answer about it still counts."""
        return self._state is _State.SPEAKING and self._pause == pause

    def judged(self, pause: Paused, complete: float | None, now_ms: int, final: bool = False) -> list[TurnEvent]:
        """Apply the answer about a pause, unless speech has continued meanwhile.

        Args:
            pause: that was asked about.
            complete: probability that the sentence is complete; None: there will be no answer.
            now_ms: end of the audio that was searched.
            final: the turn then ends where it was asked about, so that it is what was judged, and not longer.
        """
        if not self.awaits(pause):
            return []
        self._wait_ms, self._end_ms = self.settings.wait_ms(complete), pause.at_ms if final else None
        return self._end_turn(now_ms) if now_ms - self._last_ms >= self._wait_ms else []

    def interjected(self, asked: Interjected, takes_floor: bool, now_ms: int) -> list[TurnEvent]:
        """Apply the answer about short speech over a reply: a turn begins, unless other speech has begun meanwhile."""
        if not takes_floor or self._state is _State.SPEAKING or self._interjection != asked:
            return []
        events: list[TurnEvent] = [Unduck(now_ms)] if self._ducked else []
        self._state, self._ducked, self._interjected = _State.SPEAKING, False, asked.noticed
        self._padded_ms = max(self._earliest_ms, asked.start_ms)
        self._last_ms, self._voiced_ms = max(self._last_ms, asked.last_ms), max(self._voiced_ms, asked.voiced_ms)
        return [*events, SpeechStarted(self._padded_ms, True, not asked.noticed)]

    def _start_turn(self, now_ms: int, replying: bool) -> list[TurnEvent]:
        events: list[TurnEvent] = []
        if now_ms - self._last_ms > (MAX_GAP_MS if self._voiced_ms >= MIN_SPEECH_MS else MIN_SPEECH_MS):
            events += [Unduck(now_ms)] if self._ducked else []
            self._to_silence()
            return events
        if self._voiced_ms < MIN_SPEECH_MS:
            return events
        interrupts = replying and self.settings.interrupts
        if interrupts and self._heard_ms is not None and self._voiced_ms < self.settings.interrupt_after_ms:
            if not self._ducked:
                self._ducked = True
                events.append(Duck(now_ms))
            asked = self._interjection is not None and self._interjection.last_ms == self._last_ms
            silent = now_ms - self._last_ms >= INTERJECTION_MS
            if self.settings.judges_interjections and silent and not asked:
                start_ms = max(self._earliest_ms, self._start_ms - self.settings.prefix_padding_ms)
                self._interjection = Interjected(start_ms, now_ms, self._last_ms, self._voiced_ms, self._noticed)
                events.append(self._interjection)
            return events
        if self._ducked:
            self._ducked = False
            events.append(Unduck(now_ms))
        self._state = _State.SPEAKING
        self._padded_ms = max(self._earliest_ms, self._start_ms - self.settings.prefix_padding_ms)
        return [*events, SpeechStarted(self._padded_ms, interrupts, interrupts and not self._noticed)]

    @property
    def _noticed(self) -> bool:
        """Whether the reply had been heard for long enough, when the speech began, to be what it is about."""
        return self._heard_ms is not None and self._heard_ms >= NOTICED_MS

    def _continue_turn(self, speech: bool, now_ms: int) -> list[TurnEvent]:
        if speech:
            self._pause = self._wait_ms = self._end_ms = None
        silence_ms = now_ms - self._last_ms
        patience_ms = self.settings.patience_ms
        limit_ms = self.settings.silence_ms if patience_ms is None else patience_ms
        limit_ms = limit_ms if self._wait_ms is None else self._wait_ms
        if silence_ms >= limit_ms or now_ms - self._padded_ms >= self.settings.max_speech_ms:
            return self._end_turn(now_ms)
        if patience_ms is not None and silence_ms >= self.settings.pause_ms and self._pause is None:
            self._pause = Paused(self._padded_ms, now_ms)
            return [self._pause]
        return []

    def _end_turn(self, now_ms: int) -> list[TurnEvent]:
        end_ms = now_ms if self._end_ms is None else self._end_ms
        start_ms, self._earliest_ms = self._padded_ms, end_ms
        short = self._interjected and self._voiced_ms < self.settings.interrupt_after_ms
        stopped = SpeechStopped(start_ms, end_ms, self._last_ms, short)
        self._to_silence()
        return [stopped]

    def _to_silence(self) -> None:
        self._state = _State.SILENCE
        self._ducked = self._interjected = False
        self._pause = self._wait_ms = self._end_ms = self._heard_ms = None
        self._start_ms = self._padded_ms = self._last_ms = self._voiced_ms = 0


class PlaybackClock:
    """Estimates how much of a reply was played, if the client plays each chunk as soon as possible.

    Chunks that arrive early are queued. Gaps between chunks are silence and do not count.
    """

    def __init__(self) -> None:
        self.sent_s = 0.0
        self._ends_at_s = float("-inf")
        self._unheard_s = 0.0  # length of what was sent and is never played
        self._stopped = False
        self.underruns = 0

    def add(self, now_s: float, duration_s: float) -> None:
        """A chunk was sent."""
        self.sent_s += duration_s
        if self._stopped:
            self._unheard_s += duration_s
            return
        if self.sent_s > duration_s and now_s > self._ends_at_s:
            self.underruns += 1
        self._ends_at_s = max(self._ends_at_s, now_s) + duration_s

    def heard_s(self, now_s: float) -> float:
        """The length of the reply that was played, s."""
        return max(0.0, self.sent_s - self._unheard_s - max(0.0, self._ends_at_s - now_s))

    def playing(self, now_s: float) -> bool:
        """Whether the client is still playing."""
        return now_s < self._ends_at_s

    def stop(self, now_s: float) -> None:
        """The client has stopped playing, for good."""
        self._unheard_s += max(0.0, self._ends_at_s - now_s)
        self._ends_at_s = min(self._ends_at_s, now_s)
        self._stopped = True
