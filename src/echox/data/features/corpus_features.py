"""Features of a corpus: log-mel as Whisper defines it, or waveforms; at true length, computed once, augmented."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from echox.audio import load_audio
from echox.files import exclusive, write_text
from echox.speech_detection import find_speech, speech_for_model

N_FFT = 400
HOP = 160
SAMPLING_RATE = 16000
MEL_FRAMES_PER_S = SAMPLING_RATE / HOP


@lru_cache(maxsize=4)
def _analysis(num_mel_bins: int) -> tuple[Tensor, Tensor]:
    """Hann window (N_FFT,) and mel filters (mels, N_FFT / 2 + 1), from transformers' own extractor."""
    from transformers import WhisperFeatureExtractor

    filters = WhisperFeatureExtractor(feature_size=num_mel_bins).mel_filters
    return torch.hann_window(N_FFT), torch.from_numpy(np.asarray(filters, dtype=np.float32)).T.contiguous()


def log_mel(waveform: np.ndarray | Tensor, sampling_rate: int = SAMPLING_RATE, num_mel_bins: int = 80) -> Tensor:
    """Whisper's log-mel spectrogram of one utterance at its own length.

    Args:
        waveform: float32 (S,), 16 kHz.
        sampling_rate: must be 16000.
        num_mel_bins: 80, or 128 for whisper-large-v3.

    Returns:
        (num_mel_bins, max(2, ceil(S / 160))) float32; a last partial hop is filled with silence.

    Raises:
        ValueError: another sampling rate, more than one channel, or no samples.
    """
    if sampling_rate != SAMPLING_RATE:
        raise ValueError(f"sampling_rate: expected {SAMPLING_RATE} Hz, found {sampling_rate}: resample first")
    samples = torch.as_tensor(waveform, dtype=torch.float32)
    if samples.ndim != 1 or samples.numel() == 0:
        raise ValueError(f"waveform: expected (samples,) with at least one sample, found {tuple(samples.shape)}")
    frames = mel_frames(len(samples))
    samples = torch.nn.functional.pad(samples, (0, frames * HOP - len(samples)))
    window, filters = _analysis(num_mel_bins)
    spectrum = torch.stft(samples, N_FFT, HOP, window=window, return_complex=True)[:, :frames]
    log_spectrum = (filters @ spectrum.abs().square()).clamp_min(1e-10).log10()
    return (log_spectrum.maximum(log_spectrum.max() - 8.0) + 4.0) / 4.0


