"""Turn detection: a state machine over speech probabilities. Times come from its caller, so it needs no clock.

In silence, a turn starts after a short stretch of speech and ends after enough silence. A cough or an "mm-hmm" must not
stop a reply that is being played. So there, speech first lowers the volume of the reply (duck). It interrupts the reply
only if it continues; otherwise the volume is raised again (unduck) and the speech is discarded.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

HYSTERESIS = 0.15  # speech continues down to the threshold minus this
MIN_SPEECH_MS = 96  # shorter sounds are clicks
MAX_GAP_MS = 256  # longest gap between syllables, before a turn has started
PAUSE_MS = 192  # silence after which the end-of-turn model may be asked


@dataclass(frozen=True)
class TurnSettings:
    """Settings of turn detection.

    Attributes:
        threshold: probability from which on a frame is speech.
        prefix_padding_ms: audio before the detected start that belongs to the turn.
        silence_ms: silence that ends a turn.
        patience_ms: with an end-of-turn model: silence that ends the turn whatever the model decides; None: the model
            is not asked.
        interrupt_after_ms: length of speech that interrupts a reply.
        max_speech_ms: longest turn.
        interrupts: whether speech interrupts a reply; False: it starts a turn and the reply continues.
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
    """A turn starts at ``start_ms`` (with padding); ``interrupts``: it interrupts a reply."""

    start_ms: int
    interrupts: bool


@dataclass(frozen=True)
class SpeechStopped:
    """The turn has ended; its audio is from ``start_ms`` to ``end_ms``."""

    start_ms: int
    end_ms: int


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
    """A short silence: ask whether the sentence from ``start_ms`` is complete, then call `TurnDetector.end_pause`."""

    start_ms: int
    at_ms: int


TurnEvent = SpeechStarted | SpeechStopped | Duck | Unduck | Paused


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
        self._pause: Paused | None = None  # the pause that the model was asked about
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

    def push(self, probability: float, start_ms: int, end_ms: int, replying: bool) -> list[TurnEvent]:
        """Process one frame.

        Args:
            probability: probability of speech in the frame.
            start_ms: start of the frame in all audio so far.
            end_ms: end of the frame.
            replying: whether a reply is being played to the user.

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
        return self._start_turn(end_ms, replying)

    def end_pause(self, pause: Paused, complete: bool, now_ms: int) -> list[TurnEvent]:
        """Apply the answer about a pause: a complete sentence ends the turn, unless speech has continued meanwhile."""
        if complete and self._state is _State.SPEAKING and self._pause == pause:
            return self._end_turn(now_ms)
        return []

    def _start_turn(self, now_ms: int, replying: bool) -> list[TurnEvent]:
        events: list[TurnEvent] = []
        if now_ms - self._last_ms > (MAX_GAP_MS if self._voiced_ms >= MIN_SPEECH_MS else MIN_SPEECH_MS):
            events += [Unduck(now_ms)] if self._ducked else []
            self._to_silence()
            return events
        if self._voiced_ms < MIN_SPEECH_MS:
            return events
        over_reply = replying and self.settings.interrupts
        if over_reply and self._voiced_ms < self.settings.interrupt_after_ms:
            if not self._ducked:
                self._ducked = True
                events.append(Duck(now_ms))
            return events
        if self._ducked:
            self._ducked = False
            events.append(Unduck(now_ms))
        self._state = _State.SPEAKING
        self._padded_ms = max(self._earliest_ms, self._start_ms - self.settings.prefix_padding_ms)
        return [*events, SpeechStarted(self._padded_ms, over_reply)]

    def _continue_turn(self, speech: bool, now_ms: int) -> list[TurnEvent]:
        if speech:
            self._pause = None
        silence_ms = now_ms - self._last_ms
        patience_ms = self.settings.patience_ms
        limit_ms = self.settings.silence_ms if patience_ms is None else patience_ms
        if silence_ms >= limit_ms or now_ms - self._padded_ms >= self.settings.max_speech_ms:
            return self._end_turn(now_ms)
        if patience_ms is not None and silence_ms >= PAUSE_MS and self._pause is None:
            self._pause = Paused(self._padded_ms, now_ms)
            return [self._pause]
        return []

    def _end_turn(self, now_ms: int) -> list[TurnEvent]:
        start_ms, self._earliest_ms = self._padded_ms, now_ms
        self._to_silence()
        return [SpeechStopped(start_ms, now_ms)]

    def _to_silence(self) -> None:
        self._state = _State.SILENCE
        self._ducked, self._pause = False, None
        self._start_ms = self._padded_ms = self._last_ms = self._voiced_ms = 0


class PlaybackClock:
    """Estimates how much of a reply was played, if the client plays each chunk as soon as possible.

    Chunks that arrive early are queued. Gaps between chunks are silence and do not count.
    """

    def __init__(self) -> None:
        self.sent_s = 0.0
        self._ends_at_s = float("-inf")
        self.underruns = 0

    def add(self, now_s: float, duration_s: float) -> None:
        """A chunk was sent."""
        if self.sent_s > 0 and now_s > self._ends_at_s:
            self.underruns += 1
        self._ends_at_s = max(self._ends_at_s, now_s) + duration_s
        self.sent_s += duration_s

    def heard_s(self, now_s: float) -> float:
        """The length of the reply that was played, s."""
        return max(0.0, self.sent_s - max(0.0, self._ends_at_s - now_s))

    def playing(self, now_s: float) -> bool:
        """Whether the client is still playing."""
        return now_s < self._ends_at_s

    def stop(self, now_s: float) -> None:
        """The client has stopped playing."""
        self._ends_at_s = min(self._ends_at_s, now_s)
