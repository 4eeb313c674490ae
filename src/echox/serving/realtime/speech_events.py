"""Speech in events: ``response.output_audio.delta``, as fast as it is made. The client plays it."""

from __future__ import annotations

import base64
import time

import numpy as np

from echox.serving.protocol.wire import AudioFormat, WireWriter
from echox.serving.realtime.transport import ContentPlace
from echox.serving.service.outbox import Outbox
from echox.serving.turn_detection.turns import PlaybackClock

_DELTA_S = 0.2  # audio in one event: short, so that unsent audio can be dropped; long, so that events are few


class SpeechEvents:
    """The speech of one response in events. What was played is estimated from when they were sent.

    Args:
        response_id: id of the response.
        model_rate: rate of the samples, Hz.
        audio_format: format of the audio in the events.
        outbox: the events are sent through it.
    """

    def __init__(self, response_id: str, model_rate: int, audio_format: AudioFormat, outbox: Outbox) -> None:
        self._response_id, self._format, self._outbox = response_id, audio_format, outbox
        self._writer = WireWriter(model_rate, audio_format)
        self._step = max(1, int(_DELTA_S * model_rate))
        self._clock = PlaybackClock()
        self._place: ContentPlace | None = None

    @property
    def sent_s(self) -> float:
        """Length of the speech that was sent, s."""
        return self._clock.sent_s

    @property
    def underruns(self) -> int:
        """How often the client had nothing to play."""
        return self._clock.underruns

    def add(self, waveform: np.ndarray, place: ContentPlace) -> None:
        """Send samples float32 (S,)."""
        self._place = place
        for start in range(0, len(waveform), self._step):
            self._put(self._writer.write(waveform[start : start + self._step]))

    def end(self) -> None:
        """Send what the resampler still holds."""
        if self._place is not None:
            self._put(self._writer.write(np.zeros(0, np.float32), last=True))

    def cut(self) -> None:
        """Drop what is not sent yet."""
        self._outbox.drop_audio(self._response_id)

    def heard_s(self, now_s: float) -> float:
        """Length of the speech that was played, if the client plays each event as soon as possible, s."""
        return self._clock.heard_s(now_s)

    def playing(self, now_s: float) -> bool:
        """Whether the client is still playing it."""
        return self._clock.playing(now_s)

    def stop(self, now_s: float) -> None:
        """The client has stopped playing it."""
        self._clock.stop(now_s)

    def _put(self, data: bytes) -> None:
        if not data:
            return
        duration_s = len(data) / self._format.sample_bytes / self._format.rate
        delta = base64.b64encode(data).decode("ascii")
        assert self._place is not None
        self._outbox.put(
            {"type": "response.output_audio.delta", **self._place, "delta": delta},
            audio_of=self._response_id,
            on_sent=lambda: self._clock.add(time.monotonic(), duration_s),
        )