def mel_frames(samples: int) -> int:
    """Frames that `log_mel` makes of so many samples."""
    # A partial hop still holds speech; and reflection at the ends needs more than half a window of samples.
    return max(-(-samples // HOP), 2)


class Features(Protocol):
    """Features of recordings by number: kept in a `FeatureStore`, or made when they are asked for."""

    def __getitem__(self, index: int) -> np.ndarray:
        """(frames, mels) or (samples, 1)."""
        ...

    def frames(self, index: int) -> int:
        """Mel frames, or samples, of an item."""
        ...


@dataclass(frozen=True)
class FeatureStore:
    """Features of a whole corpus in one memory-mapped file: ``store[i]`` is (frames, mels) or (samples, 1), float16.

    Attributes:
        data: (all frames, mels) or (all samples, 1) float16. offsets: (items + 1,) first frame of each item.
    """

    data: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.data[self.offsets[index] : self.offsets[index + 1]]

    def frames(self, index: int) -> int:
        """Mel frames, or samples, of an item."""
        return int(self.offsets[index + 1] - self.offsets[index])


def feature_store(
    audio_files: Sequence[Path],
    cache: Path,
    num_mel_bins: int | None = 80,
    progress: Callable[[int, int], None] | None = None,
    as_served: bool = False,
) -> FeatureStore:
    """Features of all files, computed once and kept in ``cache`` (``.npy`` with an index beside it).

    ``num_mel_bins``: None keeps waveforms, as the model hears them (`heard_waveform`); ``as_served``: log-mel of these.

    A cache of other files (paths, sizes or times differ) or other settings is made again. An interrupted one is
    continued. If several processes need it at the same time, one of them makes it, and the others wait.

    Raises:
        ValueError: no files, or one that is no audio (from ``load_audio``).
    """
    if not audio_files:
        raise ValueError(f"expected audio files for {cache}, found none: is the manifest empty?")
    key = json.dumps(_fingerprint(audio_files, num_mel_bins) | ({"as_served": True} if as_served else {}))
    found = _opened(cache, key)
    if found is None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(cache.with_suffix(".lock")):
            found = _opened(cache, key)  # another process may have made it meanwhile
            if found is None:
                _make(audio_files, cache, key, num_mel_bins, progress, as_served)
                found = _opened(cache, key)
    assert found is not None
    return found


def _opened(cache: Path, key: str) -> FeatureStore | None:
    """The finished store with this key, if it exists."""
    index_file, key_file = cache.with_suffix(".index.npy"), cache.with_suffix(".key.json")
    if cache.exists() and index_file.exists() and key_file.exists() and key_file.read_text(encoding="utf-8") == key:
        return FeatureStore(np.load(cache, mmap_mode="r"), np.load(index_file))
    return None


def _make(
    audio_files: Sequence[Path],
    cache: Path,
    key: str,
    num_mel_bins: int | None,
    progress: Callable[[int, int], None] | None,
    as_served: bool,
) -> None:
    """Write the store: features are appended to ``.partial``, then the frames of each file to ``.partial.log``."""
    partial, log = cache.with_suffix(".partial"), cache.with_suffix(".partial.log")
    frames = _frames_done(partial, log, key)
    channels = num_mel_bins or 1
    size = _HEADER_BYTES + 2 * channels * sum(frames)
    if frames and partial.stat().st_size < size:  # the log is ahead of the features: the machine crashed
        frames, size = [], _HEADER_BYTES
    # The log is written again: its last line may have been cut.
    write_text(log, "".join(f"{line}\n" for line in (key, *frames)))
    with partial.open("r+b" if frames else "wb") as sink, log.open("a", encoding="utf-8") as lines:
        if not frames:
            sink.write(_npy_header(0, channels))
        sink.truncate(size)
        sink.seek(0, os.SEEK_END)
        for path in audio_files[len(frames) :]:
            features = features_of(load_audio(path, SAMPLING_RATE), num_mel_bins, as_served)
            sink.write(features.astype(np.float16).tobytes())
            frames.append(len(features))
            if len(frames) % _FLUSH_EVERY == 0:
                sink.flush()
                lines.write("".join(f"{count}\n" for count in frames[-_FLUSH_EVERY:]))
                lines.flush()
            if progress is not None:
                progress(len(frames), len(audio_files))
        sink.seek(0)
        sink.write(_npy_header(sum(frames), channels))
    key_file = cache.with_suffix(".key.json")
    key_file.unlink(missing_ok=True)  # the key is written last: a cache without it is not trusted
    partial.replace(cache)
    np.save(cache.with_suffix(".index.npy"), np.cumsum([0, *frames], dtype=np.int64))
    write_text(key_file, key)
    log.unlink()


def features_of(waveform: np.ndarray, num_mel_bins: int | None, as_served: bool = False) -> np.ndarray:
    """Features of one recording: (frames, mels), or (samples, 1); arguments as of `feature_store`."""
    if num_mel_bins is None or as_served:
        waveform = heard_waveform(waveform)
    if num_mel_bins is None:
        return waveform[:, None]
    return log_mel(waveform, SAMPLING_RATE, num_mel_bins).T.contiguous().numpy()


def heard_waveform(waveform: np.ndarray) -> np.ndarray:
    """The samples (S,) that a model hears of a recording: its speech, at one level; all of it where none is found."""
    speech = find_speech(waveform, SAMPLING_RATE)
    return waveform if speech is None else speech_for_model(waveform, speech)


_HEADER_BYTES, _FLUSH_EVERY = 128, 64
"""Bytes of `_npy_header`; files between two entries of the log (an interruption loses at most these)."""


def _frames_done(partial: Path, log: Path, key: str) -> list[int]:
    """Frames of each file that an interrupted run of the same key has finished."""
    if not partial.exists() or not log.exists():
        return []
    first, *counts = log.read_text(encoding="utf-8").split("\n")
    if first != key:
        return []
    done = [int(count) for count in counts[:-1] if count.isdigit()]  # the last line may be cut
    return done[: len(done) // _FLUSH_EVERY * _FLUSH_EVERY]


def _fingerprint(audio_files: Sequence[Path], num_mel_bins: int | None) -> dict[str, object]:
    digest = hashlib.sha256()
    for path in audio_files:
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return {"files": len(audio_files), "sha256": digest.hexdigest(), "num_mel_bins": num_mel_bins, "hop": HOP}


def _npy_header(frames: int, mels: int) -> bytes:
    """A version 1.0 ``.npy`` header of 128 bytes, for any shape, so that it can be overwritten at the end."""
    text = f"{{'descr': '<f2', 'fortran_order': False, 'shape': ({frames}, {mels}), }}"
    body = text.ljust(128 - 11) + "\n"
    return b"\x93NUMPY\x01\x00" + (len(body)).to_bytes(2, "little") + body.encode("latin1")


@dataclass
class AugmentationConfig:
    """How training features are varied; ranges are symmetric about "unchanged" unless stated otherwise.

    Attributes:
        speed: +- part of the duration. warp: +- part of the mel axis (another vocal tract); warp_wave: of `warp`, how
            much the stretch differs along the axis. blur_bins: greatest smoothing over mel bins (another pitch: fewer
            visible harmonics), for half of the utterances.
        gain_db: +- level. tilt_db: +- slope from the lowest to the highest bin, and of one slow wave over the bins.
        noise_ratio: part of the utterances that get a noise floor; noise_db: its level below the peak (loudest,
            quietest). time_masks: stretches per utterance set to silence; time_mask_s: their longest duration.
        mel_masks: bands per utterance set to its mean; mel_mask_bins: their greatest width.
    """

    speed: float = 0.15
    warp: float = 0.08
    warp_wave: float = 0.0
    blur_bins: float = 0.0
    gain_db: float = 9.0
    tilt_db: float = 8.0
    noise_ratio: float = 0.4
    noise_db: tuple[float, float] = (30.0, 70.0)
    time_masks: int = 0
    time_mask_s: float = 0.06
    mel_masks: int = 0
    mel_mask_bins: int = 8


_DB = 1 / 40
"""One decibel in Whisper's features: log10 of power (10 dB each) over 4."""


def augment(features: Tensor, config: AugmentationConfig, rng: random.Random) -> Tensor:
    """A varied copy of (frames, mels) float32 features: another tempo, vocal tract, microphone and room noise."""
    frames, mels = features.shape
    features = features @ _warp_matrix(mels, config, rng)
    length = max(2, round(frames * (1 + rng.uniform(-config.speed, config.speed))))
    if length != frames and frames > 1:
        position = torch.linspace(0, frames - 1, length)
        below = position.floor().long().clamp_max(frames - 2)
        features = torch.lerp(features[below], features[below + 1], (position - below)[:, None])
    axis = torch.linspace(-0.5, 0.5, mels)
    wave = torch.cos(2 * math.pi * (rng.uniform(0.5, 1.5) * axis + rng.random()))
    curve = rng.uniform(-config.gain_db, config.gain_db) + config.tilt_db * (
        rng.uniform(-1, 1) * axis + 0.5 * rng.uniform(-1, 1) * wave
    )
    features = features + curve * _DB
    if rng.random() < config.noise_ratio:
        level = float(features.max()) - rng.uniform(*config.noise_db) * _DB
        noise = level + rng.uniform(-config.tilt_db, config.tilt_db) * _DB * axis
        # Powers add: a maximum smoothed over about 3 dB, jittered from bin to bin as noise is.
        jitter = torch.randn(features.shape, generator=torch.Generator().manual_seed(rng.getrandbits(63)))
        features = torch.logaddexp(features * 9.21, (noise + 3 * _DB * jitter) * 9.21) / 9.21
    for _ in range(config.time_masks):
        width = int(rng.uniform(0, config.time_mask_s) * MEL_FRAMES_PER_S)
        start = rng.randrange(max(1, len(features) - width))
        features[start : start + width] = features.min()
    for _ in range(config.mel_masks):
        width = rng.randint(0, config.mel_mask_bins)
        start = rng.randrange(max(1, mels - width))
        features[:, start : start + width] = features.mean()
    return features


def _warp_matrix(mels: int, config: AugmentationConfig, rng: random.Random) -> Tensor:
    """(mels, mels): each bin of the result is interpolated between two nearby bins of the source; then blur."""
    axis = torch.arange(mels) / mels
    wave = torch.sin(2 * math.pi * (axis + rng.random()))
    moved = rng.uniform(-1, 1) * axis + rng.uniform(-1, 1) / 8 + config.warp_wave * rng.uniform(-1, 1) * wave
    source = (mels * (axis + config.warp * moved)).clamp(0, mels - 1)
    below = source.floor().long().clamp_max(mels - 2)
    columns = torch.arange(mels)
    matrix = torch.zeros(mels, mels)
    matrix[below, columns] = 1 - (source - below)
    matrix[below + 1, columns] += source - below
    if config.blur_bins and rng.random() < 0.5:
        width = rng.uniform(0.3, max(0.3, config.blur_bins))
        kernel = torch.exp(-0.5 * ((columns[:, None] - columns) / width) ** 2)
        matrix = matrix @ (kernel / kernel.sum(dim=0))
    return matrix


def pad_features(items: Sequence[Tensor], value: float = 0.0) -> tuple[Tensor, Tensor]:
    """List of (frames, mels) -> input_features (A, mels, T) float32 and input_features_mask (A, T) int64."""
    longest = max(len(item) for item in items)
    features = torch.full((len(items), items[0].shape[1], longest), value)
    mask = torch.zeros((len(items), longest), dtype=torch.long)
    for row, item in enumerate(items):
        features[row, :, : len(item)] = item.T
        mask[row, : len(item)] = 1
    return features, mask
