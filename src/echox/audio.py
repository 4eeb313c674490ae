"""Audio files and samples: decode any common format, resample (also as a stream), write WAV and FLAC.

The whole package uses one representation: mono ``float32`` samples in [-1, 1], shape ``(S,)``, with an explicit
``sampling_rate`` in hertz. Decoding looks at the content, never at the file's suffix. It is done in another process
with limits (`echox.audio_decoding`): a damaged or hostile file raises an error and cannot harm this process.
"""

from __future__ import annotations

import errno
import io
import os
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from echox.audio_decoding.limits import MAX_DURATION_S, MAX_FILE_BYTES
from echox.audio_decoding.pool import DecoderPool, DecodingJob, shared_pool

AudioSource = str | Path | bytes | BinaryIO

_WAV_HEADER_BYTES = 44
_PCM16_SCALE = 32768.0  # decoders divide by the same, so PCM16 in -> PCM16 out is the identity


def load_audio(
    source: AudioSource,
    sampling_rate: int = 16000,
    max_duration_s: float | None = None,
    *,
    decoders: DecoderPool | None = None,
    job: DecodingJob | None = None,
) -> np.ndarray:
    """Decode audio to mono float32 at the wanted rate.

    Reads WAV, FLAC, Ogg, MP3, AAC, MP4 and M4A, WebM and Matroska, AIFF, AU, CAF, WMA and AMR, of 4 to 192 kHz and at
    most 8 channels. Channels are averaged; if that would cancel them (opposite phase), the loudest is taken.

    Args:
        source: a path, the bytes of a whole file, or a binary file object (read from its current position).
        sampling_rate: rate of the result in hertz; other rates are resampled.
        max_duration_s: refuse longer audio, measured on the decoded samples, not by a header; audio is never cut.
            None: four hours.
        decoders: processes that decode; None: those that all callers in this process share.
        job: allows to cancel the decoding.

    Returns:
        Samples ``(S,)`` float32, S >= 1, all finite.

    Raises:
        ValueError: missing file, folder, empty file, no supported format, no samples, samples that are not finite or
            far beyond [-1, 1], too long, too costly to decode, bad rate.
        RuntimeError: the process that decodes cannot be started.
        DecodingCancelled: the job was cancelled.
    """
    _check_rate(sampling_rate)
    content, name = _read(source)
    try:
        return (decoders or shared_pool()).decode(
            content, int(sampling_rate), MAX_DURATION_S if max_duration_s is None else float(max_duration_s), job
        )
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def save_audio(path: str | Path, waveform: np.ndarray, sampling_rate: int) -> None:
    """Write mono samples ``(S,)`` as 16-bit WAV or FLAC, chosen by the suffix; never a part of a file.

    Raises:
        ValueError: the suffix is neither .wav nor .flac, or the samples are not finite mono audio.
        OSError: the file cannot be written (no such folder, disk full); the message names the file.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in ("wav", "flac"):
        raise ValueError(
            f"{path}: expected a file name ending in .wav or .flac, found {path.suffix!r}; rename the output"
        )
    content = encode_audio(waveform, sampling_rate, kind)
    part = part_path(path)
    try:
        with part.open("wb") as file:
            file.write(content)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _write_error(path, error) from error


def encode_audio(waveform: np.ndarray, sampling_rate: int, kind: str = "wav") -> bytes:
    """Encode mono samples ``(S,)`` as the bytes of a 16-bit ``wav`` or ``flac`` file.

    Raises:
        ValueError: unknown kind, bad rate, or samples that are not finite mono audio.
    """
    if kind not in ("wav", "flac"):
        raise ValueError(f"expected kind 'wav' or 'flac', found {kind!r}")
    _check_rate(sampling_rate)
    pcm = _to_pcm16(waveform)
    if kind == "wav":
        return _wav_header(len(pcm), sampling_rate) + pcm.tobytes()
    buffer = io.BytesIO()
    soundfile.write(buffer, pcm, sampling_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


class WavWriter:
    """A mono 16-bit WAV file that is written chunk by chunk, while the speech is being made.

    Samples go to ``<name>.part.wav`` beside the target; its header is correct after every write, so it can be played
    while it grows. Closing renames it to the target. Leaving the ``with`` block by an exception removes it, and an
    older target stays.

    Args:
        path: the target, ending in .wav.
        sampling_rate: rate of the samples in hertz.

    Raises:
        ValueError: the name does not end in .wav, or the rate is not positive.
        OSError: the file cannot be written.
    """

    def __init__(self, path: str | Path, sampling_rate: int) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".wav":
            raise ValueError(
                f"{self.path}: expected a file name ending in .wav, found {self.path.suffix!r}; rename the output"
            )
        _check_rate(sampling_rate)
        self.sampling_rate = sampling_rate
        self.samples = 0
        self.part_path = part_path(self.path)
        self._file: BinaryIO | None = None
        try:
            self._file = self.part_path.open("wb")
            self._file.write(_wav_header(0, sampling_rate))
        except OSError as error:
            self.abort()
            raise _write_error(self.path, error) from error

    @property
    def duration_s(self) -> float:
        """Seconds written so far."""
        return self.samples / self.sampling_rate

    def write(self, waveform: np.ndarray) -> None:
        """Append samples ``(S,)``; S may be 0.

        Raises:
            ValueError: closed already, not finite mono audio, or more than a WAV file's 4 GiB.
            OSError: the file cannot be written.
        """
        if self._file is None:
            raise ValueError(f"{self.path}: expected an open writer, found a closed one; make a new WavWriter")
        pcm = _to_pcm16(waveform)
        header = _wav_header(self.samples + len(pcm), self.sampling_rate)
        try:
            self._file.write(pcm.tobytes())
            self._file.seek(0)
            self._file.write(header)
            self._file.seek(0, os.SEEK_END)
            self._file.flush()
        except OSError as error:
            raise _write_error(self.path, error) from error
        self.samples += len(pcm)

    def close(self) -> None:
        """Finish the file under its own name; a second call does nothing.

        Raises:
            OSError: the last bytes or the new name cannot be written; the ``.part.wav`` file is removed then.
        """
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.close()
            self.part_path.replace(self.path)
        except OSError as error:
            self.part_path.unlink(missing_ok=True)
            raise _write_error(self.path, error) from error

    def abort(self) -> None:
        """Remove the unfinished file; an older file under the target's name stays unchanged."""
        if self._file is None:
            return
        file, self._file = self._file, None
        try:
            file.close()
        finally:
            self.part_path.unlink(missing_ok=True)

    def __enter__(self) -> WavWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def resample(waveform: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Resample mono samples ``(S,)`` to ``(round(S * to_rate / from_rate),)`` float32 (soxr, high quality).

    Raises:
        ValueError: a rate is not positive or the waveform is not one-dimensional.
    """
    _check_rate(from_rate)
    _check_rate(to_rate)
    waveform = _check_mono(waveform)
    if from_rate == to_rate or waveform.size == 0:
        return waveform
    return soxr.resample(waveform, from_rate, to_rate, quality="HQ")


class StreamingResampler:
    """`resample` for audio that arrives in chunks; the joined results equal ``resample`` of the whole.

    The filter looks ahead, so the first calls return fewer (or no) samples, and the call with ``last=True`` the rest.

    Args:
        from_rate: rate of the chunks in hertz.
        to_rate: rate of the result in hertz.

    Raises:
        ValueError: a rate is not positive.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        _check_rate(from_rate)
        _check_rate(to_rate)
        self._stream = None if from_rate == to_rate else soxr.ResampleStream(from_rate, to_rate, 1, "float32", "HQ")
        self._finished = False

    def process(self, chunk: np.ndarray, last: bool = False) -> np.ndarray:
        """Take samples ``(S,)`` (S may be 0) and return the resampled samples that are ready, float32.

        Raises:
            ValueError: the chunk is not one-dimensional, or the last one was given already.
        """
        if self._finished:
            raise ValueError("expected a running stream, found a finished one; make a new StreamingResampler")
        chunk = _check_mono(chunk)
        self._finished = last
        return chunk if self._stream is None else self._stream.resample_chunk(chunk, last=last)


def _read(source: AudioSource) -> tuple[bytes, str]:
    """The source's bytes and a name for messages."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            raise ValueError(f"{path}: expected an audio file, found a folder; name one file in it")
        if not path.exists():
            raise ValueError(f"{path}: expected an audio file, found nothing; check the path")
        if not (path.is_file() or path.is_fifo()):
            raise ValueError(f"{path}: expected an audio file, found a device; name a file")
        try:
            with path.open("rb") as file:
                content, name = file.read(MAX_FILE_BYTES + 1), str(path)
        except OSError as error:
            raise ValueError(
                f"{path}: expected a readable file, found: {error.strerror}; check its permissions"
            ) from error
    elif isinstance(source, (bytes, bytearray, memoryview)):
        content, name = bytes(source), "audio bytes"
    elif hasattr(source, "read"):
        content, name = source.read(MAX_FILE_BYTES + 1), str(getattr(source, "name", "audio stream"))
        if not isinstance(content, bytes):
            raise ValueError(f"{name}: expected a binary file object, found a text one; open it with mode 'rb'")
    else:
        raise ValueError(f"expected a path, bytes or a binary file object, found {type(source).__name__}")
    if not content:
        raise ValueError(f"{name}: expected audio, found an empty file (0 bytes); record or copy it again")
    if len(content) > MAX_FILE_BYTES:
        raise ValueError(f"{name}: expected at most {MAX_FILE_BYTES} bytes, found more; cut it into shorter files")
    return content, name


def _check_rate(sampling_rate: int) -> None:
    if not isinstance(sampling_rate, (int, np.integer)) or sampling_rate <= 0:
        raise ValueError(f"expected a sampling rate in whole hertz above 0, found {sampling_rate!r}")


def _check_mono(waveform: np.ndarray) -> np.ndarray:
    waveform = np.asarray(waveform)
    if waveform.ndim != 1:
        raise ValueError(f"expected mono samples (S,), found shape {waveform.shape}; average the channels first")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ValueError(
            f"expected float samples in [-1, 1], found {waveform.dtype}; divide integers by their full scale"
        )
    return waveform.astype(np.float32, copy=False)


def _to_pcm16(waveform: np.ndarray) -> np.ndarray:
    """Samples ``(S,)`` as little-endian int16, clipped at full scale."""
    waveform = _check_mono(waveform)
    if not np.isfinite(waveform).all():
        raise ValueError("expected finite samples, found NaN or infinity; the model that made them is broken")
    return np.clip(np.rint(waveform * _PCM16_SCALE), -32768, 32767).astype("<i2")


def _wav_header(samples: int, sampling_rate: int) -> bytes:
    """The 44-byte RIFF header of mono PCM16."""
    data_bytes = 2 * samples
    if data_bytes + _WAV_HEADER_BYTES - 8 > 0xFFFFFFFF:
        raise ValueError(f"expected at most 4 GiB in one WAV file, found {samples} samples; start a new file")
    riff = struct.pack("<4sI4s", b"RIFF", _WAV_HEADER_BYTES - 8 + data_bytes, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sampling_rate, 2 * sampling_rate, 2, 16)
    return riff + form + struct.pack("<4sI", b"data", data_bytes)


def part_path(path: Path) -> Path:
    """Where a file is written before it is renamed: in the same folder (renaming is atomic), with the same suffix."""
    return path.with_name(f"{path.stem}.part{path.suffix}")


def _write_error(path: Path, error: OSError) -> OSError:
    remedy = "free some space" if error.errno == errno.ENOSPC else "check the folder and its permissions"
    return OSError(error.errno, f"cannot write: {error.strerror}; {remedy}", str(path))
