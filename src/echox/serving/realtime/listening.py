"""One client's incoming sound: bytes to samples, kept until they become a turn, and watched for speech."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from echox.serving.protocol.limits import Limits
from echox.serving.protocol.wire import AudioFormat, WireReader
from echox.serving.turn_detection.turns import TurnEvent, TurnSettings, TurnTaker
from echox.serving.turn_detection.vad import FRAME_SAMPLES, SAMPLING_RATE, Vad

_MIN_BLOCK_SAMPLES = 4096
"""Shorter blocks are joined, so that many tiny appends need no more memory than a few large ones."""


class Listener:
    """The input audio buffer, with turn detection if there are settings for it.

    Times are milliseconds in all audio that this client has sent, as the protocol counts them.

    Args:
        audio_format: of what comes. settings: of turn detection; None: manual turns. vad: this listener's own.
        limits: the longest turn.
    """

    def __init__(self, audio_format: AudioFormat, settings: TurnSettings | None, vad: Vad, limits: Limits) -> None:
        self._reader = WireReader(audio_format, SAMPLING_RATE)
        self._vad = vad
        self._limits = limits
        self._blocks: deque[np.ndarray] = deque()
        self._first = 0  # place of the first kept sample in all audio
        self._end = 0  # place after the last one
        self._watched = 0  # place up to which speech was looked for
        self.turns = None if settings is None else TurnTaker(settings)

    def configure(self, audio_format: AudioFormat, settings: TurnSettings | None) -> None:
        """Options have changed; what was sent before keeps its meaning."""
        if audio_format != self._reader.audio_format:
            self._keep(self._reader.flush())
            self._reader = WireReader(audio_format, SAMPLING_RATE)
        if settings is None:
            self.turns = None
        elif self.turns is None:
            self.turns = TurnTaker(settings)
            self.turns.reset(self.now_ms)
            self._vad.reset()
            self._watched = self._end
        else:
            self.turns.settings = settings

    @property
    def now_ms(self) -> int:
        """Length of all audio so far."""
        return _ms(self._end)

    @property
    def watched_ms(self) -> int:
        """Length of the audio in which speech was looked for."""
        return _ms(self._watched)

    @property
    def waiting_s(self) -> float:
        """Length of the audio that no turn has taken yet."""
        return (self._end - self._first) / SAMPLING_RATE

    def room_for(self, num_bytes: int) -> bool:
        """Whether so much more fits (with turn detection the oldest audio makes room)."""
        audio_format = self._reader.audio_format
        added_s = num_bytes / audio_format.sample_bytes / audio_format.rate
        longest_s = self._limits.max_buffer_s
        return added_s <= longest_s and (self.turns is not None or self.waiting_s + added_s <= longest_s)

    def append(self, data: bytes) -> None:
        """Take bytes; `watch` then looks for speech in them."""
        self._keep(self._reader.read(data))

    def watch(self, replying: Callable[[], bool]) -> list[TurnEvent] | None:
        """Look at the next frame; None when there is no whole one (or nobody wants to know)."""
        if self.turns is None or self._end - self._watched < FRAME_SAMPLES:
            return None
        start, self._watched = self._watched, self._watched + FRAME_SAMPLES
        probability = self._vad.push(self._cut(start, self._watched))
        events = self.turns.push(probability, _ms(start), _ms(self._watched), replying())
        if not self.turns.speaking:  # old silence makes room
            longest = int(self._limits.max_buffer_s * SAMPLING_RATE)
            self._forget(self._watched - longest)
        return events

    def take(self, start_ms: int, end_ms: int) -> np.ndarray:
        """The samples float32 (S,) of a turn; it and what was before are forgotten."""
        start = max(self._first, start_ms * SAMPLING_RATE // 1000)
        end = min(self._end, end_ms * SAMPLING_RATE // 1000)
        samples = self._cut(start, end) if end > start else np.zeros(0, np.float32)
        self._forget(end)
        return samples

    def take_all(self) -> tuple[np.ndarray, list[TurnEvent]]:
        """Everything that is waiting, to its last sample; the next bytes begin a new recording."""
        self._keep(self._reader.flush())
        samples = self._cut(self._first, self._end)
        return samples, self.clear()

    def clear(self) -> list[TurnEvent]:
        """Forget what is waiting."""
        self._reader.reset()
        self._vad.reset()
        self._forget(self._end)
        self._watched = self._end
        return [] if self.turns is None else self.turns.reset(self.now_ms)

    def recent(self, start_ms: int) -> np.ndarray:
        """The samples float32 (S,) from there to the last watched one; they stay."""
        start = max(self._first, start_ms * SAMPLING_RATE // 1000)
        return self._cut(start, max(start, self._watched))

    def _keep(self, samples: np.ndarray) -> None:
        if len(samples):
            if self._blocks and len(self._blocks[-1]) < _MIN_BLOCK_SAMPLES:
                self._blocks[-1] = np.concatenate([self._blocks[-1], samples])
            else:
                self._blocks.append(samples)
            self._end += len(samples)

    def _cut(self, start: int, end: int) -> np.ndarray:
        parts, place = [], self._end
        for block in reversed(self._blocks):  # turns and frames lie at the end
            place -= len(block)
            if place < end:
                parts.append(block[max(0, start - place) : end - place])
            if place <= start:
                break
        return np.concatenate(parts[::-1]) if parts else np.zeros(0, np.float32)

    def _forget(self, before: int) -> None:
        while self._blocks and self._first + len(self._blocks[0]) <= before:
            self._first += len(self._blocks.popleft())
        if self._blocks and before > self._first:
            self._blocks[0] = self._blocks[0][before - self._first :]
            self._first = before


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLING_RATE
