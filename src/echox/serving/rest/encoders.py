"""Encoders of audio formats: speech to the bytes of a file, piece by piece or at once.

Source: the muxers mp3, ogg and adts of FFmpeg, through PyAV; they need no seeking.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from echox.audio import StreamingResampler, encode_audio
from echox.serving.protocol.wire import AudioFormat, WireWriter

CONTENT_TYPES = {
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "pcm": "audio/pcm",
    "pcm16": "audio/pcm",
}
STREAMED = ("mp3", "opus", "aac", "pcm", "pcm16")
"""Formats that can be played while they are made; the header of the others contains their length."""
_CODECS = {"mp3": ("mp3", "libmp3lame"), "opus": ("ogg", "libopus"), "aac": ("adts", "aac")}
_CODEC_RATES_HZ = (16000, 24000, 48000)  # supported by all three
_PAGE_MICROSECONDS = 200_000  # of Ogg: the default delays the audio by a second


class AudioEncoder(Protocol):
    """The encoder of one recording."""

    def write(self, waveform: np.ndarray) -> bytes:
        """Encode samples float32 (S,); return the bytes that are ready, often none."""

    def finish(self) -> bytes:
        """End the recording; return the remaining bytes."""


def open_encoder(kind: str, sampling_rate: int) -> AudioEncoder:
    """Make an encoder for one of `CONTENT_TYPES`; pcm has 16 bits at 24 kHz, as in the OpenAI API.

    Raises:
        ValueError: an unknown kind.
    """
    if kind in _CODECS:
        return _CodecEncoder(kind, sampling_rate)
    if kind in ("pcm", "pcm16"):
        return _PcmEncoder(sampling_rate)
    if kind in ("wav", "flac"):
        return _FileEncoder(kind, sampling_rate)
    raise ValueError(f"format: expected one of {', '.join(CONTENT_TYPES)}, found {str(kind)[:20]!r}")


def encode(waveform: np.ndarray, sampling_rate: int, kind: str) -> bytes:
    """Encode samples float32 (S,) as the bytes of a whole file.

    Raises:
        ValueError: an unknown kind.
    """
    encoder = open_encoder(kind, sampling_rate)
    return encoder.write(waveform) + encoder.finish()


class _PcmEncoder:
    def __init__(self, sampling_rate: int) -> None:
        self._writer = WireWriter(sampling_rate, AudioFormat())

    def write(self, waveform: np.ndarray) -> bytes:
        return self._writer.write(waveform)

    def finish(self) -> bytes:
        return self._writer.write(np.zeros(0, np.float32), last=True)


class _FileEncoder:
    """A format with the length in its header: it is encoded at the end."""

    def __init__(self, kind: str, sampling_rate: int) -> None:
        self._kind, self._sampling_rate = kind, sampling_rate
        self._parts: list[np.ndarray] = []

    def write(self, waveform: np.ndarray) -> bytes:
        self._parts.append(waveform)
        return b""

    def finish(self) -> bytes:
        waveform = np.concatenate([*self._parts, np.zeros(0, np.float32)])
        return encode_audio(waveform, self._sampling_rate, self._kind)


class _Pipe:
    """The output of the muxer; it has no ``seek``, so the muxer never rewrites earlier bytes."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        found = bytes(self._written)
        self._written.clear()
        return found


class _CodecEncoder:
    """A lossy codec of FFmpeg."""

    def __init__(self, kind: str, sampling_rate: int) -> None:
        import av

        muxer, codec = _CODECS[kind]
        self._rate = sampling_rate if sampling_rate in _CODEC_RATES_HZ else _CODEC_RATES_HZ[1]
        self._resampler = StreamingResampler(sampling_rate, self._rate)
        self._pipe = _Pipe()
        options = {"page_duration": str(_PAGE_MICROSECONDS)} if muxer == "ogg" else {}
        self._container = av.open(self._pipe, mode="w", format=muxer, options=options)
        self._stream = self._container.add_stream(codec, rate=self._rate, layout="mono")
        self._num_samples = 0

    def write(self, waveform: np.ndarray) -> bytes:
        return self._encode(self._resampler.process(waveform))

    def finish(self) -> bytes:
        data = self._encode(self._resampler.process(np.zeros(0, np.float32), last=True))
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return data + self._pipe.take()

    def _encode(self, waveform: np.ndarray) -> bytes:
        import av

        if len(waveform):
            frame = av.AudioFrame.from_ndarray(np.clip(waveform, -1, 1)[None].astype(np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = self._rate, self._num_samples
            self._num_samples += len(waveform)
            self._container.mux(self._stream.encode(frame))
        return self._pipe.take()
