"""Acoustic targets of the light vocoder: spectral envelope, pitch and voicing of recorded speech.

The envelope is freed from the harmonics of the voice by smoothing the power spectrum, so that filtering a pulse train
with it (`models/vocoder/source_filter.py`) gives the recording back. Pitch is the strongest peak of the
autocorrelation of the low-passed signal, corrected for the window.

Source: Boersma 1993, "Accurate short-term analysis of the fundamental frequency" (autocorrelation of the windowed
signal divided by that of the window; octave cost).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from echox.models.vocoder.source_filter import SpectralGeometry, mel_edges_hz

LOG_FLOOR = -16.0
"""Least log power density (0 for a signal of unit power); less is silence."""

_PITCH_FFT = 2048


@dataclass(frozen=True)
class AnalysisConfig:
    """How recordings are analysed.

    Attributes:
        window_samples: of the envelope. smoothing_hz: width of the smoothing over frequency, below the lowest pitch.
        f0_min_hz, f0_max_hz: range of the voice; the narrower, the fewer octave errors.
        pitch_window_s: holds at least two periods of the lowest pitch. voicing_threshold: periodicity (0..1) of a
            voiced frame. octave_cost: subtracted from a candidate for each octave below `f0_max_hz`.
        silence: mean power below which a frame is never voiced.
    """

    window_samples: int = 400
    smoothing_hz: float = 120.0
    f0_min_hz: float = 100.0
    f0_max_hz: float = 300.0
    pitch_window_s: float = 0.04
    voicing_threshold: float = 0.45
    octave_cost: float = 0.02
    silence: float = 1e-6

    def __post_init__(self) -> None:
        """Raises: ValueError if the pitch range is empty or its window holds less than two of the longest periods."""
        if not 0 < self.f0_min_hz < self.f0_max_hz:
            raise ValueError(f"f0_min_hz, f0_max_hz: expected 0 < min < max, found {self.f0_min_hz}, {self.f0_max_hz}")
        if self.pitch_window_s * self.f0_min_hz < 2:
            raise ValueError(
                f"pitch_window_s: expected at least two periods of f0_min_hz ({2 / self.f0_min_hz:.3f} s), found "
                f"{self.pitch_window_s}: widen the window or raise f0_min_hz"
            )


@dataclass(frozen=True)
class AcousticTargets:
    """Per frame of an utterance: log_mel (T, mels), f0_hz (T,) (meaningful where voiced), voiced (T,) bool."""

    log_mel: Tensor
    f0_hz: Tensor
    voiced: Tensor


def acoustic_targets(waveform: Tensor, geometry: SpectralGeometry, config: AnalysisConfig) -> AcousticTargets:
    """Envelope, pitch and voicing of a waveform (S,): ``S // hop`` frames, frame i centred on its own samples."""
    f0_hz, periodicity = pitch(waveform, geometry, config)
    return AcousticTargets(envelope(waveform, geometry, config), f0_hz, periodicity > config.voicing_threshold)


def envelope(waveform: Tensor, geometry: SpectralGeometry, config: AnalysisConfig) -> Tensor:
    """(..., S) -> (..., T, mels): natural log of the smoothed power density, 0 for white noise of unit power."""
    window = torch.hann_window(config.window_samples, device=waveform.device)
    spectrum = torch.fft.rfft(_frames(waveform, config.window_samples, geometry) * window, geometry.fft_size)
    power = spectrum.abs().square() / window.square().sum()
    return (power @ _envelope_filters(geometry, config.smoothing_hz).to(power)).log().clamp_min(LOG_FLOOR)


