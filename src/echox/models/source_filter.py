"""An analytic voice: pulses and noise, shaped by the envelope of a log-mel spectrum.

Speech is a source (pulses of the vocal folds, or noise) through a slowly moving filter (the mouth). Given the filter as
a log-mel envelope, the pitch and the degree of voicing of each frame, the waveform follows without any learning: each
frame of the source is multiplied by the minimum-phase response of the envelope and the frames are overlapped and added.

Every sample is a function of the frames around it, the pitch phase and its absolute position (the noise is a hash of
the position), so a part of an utterance synthesised on its own equals the same part of the whole.

Source: source-filter vocoding as in STRAIGHT / WORLD (Morise et al. 2016, https://doi.org/10.1587/transinf.2015EDP7457);
minimum phase by folding the cepstrum (Oppenheim & Schafer, Discrete-Time Signal Processing, section 12.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

PULSE_TAPS = 8
"""Length of the band-limited pulse in samples: it places a pulse between samples at a flat spectrum."""

_NOISE_KEYS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)


@dataclass(frozen=True)
class SpectralGeometry:
    """The frequency axis that analysis (`data/acoustics.py`) and synthesis share.

    Attributes:
        sampling_rate: Hz. hop_samples: samples of a feature frame. fft_size: also bounds the filter's response.
        num_mel_bins: bands of the envelope, from 0 Hz to half the sampling rate.
    """

    sampling_rate: int = 16000
    hop_samples: int = 160
    fft_size: int = 1024
    num_mel_bins: int = 80

    @property
    def context_frames(self) -> int:
        """Frames to the left that still sound in a frame: the filter's response and the overlap of windows."""
        return -(-self.fft_size // self.hop_samples) + 1


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a constant made during evaluation must serve training too
def mel_edges_hz(geometry: SpectralGeometry) -> Tensor:
    """(mels + 2,) float64: lower edge, centres and upper edge of the bands, equally spaced in mel (O'Shaughnessy)."""
    top = 2595.0 * math.log10(1.0 + geometry.sampling_rate / 2 / 700.0)
    mels = torch.linspace(0.0, top, geometry.num_mel_bins + 2, dtype=torch.float64)
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _mel_to_linear(geometry: SpectralGeometry) -> Tensor:
    """(mels, bins) float32: linear interpolation from band centres to FFT bins, constant beyond the outer centres."""
    centres = mel_edges_hz(geometry)[1:-1].contiguous()
    bins = torch.linspace(0, geometry.sampling_rate / 2, geometry.fft_size // 2 + 1, dtype=torch.float64)
    upper = torch.searchsorted(centres, bins).clamp(1, len(centres) - 1)
    part = ((bins - centres[upper - 1]) / (centres[upper] - centres[upper - 1])).clamp(0, 1)
    weights = torch.zeros(len(centres), len(bins), dtype=torch.float64)
    columns = torch.arange(len(bins))
    weights[upper - 1, columns] = 1 - part
    weights[upper, columns] += part
    return weights.float()


def position_noise(start: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """White noise of unit power, (length,) float32: sample n depends on ``start + n`` alone."""
    place = torch.arange(start + 1, start + length + 1, dtype=torch.int64, device=device)
    value = (place * _NOISE_KEYS[0]) & 0xFFFFFFFF
    for key, shift in ((_NOISE_KEYS[1], 16), (_NOISE_KEYS[2], 13)):
        value = ((value ^ (value >> shift)) * key) & 0xFFFFFFFF
    value = value ^ (value >> 16)
    return ((value.double() / 2**32 - 0.5) * math.sqrt(12.0)).float()


def pulse_train(f0_hz: Tensor, geometry: SpectralGeometry, phase: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pulses of unit power at a pitch that is constant within each frame.

    Args:
        f0_hz: (B, T), positive and well below half the sampling rate.
        geometry: sampling rate and samples of a frame.
        phase: (B,) float64, the part of a period already gone at the first sample; None = 0.

    Returns:
        The pulses (B, T * hop) float32, and the phase at each start of a frame and after the last (B, T + 1) float64.
    """
    batch, frames = f0_hz.shape
    hop = geometry.hop_samples
    step = f0_hz.double() / geometry.sampling_rate  # periods per sample
    first = torch.zeros(batch, dtype=torch.float64, device=f0_hz.device) if phase is None else phase.double()
    starts = torch.cat([first[:, None], first[:, None] + (step * hop).cumsum(1)], 1)  # (B, T + 1)
    # In-frame phase from the frame's own start: the same numbers whatever came before.
    starts = starts - starts.floor()
    within = starts[:, :-1, None] + step[:, :, None] * torch.arange(1, hop + 1, device=f0_hz.device)  # (B, T, hop)
    before = within - step[:, :, None]
    fires = (within.floor() > before.floor()).reshape(batch, -1)
    late = ((within - within.floor()) / step[:, :, None]).reshape(batch, -1).float()  # samples since the pulse
    height = torch.where(fires, step.rsqrt().float().repeat_interleave(hop, 1), 0.0)
    pulses = height.new_zeros(batch, frames * hop + PULSE_TAPS)
    for tap in range(PULSE_TAPS):
        x = late + (tap - PULSE_TAPS // 2)
        kernel = torch.sinc(x) * torch.cos(math.pi / PULSE_TAPS * x).square() * (x.abs() < PULSE_TAPS / 2)
        pulses[:, tap : tap + frames * hop] += height * kernel
    return pulses[:, PULSE_TAPS // 2 : PULSE_TAPS // 2 + frames * hop], starts


def breath(geometry: SpectralGeometry, from_hz: float, full_hz: float, ratio: float) -> Tensor:
    """Part of the power of voiced sound that is pulses, (bins,): voices are breathy where the frequency is high.

    1 up to `from_hz`, falling evenly to ``1 - ratio`` at `full_hz` and beyond. Pulses alone buzz.
    """
    bins = torch.linspace(0, geometry.sampling_rate / 2, geometry.fft_size // 2 + 1)
    return 1 - ratio * ((bins - from_hz) / (full_hz - from_hz)).clamp(0, 1)


def minimum_phase(log_amplitude: Tensor, fft_size: int) -> Tensor:
    """Complex response (..., bins) of modulus ``exp(log_amplitude)`` whose energy comes as early as possible."""
    cepstrum = torch.fft.irfft(log_amplitude, fft_size)
    half = fft_size // 2
    folded = torch.cat([cepstrum[..., :1], 2 * cepstrum[..., 1:half], cepstrum[..., half : half + 1]], -1)
    return torch.exp(torch.fft.rfft(folded, fft_size))


def synthesise(
    log_mel: Tensor,
    f0_hz: Tensor,
    voicing: Tensor,
    geometry: SpectralGeometry,
    start_frame: int = 0,
    phase: Tensor | None = None,
    inside: Tensor | None = None,
    pulse_ratio: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Waveform of feature frames.

    A part that starts later than frame 0 needs `SpectralGeometry.context_frames` frames of left context, and one frame
    of right context, to equal the whole: cut them off the result.

    Args:
        log_mel: (B, T, mels) natural log of the power density of each band (white noise of unit power is 0).
        f0_hz: (B, T) pitch.
        voicing: (B, T) in 0..1, part of the power that is pulses.
        geometry: the axes of all three.
        start_frame: absolute place of the first frame: the key of the noise.
        phase: (B,) pitch phase at the first frame, as returned for that frame by an earlier call.
        inside: (B, T) bool, frames that sound: a row padded with others sounds as the row alone.
        pulse_ratio: (bins,) part of the power of voiced sound that is pulses (`breath`); None = all of it.

    Returns:
        Waveform (B, T * hop) float32, and the pitch phases (B, T + 1) float64.
    """
    with torch.autocast(log_mel.device.type, enabled=False):  # spectra need float32
        return _synthesise(log_mel.float(), f0_hz, voicing.float(), geometry, start_frame, phase, inside, pulse_ratio)


def _synthesise(
    log_mel: Tensor,
    f0_hz: Tensor,
    voicing: Tensor,
    geometry: SpectralGeometry,
    start_frame: int,
    phase: Tensor | None,
    inside: Tensor | None,
    pulse_ratio: Tensor | None,
) -> tuple[Tensor, Tensor]:
    batch, frames, _ = log_mel.shape
    hop, fft_size = geometry.hop_samples, geometry.fft_size
    pulses, phases = pulse_train(f0_hz, geometry, phase)
    if inside is not None:
        pulses = pulses * inside.repeat_interleave(hop, 1)
    noise = position_noise(start_frame * hop - hop // 2, (frames + 1) * hop, log_mel.device).expand(batch, -1)
    pulses = torch.nn.functional.pad(pulses, (hop // 2, hop - hop // 2))
    window = torch.hann_window(2 * hop, device=log_mel.device)  # windows of neighbours add up to 1

    def spectra(source: Tensor) -> Tensor:
        return torch.fft.rfft(source.unfold(1, 2 * hop, hop) * window, fft_size)  # (B, T, bins)

    voicing = voicing.clamp(0, 1)[..., None]
    if pulse_ratio is not None:
        voicing = voicing * pulse_ratio.to(voicing)
    source = spectra(pulses) * voicing.sqrt() + spectra(noise) * (1 - voicing).sqrt()
    if inside is not None:
        source = source * inside[..., None]
    response = minimum_phase(0.5 * log_mel @ _mel_to_linear(geometry).to(log_mel.device), fft_size)
    pieces = torch.fft.irfft(source * response, fft_size)  # (B, T, fft_size)
    length = (frames - 1) * hop + fft_size
    waveform = torch.nn.functional.fold(pieces.transpose(1, 2), (1, length), (1, fft_size), stride=(1, hop))
    return waveform[:, 0, 0, hop // 2 : hop // 2 + frames * hop], phases
