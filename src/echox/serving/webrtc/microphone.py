"""The microphone of a call: frames as they come over the network become one recording without holes.

What was lost or not sent (a client may leave silence out) is silence, so that turn detection hears how long it lasts.
Some clients count timestamps on while they send nothing, others (Chromium) do not: so the clock counts then. What comes
late, after silence was put in its place, is not lost; the next silence is shorter for it. Time is passed in.
"""

from __future__ import annotations

import numpy as np

from echox.audio import StreamingResampler
from echox.serving.turn_detection.vad import SAMPLING_RATE

FRAME_RATE = 48000
"""Rate of decoded Opus, and of RTP timestamps of Opus whatever its bandwidth (RFC 7587 section 4.1), Hz."""
MAX_AHEAD_S = 3.0
"""How much more sound than time may have come: what is beyond it is dropped."""
_SILENCE_S = 3.0  # most silence at once: a server that was stopped for an hour catches up step by step


class Microphone:
    """Sound of one client, at the rate of turn detection.

    Args:
        now_s: the present, s.
    """

    def __init__(self, now_s: float) -> None:
        self._began_s = now_s
        self._resampler = StreamingResampler(FRAME_RATE, SAMPLING_RATE)
        self._next: int | None = None  # timestamp that follows the last frame; None: none has come
        self._first_s = now_s  # when the first frame began
        self._filled = 0  # samples of silence since the last frame
        self._total = 0  # samples so far

    def hear(self, frame: np.ndarray, timestamp: int, now_s: float) -> np.ndarray:
        """Take a frame.

        Args:
            frame: samples float32 (S,) at 48 kHz.
            timestamp: number of its first sample, as the client counts.
            now_s: the present, s.

        Returns:
            The samples float32 (S,) at 16 kHz that are ready.
        """
        if self._next is None:
            self._first_s, self._next = now_s - len(frame) / FRAME_RATE, timestamp
        missing = max(0, self._missing(now_s) - len(frame) if self._filled else timestamp - self._next)
        self._next, self._filled = timestamp + len(frame), 0
        room = int((now_s - self._began_s + MAX_AHEAD_S) * FRAME_RATE) - self._total
        if len(frame) > room:
            return np.zeros(0, np.float32)
        silence = np.zeros(min(missing, room - len(frame)), np.float32)
        return self._process(np.concatenate([silence, frame]))

    def miss(self, now_s: float) -> np.ndarray:
        """Nothing has come for a while: silence, once there was a frame."""
        if self._next is None:
            return np.zeros(0, np.float32)
        silence = np.zeros(self._missing(now_s), np.float32)
        self._filled += len(silence)
        return self._process(silence)

    def _missing(self, now_s: float) -> int:
        """Samples that should have come by now, and have not."""
        missing = int((now_s - self._first_s) * FRAME_RATE) - self._total
        return min(max(0, missing), int(_SILENCE_S * FRAME_RATE))

    def _process(self, samples: np.ndarray) -> np.ndarray:
        self._total += len(samples)
        return self._resampler.process(samples)
