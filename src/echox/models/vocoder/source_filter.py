"""Source-filter synthesis: pulses and noise, shaped by the envelope of a log-mel spectrum.

Speech is a source (pulses of the vocal folds, or noise) and a slowly changing filter (the vocal tract). Given the
filter as a log-mel envelope, the pitch and the degree of voicing of each frame, no learned weights are needed: each
frame of the source is multiplied by the minimum-phase response of the envelope, and frames are overlapped and added.

Every sample is a function of the frames around it, the pitch phase and its absolute position (the noise is a hash of
the position), so a part of an utterance that is synthesised alone equals the same part of the whole.

Source: source-filter vocoding as in STRAIGHT / WORLD (Morise et al. 2016, https://doi.org/10.1587/transinf.2015EDP7457);
minimum phase by folding the cepstrum (Oppenheim & Schafer, Discrete-Time Signal Processing, section 12.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

PULSE_TAPS = 8
"""Length of the band-limited pulse in samples; it has a flat spectrum at any place between two samples."""

_NOISE_KEYS = (0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35)
_PHASE_GRID = 2.0**34


@dataclass(frozen=True)
class SpectralGeometry:
    """The frequency axis that analysis (`training/stages/voice/acoustics.py`) and synthesis share.

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
        """Frames to the left that a frame depends on: the filter's response and the overlap of windows."""
        return -(-self.fft_size // self.hop_samples) + 1


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # a constant made during evaluation is used in training too
def mel_edges_hz(geometry: SpectralGeometry) -> Tensor:
    """(mels + 2,) float64: lower edge, centres and upper edge of the bands, equally spaced in mel (O'Shaughnessy)."""
    top = 2595.0 * math.log10(1.0 + geometry.sampling_rate / 2 / 700.0)
    mels = torch.linspace(0.0, top, geometry.num_mel_bins + 2, dtype=torch.float64)
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _mel_to_linear(geometry: SpectralGeometry, device: torch.device) -> Tensor:
    """(mels, bins) float32: linear interpolation from band centres to FFT bins, constant beyond the outer centres."""
    centres = mel_edges_hz(geometry)[1:-1].contiguous()
    bins = torch.linspace(0, geometry.sampling_rate / 2, geometry.fft_size // 2 + 1, dtype=torch.float64)
    upper = torch.searchsorted(centres, bins).clamp(1, len(centres) - 1)
    part = ((bins - centres[upper - 1]) / (centres[upper] - centres[upper - 1])).clamp(0, 1)
    weights = torch.zeros(len(centres), len(bins), dtype=torch.float64)
    columns = torch.arange(len(bins))
    weights[upper - 1, columns] = 1 - part
    weights[upper, columns] += part
    return weights.float().to(device)


def position_noise(start: int | Tensor, length: int, device: torch.device | str = "cpu") -> Tensor:
    """White noise of unit power: sample n depends on ``start + n`` alone.

    Args:
        start: absolute position of the first sample, or one for each row (B,) int64.
        length: samples.
        device: where to make it, if `start` is a number.

    Returns:
        (length,) float32, or (B, length) for starts of rows.
    """
    if isinstance(start, Tensor):
        start, device = start[:, None], start.device
    place = torch.arange(1, length + 1, dtype=torch.int64, device=device) + start
    value = (place * _NOISE_KEYS[0]) & 0xFFFFFFFF
    for key, shift in ((_NOISE_KEYS[1], 16), (_NOISE_KEYS[2], 13)):
        value = ((value ^ (value >> shift)) * key) & 0xFFFFFFFF
    value = value ^ (value >> 16)
    return ((value.double() / 2**32 - 0.5) * math.sqrt(12.0)).float()


def pulse_train(
    f0_hz: Tensor, geometry: SpectralGeometry, phase: Tensor | None = None, inside: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pulses of unit power at a pitch that is constant within each frame.

    Args:
        f0_hz: (B, T), positive and well below half the sampling rate.
        geometry: sampling rate and samples of a frame.
        phase: (B,) float64, fraction of the current period at the first sample; None = 0.
        inside: (B, T) bool, frames with sound; in other frames the phase does not change.

    Returns:
        The pulses (B, T * hop) float32, and the phase at each start of a frame and after the last (B, T + 1) float64.
    """
    batch, frames = f0_hz.shape
    hop = geometry.hop_samples
    # In steps of 2^-34 periods a sum of phases is exact in float64, also if it is computed in parts.
    step = (f0_hz.double() * (_PHASE_GRID / geometry.sampling_rate)).round() / _PHASE_GRID  # periods per sample
    step = step.nan_to_num(0.0, 0.0, 0.0)
    if inside is not None:
        step = step * inside
    first = torch.zeros(batch, dtype=torch.float64, device=f0_hz.device) if phase is None else phase.double()
    starts = torch.cat([first[:, None], first[:, None] + (step * hop).cumsum(1)], 1)  # (B, T + 1)
    # The phase within a frame counts from the frame's start, so it does not depend on the frames before.
    starts = starts - starts.floor()
    counts = (starts[:, :-1] + step * hop).floor()  # pulses in each frame
    most = max(int(counts.max()), 1)
    period = torch.arange(1, most + 1, dtype=torch.float64, device=f0_hz.device)
    fires = period <= counts[..., None]  # (B, T, most)
    gone = torch.where(fires, (period - starts[:, :-1, None]) / step.clamp_min(1 / _PHASE_GRID)[..., None], 1.0)
    sample = gone.ceil()  # the pulse falls `sample - gone` before this sample of the frame, counted from 1
    late = (sample - gone).float()[..., None]
    x = late + (torch.arange(PULSE_TAPS, device=f0_hz.device) - PULSE_TAPS // 2)  # (B, T, most, taps)
    kernel = torch.sinc(x) * torch.cos(math.pi / PULSE_TAPS * x).square() * (x.abs() < PULSE_TAPS / 2)
    height = torch.where(fires, step.clamp_min(1 / _PHASE_GRID).rsqrt().float()[..., None], 0.0)
    place = torch.arange(frames, device=f0_hz.device)[:, None] * hop + (sample.long() - 1)
    place = place[..., None] + torch.arange(PULSE_TAPS, device=f0_hz.device)
    pulses = torch.zeros(batch, frames * hop + PULSE_TAPS, device=f0_hz.device)
    pulses.scatter_add_(1, place.view(batch, -1), (height[..., None] * kernel).view(batch, -1))
    pulses = pulses[:, PULSE_TAPS // 2 : PULSE_TAPS // 2 + frames * hop]
    # A pitch that is not finite must show in the output.
    pulses = pulses.unflatten(1, (frames, hop)) + (f0_hz * 0).float()[..., None]
    return (pulses if inside is None else pulses * inside[..., None]).flatten(1), starts


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _window(hop_samples: int, device: torch.device) -> Tensor:
    """(2 * hop,): windows of neighbours, a hop apart, add up to 1."""
    return torch.hann_window(2 * hop_samples, device=device)


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def breath(geometry: SpectralGeometry, from_hz: float, full_hz: float, ratio: float) -> Tensor:
    """Fraction of the power of voiced sound that is in pulses, (bins,): at high frequencies voices are breathy.

    1 up to `from_hz`, then linear to ``1 - ratio`` at `full_hz` and above. Pulses alone sound like buzzing.
    """
    bins = torch.linspace(0, geometry.sampling_rate / 2, geometry.fft_size // 2 + 1)
    return 1 - ratio * ((bins - from_hz) / (full_hz - from_hz)).clamp(0, 1)


def minimum_phase(log_amplitude: Tensor, fft_size: int) -> Tensor:
    """Complex response (..., bins) of modulus ``exp(log_amplitude)`` whose energy is as early as possible."""
    cepstrum = torch.fft.irfft(log_amplitude, fft_size)
    half = fft_size // 2
    folded = torch.cat([cepstrum[..., :1], 2 * cepstrum[..., 1:half], cepstrum[..., half : half + 1]], -1)
    log_response = torch.fft.rfft(folded, fft_size)
    # exp of a complex number by its parts: 5 times faster on CPU than torch's own.
    size, angle = log_response.real.exp(), log_response.imag
    return torch.complex(size * angle.cos(), size * angle.sin())


def synthesise(
    log_mel: Tensor,
    f0_hz: Tensor,
    voicing: Tensor,
    geometry: SpectralGeometry,
    start_frame: int | Tensor = 0,
    phase: Tensor | None = None,
    inside: Tensor | None = None,
    pulse_ratio: Tensor | None = None,
    bands: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Waveform of feature frames.

    A part that starts later than frame 0 needs `SpectralGeometry.context_frames` frames of left context, and two frames
    of right context, to equal the whole; remove them from the result. `synthesise_next` needs no context.

    Args:
        log_mel: (B, T, mels) natural log of the power density of each band (white noise of unit power is 0).
        f0_hz: (B, T) pitch.
        voicing: (B, T) in 0..1, fraction of the power in pulses.
        geometry: the axes of all three.
        start_frame: absolute number of the first frame, or of each row's (B,), for the noise.
        phase: (B,) pitch phase at the first frame, as returned for that frame by an earlier call.
        inside: (B, T) bool, frames with sound, so that a padded row equals the row alone.
        pulse_ratio: (bins,) fraction of the power of voiced sound in pulses (`breath`); None = 1.
        bands: (B, T, 2 * mels) what differs from `pulse_ratio` and from minimum phase in each band: the logit of the
            fraction in pulses is added, and their phase (radians) too; None = nothing.

    Returns:
        Waveform (B, T * hop) float32, and the pitch phases (B, T + 1) float64.
    """
    hop, frames = geometry.hop_samples, f0_hz.shape[1]
    with torch.autocast(log_mel.device.type, enabled=False):  # spectra need float32
        pulses, phases = pulse_train(f0_hz, geometry, phase, inside)
        pulses = torch.nn.functional.pad(pulses, (hop // 2, hop - hop // 2))
        start_frame = torch.as_tensor(start_frame, device=log_mel.device).expand(len(log_mel))
        voicing = voicing.float()
        bands = None if bands is None else bands.float()
        waveform = _overlap_add(log_mel.float(), pulses, voicing, inside, geometry, start_frame, pulse_ratio, bands)
    return waveform[:, hop // 2 : hop // 2 + frames * hop], phases


class SynthesisState(NamedTuple):
    """State of the synthesis between chunks, one row per stream.

    Attributes:
        phase: (B,) float64, pitch phase at the start of the last frame but one.
        frames: (B, 2, channels + mels + 2) float32: bands, log-mel, pitch and voicing of the last two frames.
        tail: (B, fft_size - hop) float32: response of earlier frames in later samples.
    """

    phase: Tensor
    frames: Tensor
    tail: Tensor

    @classmethod
    def begin(cls, geometry: SpectralGeometry, device: torch.device, band_channels: int = 0) -> SynthesisState:
        """State of one row before its first frame; `band_channels` of the `bands` that it will get."""
        return cls(
            torch.zeros(1, dtype=torch.float64, device=device),
            torch.ones(1, 2, band_channels + geometry.num_mel_bins + 2, device=device),
            torch.zeros(1, geometry.fft_size - geometry.hop_samples, device=device),
        )


def synthesise_next(
    log_mel: Tensor,
    f0_hz: Tensor,
    voicing: Tensor,
    geometry: SpectralGeometry,
    state: SynthesisState,
    start_frame: Tensor,
    counts: Tensor | None = None,
    inside: Tensor | None = None,
    pulse_ratio: Tensor | None = None,
    bands: Tensor | None = None,
) -> tuple[Tensor, SynthesisState]:
    """`synthesise` in parts: the output comes one and a half frames later, and each frame is computed once.

    Args:
        log_mel: (B, T, mels) of the new frames, as `synthesise` takes them.
        f0_hz: (B, T) likewise.
        voicing: (B, T) likewise.
        geometry: the axes of all three.
        state: after the frames before.
        start_frame: (B,) absolute number of the first new frame.
        counts: (B,) number of real frames of each row; the rest is padding. None = all.
        inside: (B, 2 + T) bool, which of the last two frames and of the new ones have sound; None = all.
        pulse_ratio: as `synthesise`.
        bands: likewise.

    Returns:
        (B, T * hop) float32, from sample ``start_frame * hop - 3 * hop / 2`` on; and the state after each row's frames.
    """
    hop, new = geometry.hop_samples, log_mel.shape[1]
    with torch.autocast(log_mel.device.type, enabled=False):
        parts = [log_mel.float(), f0_hz.float()[..., None], voicing.float()[..., None]]
        frames = torch.cat(parts if bands is None else [bands.float(), *parts], 2)
        frames = torch.cat([state.frames, frames], 1)  # (B, 2 + T, channels + mels + 2)
        pulses, phases = pulse_train(frames[..., -2], geometry, state.phase, inside)
        pulses = pulses[:, hop // 2 : hop // 2 + (new + 1) * hop]
        sounding = None if inside is None else inside[:, 1:-1]
        if counts is not None:
            real = torch.arange(new, device=log_mel.device) < counts[:, None]
            sounding = real if sounding is None else real & sounding
        channels = 0 if bands is None else bands.shape[2]
        mel, voiced = frames[:, 1:-1, channels:-2], frames[:, 1:-1, -1]
        own = None if bands is None else frames[:, 1:-1, :channels]
        waveform = _overlap_add(mel, pulses, voiced, sounding, geometry, start_frame - 1, pulse_ratio, own)
        waveform[:, : state.tail.shape[1]] += state.tail
    tail = state.tail.shape[1]
    phase = last_of(phases[:, :-2, None], 1, counts)[:, 0, 0]
    response = last_of(waveform[..., None], tail, None if counts is None else counts * hop)[..., 0]
    return waveform[:, : new * hop], SynthesisState(phase, last_of(frames, 2, counts), response)


def last_of(past_and_new: Tensor, length: int, counts: Tensor | None) -> Tensor:
    """(B, length + N, D) -> (B, length, D): the last positions of each row, which has `counts` real ones among N."""
    if counts is None:
        return past_and_new[:, past_and_new.shape[1] - length :]
    place = counts[:, None, None] + torch.arange(length, device=counts.device)[:, None]
    return past_and_new.gather(1, place.expand(-1, -1, past_and_new.shape[2]))


def _overlap_add(
    log_mel: Tensor,
    pulses: Tensor,
    voicing: Tensor,
    inside: Tensor | None,
    geometry: SpectralGeometry,
    start_frame: Tensor,
    pulse_ratio: Tensor | None,
    bands: Tensor | None,
) -> Tensor:
    """Filter the windows of the source, overlap and add them.

    Args:
        log_mel: (B, T, mels) as `synthesise`.
        pulses: (B, (T + 1) * hop), from half a frame before the first frame to half a frame after the last.
        voicing: (B, T) as `synthesise`.
        inside: (B, T) bool, frames with sound; None = all.
        geometry: the frequency axis.
        start_frame: (B,) absolute number of the first frame.
        pulse_ratio: as `synthesise`.
        bands: likewise.

    Returns:
        (B, (T - 1) * hop + fft_size), from half a frame before the first frame.
    """
    frames, hop, fft_size = log_mel.shape[1], geometry.hop_samples, geometry.fft_size
    noise = position_noise(start_frame * hop - hop // 2, (frames + 1) * hop)
    window = _window(hop, log_mel.device)

    def spectra(source: Tensor) -> Tensor:
        return torch.fft.rfft(source.unfold(1, 2 * hop, hop) * window, fft_size)  # (B, T, bins)

    voicing, buzz = voicing.clamp(0, 1)[..., None], spectra(pulses)
    if bands is not None:
        voicing, phase = _in_bands(voicing, pulse_ratio, bands, geometry)
        buzz = buzz * torch.complex(phase.cos(), phase.sin())
    elif pulse_ratio is not None:
        voicing = voicing * pulse_ratio.to(voicing)
    source = buzz * voicing.sqrt() + spectra(noise) * (1 - voicing).sqrt()
    if inside is not None:
        source = source * inside[..., None]
    response = minimum_phase(0.5 * log_mel @ _mel_to_linear(geometry, log_mel.device), fft_size)
    pieces = torch.fft.irfft(source * response, fft_size)  # (B, T, fft_size)
    length = (frames - 1) * hop + fft_size
    waveform = torch.nn.functional.fold(pieces.transpose(1, 2), (1, length), (1, fft_size), stride=(1, hop))
    return waveform[:, 0, 0]


def _in_bands(
    voicing: Tensor, pulse_ratio: Tensor | None, bands: Tensor, geometry: SpectralGeometry
) -> tuple[Tensor, Tensor]:
    """Fraction in pulses and their phase, (B, T, bins), of voicing (B, T, 1) and `bands`; see `synthesise`."""
    logit, phase = (part @ _mel_to_linear(geometry, bands.device) for part in bands.chunk(2, -1))
    usual = torch.ones_like(voicing) if pulse_ratio is None else pulse_ratio.to(voicing)
    ratio = torch.sigmoid(logit + usual.clamp(0.02, 0.98).logit())
    return (voicing * ratio).clamp(1e-8, 1 - 1e-6), phase  # square roots have no gradient at 0
