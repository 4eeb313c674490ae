"""The loudspeaker of a call: speech is sent in real time, 20 ms after 20 ms, so what was sent is what was heard.

Speech of several responses is played one after the other. Between them little is sent: silence for a moment, then one
frame of it now and then, as with discontinuous transmission of Opus (RFC 7587 section 3.1.3). Time is passed in.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from echox.audio import StreamingResampler
from echox.serving.realtime.transport import ContentPlace
from echox.serving.service.outbox import Outbox

RATE = 48000
FRAME_S = 0.02
FRAME_SAMPLES = int(RATE * FRAME_S)
TAIL_S = 0.2
"""How long after it was sent speech may still be heard: the network, and what the client holds back against gaps."""
_SILENCE_FRAMES = 10  # sent after speech
_KEPT_FRAMES = 20  # then one in so many


class PlayedSpeech:
    """The speech of one response in a call.

    Args:
        response_id: id of the response.
        model_rate: rate of its samples, Hz.
        queue: it is added to this queue with its first samples.
        outbox: the events ``output_audio_buffer.*`` are sent through it.
    """

    def __init__(self, response_id: str, model_rate: int, queue: deque[PlayedSpeech], outbox: Outbox) -> None:
        self._response_id, self._queue, self._outbox = response_id, queue, outbox
        self._resampler = StreamingResampler(model_rate, RATE)
        self._blocks: deque[np.ndarray] = deque()
        self._waiting = self._sent = 0  # samples
        self._sent_at_s = -math.inf
        self._ended = self._starved = False
        self.underruns = 0

    @property
    def sent_s(self) -> float:
        """Length of the speech that is played if nothing stops it, s."""
        return (self._sent + self._waiting) / RATE

    @property
    def over(self) -> bool:
        """Whether everything was sent."""
        return self._ended and not self._waiting

    def add(self, waveform: np.ndarray, place: ContentPlace) -> None:
        """Add samples float32 (S,)."""
        if self._ended:  # it was stopped
            return
        if self not in self._queue:
            self._queue.append(self)
        self._keep(self._resampler.process(waveform))

    def end(self) -> None:
        """All was added."""
        if not self._ended:
            self._keep(self._resampler.process(np.zeros(0, np.float32), last=True))
            self._ended = True

    cut = end  # of a cancelled response: what is waiting is played, unless `stop` follows

    def heard_s(self, now_s: float) -> float:
        """Length of the speech that was sent, s."""
        return self._sent / RATE

    def playing(self, now_s: float) -> bool:
        """Whether it is still heard."""
        return bool(self._waiting) or now_s - self._sent_at_s < TAIL_S

    def stop(self, now_s: float) -> None:
        """Send nothing more of it."""
        self._ended = True
        self._blocks.clear()
        self._waiting, self._sent_at_s = 0, -math.inf
        if self in self._queue:
            self._queue.remove(self)
            if self._sent:
                self._tell("cleared")

    def take(self, now_s: float) -> np.ndarray | None:
        """The next frame, float32 (`FRAME_SAMPLES`,); None: not enough has come yet."""
        if self._waiting < FRAME_SAMPLES and not (self._ended and self._waiting):
            if self._sent and not self._ended and not self._starved:
                self._starved, self.underruns = True, self.underruns + 1
            return None
        self._starved = False
        if not self._sent:
            self._tell("started")
        parts, missing = [], FRAME_SAMPLES
        while missing and self._blocks:
            block = self._blocks.popleft()
            if len(block) > missing:
                self._blocks.appendleft(block[missing:])
            parts.append(block[:missing])
            missing -= len(parts[-1])
        self._waiting -= FRAME_SAMPLES - missing
        self._sent += FRAME_SAMPLES - missing
        self._sent_at_s = now_s
        return np.concatenate([*parts, np.zeros(missing, np.float32)])

    def tell_stopped(self) -> None:
        """Send that all of it was played."""
        if self._sent:
            self._tell("stopped")

    def _keep(self, samples: np.ndarray) -> None:
        if len(samples):
            self._blocks.append(samples)
            self._waiting += len(samples)

    def _tell(self, what: str) -> None:
        self._outbox.put({"type": f"output_audio_buffer.{what}", "response_id": self._response_id})


class Playback:
    """Plays the speech of all responses of a call."""

    def __init__(self) -> None:
        self._queue: deque[PlayedSpeech] = deque()
        self._quiet_frames = _SILENCE_FRAMES

    def speech(self, response_id: str, model_rate: int, outbox: Outbox) -> PlayedSpeech:
        """The speech of one response; see `PlayedSpeech`."""
        return PlayedSpeech(response_id, model_rate, self._queue, outbox)

    def next_frame(self, now_s: float) -> np.ndarray | None:
        """What is sent at this moment, float32 (`FRAME_SAMPLES`,); None: nothing. Call it every 20 ms.

        Raises:
            SlowReader: the client does not receive its events fast enough.
        """
        frame = None
        while self._queue and frame is None:
            speech = self._queue[0]
            frame = speech.take(now_s)
            if speech.over:
                self._queue.popleft()
                speech.tell_stopped()
            elif frame is None:
                break
        if frame is not None:
            self._quiet_frames = 0
            return frame
        self._quiet_frames += 1
        if self._quiet_frames <= _SILENCE_FRAMES or self._quiet_frames % _KEPT_FRAMES == 0:
            return np.zeros(FRAME_SAMPLES, np.float32)
        return None
