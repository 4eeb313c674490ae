"""The audio that a client sends: converted to samples, kept until a turn takes it, and searched for speech."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np

from echox.serving.protocol.limits import Limits
from echox.serving.protocol.wire import AudioFormat, WireReader
from echox.serving.turn_detection.turns import TurnDetector, TurnEvent, TurnSettings
from echox.serving.turn_detection.vad import FRAME_SAMPLES, SAMPLING_RATE, Vad

_MIN_BLOCK_SAMPLES = 4096
"""Shorter blocks are joined, so that many small appends need no more memory than a few large ones."""


class InputAudioBuffer:
    """The input audio buffer of one session, with turn detection if there are settings for it.

    Times are milliseconds since the start of all audio that this client has sent, as in the protocol.

    Args:
        audio_format: format of the bytes.
        settings: settings of turn detection; None: the client marks the end of each turn.
        vad: voice activity detector of this session only.
        limits: limits of the server.
    """

    def __init__(self, audio_format: AudioFormat, settings: TurnSettings | None, vad: Vad, limits: Limits) -> None:
        self._reader = WireReader(audio_format, SAMPLING_RATE)
        self._vad = vad
        self._limits = limits
        self._blocks: deque[np.ndarray] = deque()
        self._first = 0  # position of the first kept sample in all audio
        self._end = 0  # position after the last sample
        self._searched = 0  # position up to which the audio was searched for speech
        self.turns = None if settings is None else TurnDetector(settings)

    def configure(self, audio_format: AudioFormat, settings: TurnSettings | None) -> list[TurnEvent]:
        """Apply new options; returns what ends with the old ones. Audio that was sent before keeps its format."""
        ended: list[TurnEvent] = []
        if audio_format != self._reader.audio_format:
            self._keep(self._reader.flush())
            self._reader = WireReader(audio_format, SAMPLING_RATE)
        if settings is None:
            ended = [] if self.turns is None else self.turns.reset(self.now_ms)
            self.turns = None
        elif self.turns is None:
            self.turns = TurnDetector(settings)
            self.turns.reset(self.now_ms)
            self._vad.reset()
            self._searched = self._end
        else:
            self.turns.settings = settings
        return ended

    @property
    def now_ms(self) -> int:
        """Length of all audio so far, ms."""
        return _ms(self._end)

    @property
    def searched_ms(self) -> int:
        """Length of the audio that was searched for speech, ms."""
        return _ms(self._searched)

    @property
    def pending_s(self) -> float:
        """Length of the audio that no turn has taken yet, s."""
        return (self._end - self._first) / SAMPLING_RATE

    def has_room_for(self, num_bytes: int) -> bool:
        """Whether more bytes fit into the buffer. With turn detection the oldest audio is removed for them."""
        audio_format = self._reader.audio_format
        added_s = num_bytes / audio_format.sample_bytes / audio_format.rate
        max_s = self._limits.max_buffer_s
        return added_s <= max_s and (self.turns is not None or self.pending_s + added_s <= max_s)

    def append(self, data: bytes) -> None:
        """Append bytes. `detect_next` then searches them for speech."""
        self._keep(self._reader.read(data))

    def append_samples(self, samples: np.ndarray) -> None:
        """Append samples float32 (S,) at 16 kHz, whatever the format of the bytes; the oldest audio makes room."""
        self._keep(samples)
        if self.turns is None:
            self._discard(self._end - int(self._limits.max_buffer_s * SAMPLING_RATE))

    def detect_next(self, heard_ms: Callable[[], int | None]) -> list[TurnEvent] | None:
        """Search the next frame for speech; None if there is no whole frame, or no turn detection.

        Args:
            heard_ms: of the reply that is being played; see `TurnDetector.push`.
        """
        if self.turns is None or self._end - self._searched < FRAME_SAMPLES:
            return None
        start, self._searched = self._searched, self._searched + FRAME_SAMPLES
        probability = self._vad.push(self._cut(start, self._searched))
        events = self.turns.push(probability, _ms(start), _ms(self._searched), heard_ms())
        if not self.turns.speaking:  # remove old silence
            max_samples = int(self._limits.max_buffer_s * SAMPLING_RATE)
            self._discard(self._searched - max_samples)
        return events

    def take_turn(self, start_ms: int, end_ms: int) -> np.ndarray:
        """Remove the audio of a turn, and all audio before it; return the samples float32 (S,) of the turn."""
        start = max(self._first, start_ms * SAMPLING_RATE // 1000)
        end = min(self._end, end_ms * SAMPLING_RATE // 1000)
        samples = self._cut(start, end) if end > start else np.zeros(0, np.float32)
        self._discard(end)
        return samples

    def take_all(self) -> tuple[np.ndarray, list[TurnEvent]]:
        """Remove and return all samples of the buffer. The next bytes start a new recording."""
        self._keep(self._reader.flush())
        samples = self._cut(self._first, self._end)
        return samples, self.clear()

    def clear(self) -> list[TurnEvent]:
        """Discard all audio of the buffer."""
        self._reader.reset()
        self._vad.reset()
        self._discard(self._end)
        self._searched = self._end
        return [] if self.turns is None else self.turns.reset(self.now_ms)

    @property
    def begin_ms(self) -> int:
        """Where the audio begins that no turn has taken yet, ms."""
        return _ms(self._first)

    def since(self, start_ms: int) -> np.ndarray:
        """The samples float32 (S,) from a time to the last one. They stay in the buffer."""
        start = max(self._first, start_ms * SAMPLING_RATE // 1000)
        return self._cut(start, max(start, self._end))

    @property
    def silence_ms(self) -> int | None:
        """How long the user has been silent in the middle of a detected turn; None: there is no turn."""
        return None if self.turns is None else self.turns.silence_ms(self.searched_ms)

    def turn(self) -> np.ndarray:
        """The samples float32 (S,) of the detected turn so far. They stay in the buffer."""
        return self.recent(self.now_ms if self.turns is None else self.turns.begin_ms)

    def recent(self, start_ms: int) -> np.ndarray:
        """The samples float32 (S,) from a time to the last searched one. They stay in the buffer."""
        start = max(self._first, start_ms * SAMPLING_RATE // 1000)
        return self._cut(start, max(start, self._searched))

    def between(self, start_ms: int, end_ms: int) -> np.ndarray:
        """The samples float32 (S,) between two times, as far as they are there. They stay in the buffer."""
        start, end = (max(self._first, one * SAMPLING_RATE // 1000) for one in (start_ms, end_ms))
        return self._cut(start, min(end, self._end))

    def _keep(self, samples: np.ndarray) -> None:
        if len(samples):
            if self._blocks and len(self._blocks[-1]) < _MIN_BLOCK_SAMPLES:
                self._blocks[-1] = np.concatenate([self._blocks[-1], samples])
            else:
                self._blocks.append(samples)
            self._end += len(samples)

    def _cut(self, start: int, end: int) -> np.ndarray:
        parts, position = [], self._end
        for block in reversed(self._blocks):  # the newest audio is needed most often
            position -= len(block)
            if position < end:
                parts.append(block[max(0, start - position) : end - position])
            if position <= start:
                break
        return np.concatenate(parts[::-1]) if parts else np.zeros(0, np.float32)

    def _discard(self, before: int) -> None:
        while self._blocks and self._first + len(self._blocks[0]) <= before:
            self._first += len(self._blocks.popleft())
        if self._blocks and before > self._first:
            self._blocks[0] = self._blocks[0][before - self._first :]
            self._first = before


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLING_RATE