def pitch(waveform: Tensor, geometry: SpectralGeometry, config: AnalysisConfig) -> tuple[Tensor, Tensor]:
    """Pitch (T,) in Hz and periodicity (T,) (0 where silent or without a candidate; about 1 for a steady tone)."""
    rate = geometry.sampling_rate
    size = round(config.pitch_window_s * rate)
    frames = _frames(waveform, size, geometry)
    frames = frames - frames.mean(1, keepdim=True)
    window = torch.hann_window(size)
    power = torch.fft.rfft(frames * window, _PITCH_FFT).abs().square()
    frequency = torch.linspace(0, rate / 2, _PITCH_FFT // 2 + 1)
    low_pass = 1 - ((frequency - 1500) / 500).clamp(0, 1)  # formants above do not pull the peaks
    shortest, longest = int(rate / config.f0_max_hz), int(rate / config.f0_min_hz) + 1
    correlation = torch.fft.irfft(power * low_pass, _PITCH_FFT)[:, : longest + 2]
    own = torch.fft.irfft(torch.fft.rfft(window, _PITCH_FFT).abs().square(), _PITCH_FFT)[: longest + 2]
    correlation = correlation / correlation[:, :1].clamp_min(1e-9) / (own / own[0])
    inner = correlation[:, shortest : longest + 1]
    is_peak = (inner >= correlation[:, shortest - 1 : longest]) & (inner > correlation[:, shortest + 1 : longest + 2])
    lags = torch.arange(shortest, longest + 1)
    score = torch.where(is_peak, inner - config.octave_cost * torch.log2(lags / shortest), -1.0)
    best, choice = score.max(1)
    row, lag = torch.arange(len(choice)), choice + shortest
    left, peak, right = correlation[row, lag - 1], correlation[row, lag], correlation[row, lag + 1]
    offset = 0.5 * (left - right) / (left - 2 * peak + right).clamp_max(-1e-6)  # vertex of the parabola
    loud = frames.square().mean(1) > config.silence
    return rate / (lag + offset.clamp(-0.5, 0.5)), torch.where(loud & (best > -1), peak, 0.0)


def log_spectral_distance_db(
    waveform: Tensor, reference: Tensor, geometry: SpectralGeometry, config: AnalysisConfig, range_db: float = 50.0
) -> float:
    """Mean absolute difference of two envelopes in dB, over the frames of the reference (S,) that are not silent.

    Bands more than `range_db` below the loudest of the reference count as that much below. The longer of the two
    waveforms is cut.
    """
    length = min(len(waveform), len(reference))
    pair = torch.stack([reference[:length], waveform[:length]])
    wanted_db, found_db = envelope(pair, geometry, config) * (10 / math.log(10))
    floor_db = wanted_db.max() - range_db
    audible = wanted_db.amax(1) > floor_db
    return float((found_db.clamp_min(floor_db) - wanted_db.clamp_min(floor_db)).abs()[audible].mean())


def _frames(waveform: Tensor, size: int, geometry: SpectralGeometry) -> Tensor:
    """(..., T, size) windows centred on the frames of a waveform (..., S), T = S // hop."""
    left = size // 2 - geometry.hop_samples // 2
    padded = torch.nn.functional.pad(waveform, (left, size))
    return padded.unfold(-1, size, geometry.hop_samples)[..., : waveform.shape[-1] // geometry.hop_samples, :]


@lru_cache(maxsize=4)
@torch.inference_mode(False)  # a constant made during evaluation must serve training too
def _envelope_filters(geometry: SpectralGeometry, smoothing_hz: float) -> Tensor:
    """(bins, mels): a box over frequency (reflected at the ends), then triangular mel bands, each of unit sum."""
    bins = geometry.fft_size // 2 + 1
    frequency = torch.linspace(0, geometry.sampling_rate / 2, bins, dtype=torch.float64)
    edges = mel_edges_hz(geometry)
    rising = (frequency[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency[:, None]) / (edges[2:] - edges[1:-1])
    bands = torch.minimum(rising, falling).clamp_min(0)
    half = round(smoothing_hz / geometry.sampling_rate * geometry.fft_size / 2)
    box = torch.zeros(bins, bins, dtype=torch.float64)
    for offset in range(-half, half + 1):
        source = (torch.arange(bins) + offset).abs()
        source = torch.where(source > bins - 1, 2 * (bins - 1) - source, source)
        box.index_put_((source, torch.arange(bins)), torch.tensor(1.0, dtype=torch.float64), accumulate=True)
    filters = box @ bands
    return (filters / filters.sum(0).clamp_min(1e-12)).float() + 1e-12
