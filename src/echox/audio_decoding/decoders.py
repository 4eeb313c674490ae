"""Decodes a file with libsndfile or FFmpeg, each restricted to the recognised format.

FFmpeg gets the names of the demuxer and the decoders, no protocol, and only the bytes: a file that wants to open
another one is refused.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import soundfile
import soxr

from echox.audio_decoding.containers import Container, recognise
from echox.audio_decoding.downmix import mix_to_mono
from echox.audio_decoding.limits import MAX_AMPLITUDE, MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ

if TYPE_CHECKING:
    import av

Blocks = Iterator[tuple[np.ndarray, int]]
"""Samples (S, C) float32 and their rate in hertz, of at most two channels."""

_READ_BLOCK_FRAMES = 1 << 14
_SNDFILE_FORMATS = "WAV WAVEX RF64 W64 AIFF AU CAF FLAC OGG"
_SNDFILE_SUBTYPES = (
    "PCM_S8 PCM_U8 PCM_16 PCM_24 PCM_32 FLOAT DOUBLE ULAW ALAW IMA_ADPCM MS_ADPCM GSM610 ALAC_16 ALAC_20 ALAC_24 "
    "ALAC_32 VORBIS OPUS"
)
_FFMPEG_CODECS = (
    "pcm_alaw pcm_mulaw pcm_f32be pcm_f32le pcm_f64be pcm_f64le pcm_s16be pcm_s16le pcm_s24be pcm_s24le pcm_s32be "
    "pcm_s32le pcm_s8 pcm_u8 pcm_s16be_planar pcm_s16le_planar adpcm_ima_qt adpcm_ima_wav adpcm_ms gsm gsm_ms flac "
    "alac mp1 mp1float mp2 mp2float mp3 mp3float aac ac3 eac3 opus libopus vorbis libvorbis speex libspeex amrnb amrwb "
    "libopencore_amrnb libopencore_amrwb wmav1 wmav2 wmapro wmavoice"
)


class Refused(ValueError):
    """Audio beyond a limit; no other decoder is tried."""


class NotDecodable(Exception):
    """This decoder cannot read the file; the next one is tried."""


def decode(content: bytes, sampling_rate: int, max_duration_s: float) -> np.ndarray:
    """Decode a file to mono samples ``(S,)`` float32 at the wanted rate in hertz; S >= 1, all finite.

    Raises:
        ValueError: no audio that is read, or more than `max_duration_s` of it, or outside the bounds of `limits`.
    """
    found = recognise(content)
    if found is None:
        raise ValueError(_no_audio(len(content), "of no such format"))
    container, start = found
    audio = content[start:]
    failure = "no decoder"
    for blocks in (_soundfile_blocks, _ffmpeg_blocks) if container.libsndfile else (_ffmpeg_blocks,):
        try:
            return _collect(blocks(audio, container), sampling_rate, max_duration_s)
        except NotDecodable as error:
            failure = str(error)
    raise ValueError(_no_audio(len(content), f"that look like {container.name} and hold none: {failure}"))


def _no_audio(size: int, found: str) -> str:
    return (
        f"expected audio (WAV, FLAC, Ogg, MP3, AAC, M4A, MP4, WebM, AIFF, WMA, AMR, ...), found {size} bytes {found}; "
        "check the file in a player or convert it to WAV"
    )


def _collect(blocks: Blocks, sampling_rate: int, max_duration_s: float) -> np.ndarray:
    """Resample block by block, refuse as soon as a limit is passed, and mix at the end, when all channels are known."""
    parts: list[np.ndarray] = []
    # Resampling may round up by a sample.
    taken, room = 0, int(np.ceil(max_duration_s * sampling_rate)) + 1
    stream: soxr.ResampleStream | None = None
    frames, first = 0, (0, 0)
    for block, rate in blocks:
        if frames == 0:
            first = (rate, block.shape[1])
            if rate != sampling_rate:
                stream = soxr.ResampleStream(rate, sampling_rate, block.shape[1], "float32", "HQ")
        elif (rate, block.shape[1]) != first:
            raise Refused(
                f"expected one rate and number of channels, found {first[0]} Hz with {first[1]}, then {rate} Hz with "
                f"{block.shape[1]}; convert the file to WAV"
            )
        _check_samples(block, frames, rate)
        frames += len(block)
        parts.append(block if stream is None else stream.resample_chunk(block))
        taken += len(parts[-1])
        if taken > room or frames > max_duration_s * rate:
            raise Refused(f"expected at most {max_duration_s:g} s of audio, found more; cut it or raise the limit")
    if stream is not None:
        parts.append(stream.resample_chunk(np.zeros((0, first[1]), np.float32), last=True))
    samples = np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)
    if len(samples) == 0:
        raise NotDecodable("it decodes to 0 samples")
    parts.clear()
    return mix_to_mono(samples)


def _check_samples(block: np.ndarray, frames: int, rate: int) -> None:
    # One pass for NaN, infinity and too large: a comparison with NaN is false.
    ok = (block >= -MAX_AMPLITUDE) & (block <= MAX_AMPLITUDE)
    if ok.all():
        return
    place, channel = np.argwhere(~ok)[0]
    value = block[place, channel]
    expected = "samples in [-1, 1]" if np.isfinite(value) else "finite samples"
    raise Refused(f"expected {expected}, found {value:g} at {(frames + place) / rate:.3f} s; export the file again")


def _check_stream(rate: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
        raise Refused(
            f"expected a sampling rate of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, found {rate} Hz; convert the file to WAV"
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise Refused(f"expected 1 to {MAX_CHANNELS} channels, found {channels}; mix them down")


def _soundfile_blocks(content: bytes, container: Container) -> Blocks:
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            if file.format not in _SNDFILE_FORMATS.split() or file.subtype not in _SNDFILE_SUBTYPES.split():
                raise NotDecodable(f"{file.format}/{file.subtype} is not read")
            _check_stream(file.samplerate, file.channels)
            if file.channels > 2:
                raise NotDecodable("more than two channels")  # FFmpeg knows their positions
            while len(block := file.read(_READ_BLOCK_FRAMES, dtype="float32", always_2d=True)):
                yield block, file.samplerate
    except soundfile.SoundFileError as error:
        raise NotDecodable(str(error)) from error


def _ffmpeg_blocks(content: bytes, container: Container) -> Blocks:
    import av  # loading FFmpeg costs a third of a second
    from av.error import FFmpegError

    try:
        with av.open(
            io.BytesIO(content),
            mode="r",
            format=container.demuxer,
            metadata_errors="ignore",
            io_open=_refuse_to_open,
            container_options={
                "protocol_whitelist": "none",
                "format_whitelist": container.demuxer,
                "codec_whitelist": _FFMPEG_CODECS.replace(" ", ","),
                "max_streams": "32",
            },
        ) as opened:
            if not opened.streams.audio:
                raise NotDecodable("no audio track")
            stream = opened.streams.audio[0]
            codec = stream.codec_context
            if codec is None:
                raise NotDecodable("its codec is not read")
            if codec.name not in _FFMPEG_CODECS.split():
                raise NotDecodable(f"the codec {codec.name} is not read")
            codec.thread_count = 1
            if codec.sample_rate:
                _check_stream(codec.sample_rate, codec.layout.nb_channels)
            converter: av.AudioResampler | None = None
            for frame in opened.decode(stream):
                if converter is None:
                    _check_stream(frame.sample_rate, frame.layout.nb_channels)
                    # Interleaved: one plane, however many channels; several planes are not safe to read in PyAV. Of
                    # more than two channels FFmpeg knows which one is the centre, which holds speech.
                    layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
                    converter = av.AudioResampler(format="flt", layout=layout, rate=frame.sample_rate)
                for part in converter.resample(frame):
                    yield _interleaved(part), part.sample_rate
            for part in converter.resample(None) if converter is not None else ():
                yield _interleaved(part), part.sample_rate
    except (Refused, MemoryError):
        raise
    except (FFmpegError, ValueError, OverflowError) as error:
        raise NotDecodable(str(error)) from error


def _interleaved(frame: av.AudioFrame) -> np.ndarray:
    return frame.to_ndarray().reshape(-1, frame.layout.nb_channels)


def _refuse_to_open(url: str, flags: int, options: dict[str, str]) -> NoReturn:
    raise PermissionError("expected a file that is complete, found one that asks for another to be opened")
