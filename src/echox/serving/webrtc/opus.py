"""Speech to packets of Opus (RFC 6716), made by FFmpeg's libopus, as for files."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from echox.serving.webrtc.playback import FRAME_SAMPLES, RATE

_BIT_RATE = 40_000  # for one voice; aiortc's own encoder takes 96,000 for stereo


class OpusEncoder:
    """Encodes frames of 20 ms, one packet each."""

    def __init__(self) -> None:
        import av

        self._codec = av.CodecContext.create("libopus", "w")
        self._codec.bit_rate, self._codec.sample_rate = _BIT_RATE, RATE
        self._codec.format, self._codec.layout = "s16", "mono"
        self._codec.time_base = Fraction(1, RATE)
        # Forward error correction: a lost packet is made up for by the next one.
        self._codec.options = {"application": "voip", "frame_duration": "20", "fec": "1", "packet_loss": "5"}
        self._pts = 0

    def encode(self, frame: np.ndarray) -> bytes:
        """Encode a frame float32 (`FRAME_SAMPLES`,)."""
        import av

        pcm = np.clip(np.rint(frame * 32767), -32768, 32767).astype(np.int16)
        source = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
        source.sample_rate, source.time_base, source.pts = RATE, self._codec.time_base, self._pts
        self._pts += FRAME_SAMPLES
        (packet,) = self._codec.encode(source)
        return bytes(packet)
