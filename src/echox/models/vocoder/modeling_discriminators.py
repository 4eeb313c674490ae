"""Discriminators of adversarial vocoder training: over periods, over scales and over spectrograms.

Source: Kong et al. 2020 (arXiv 2010.05646), section 2.3 (periods), Kumar et al. 2019 (arXiv 1910.06711; scales) and
Jang et al. 2021 (arXiv 2106.07889; spectrograms of several resolutions).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

SLOPE = 0.1


@dataclass
class Judgement:
    """Output of one discriminator for a batch of waveforms: score (B, N), and inner features for feature matching."""

    score: Tensor
    features: list[Tensor]


class PeriodDiscriminator(nn.Module):
    """Compares every `period`-th sample: the waveform folded to an image of that width, convolved along its height."""

    def __init__(self, period: int, channels: list[int]) -> None:
        super().__init__()
        self.period = period
        widths = [1, *channels]
        last = len(channels) - 1
        self.layers = nn.ModuleList(
            parametrizations.weight_norm(
                nn.Conv2d(widths[i], widths[i + 1], (5, 1), (1 if i == last else 3, 1), padding=(2, 0))
            )
            for i in range(len(channels))
        )
        self.score = parametrizations.weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge (B, S)."""
        missing = -waveform.shape[1] % self.period
        hidden = nn.functional.pad(waveform[:, None], (0, missing), mode="reflect")
        hidden = hidden.view(len(waveform), 1, -1, self.period)
        return _judge(hidden, self.layers, self.score)


class ScaleDiscriminator(nn.Module):
    """Long, grouped convolutions over the waveform.

    Args:
        channels: of the first layer; they double three times.
        spectral: normalise weights by their spectrum instead of their length (at the finest scale).
    """

    def __init__(self, channels: int, spectral: bool) -> None:
        super().__init__()
        normalise = parametrizations.spectral_norm if spectral else parametrizations.weight_norm
        c = channels  # (in, out, kernel, stride, groups)
        plan = [
            (1, c, 15, 1, 1),
            (c, c, 41, 2, 4),
            (c, 2 * c, 41, 2, 16),
            (2 * c, 4 * c, 41, 4, 16),
            (4 * c, 8 * c, 41, 4, 16),
            (8 * c, 8 * c, 41, 1, 16),
            (8 * c, 8 * c, 5, 1, 1),
        ]
        self.layers = nn.ModuleList(
            normalise(nn.Conv1d(i, o, k, s, groups=g, padding=k // 2)) for i, o, k, s, g in plan
        )
        self.score = normalise(nn.Conv1d(8 * c, 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge (B, S)."""
        return _judge(waveform[:, None], self.layers, self.score)


class SpectrogramDiscriminator(nn.Module):
    """Convolutions over time and frequency of the log-magnitude spectrogram of one resolution.

    Args:
        fft_size: of its Hann windows, a quarter of which they are apart. channels: of all layers.
    """

    def __init__(self, fft_size: int, channels: int) -> None:
        super().__init__()
        self.fft_size = fft_size
        plan = [(1, (3, 9), (1, 2)), *[(channels, (3, 9), (1, 2))] * 2, (channels, (3, 3), (1, 1))]
        self.layers = nn.ModuleList(
            parametrizations.weight_norm(
                nn.Conv2d(width, channels, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2))
            )
            for width, kernel, stride in plan
        )
        self.score = parametrizations.weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, waveform: Tensor) -> Judgement:
        """Judge (B, S), S at least `fft_size`."""
        with torch.autocast(waveform.device.type, enabled=False):  # spectra need float32
            frames = waveform.float().unfold(1, self.fft_size, self.fft_size // 4)
            window = torch.hann_window(self.fft_size, device=waveform.device)
            power = torch.view_as_real(torch.fft.rfft(frames * window)).square().sum(-1) / window.square().sum()
            hidden = 0.25 * (power + 1e-7).log() + 2  # about -2..2
        return _judge(hidden[:, None], self.layers, self.score)


class VocoderDiscriminators(nn.Module):
    """All of them: one for each period, one for each halving of the sampling rate, one for each FFT size.

    Args:
        periods: of the period discriminators, best without common factors. period_channels: of their layers.
        scales: number of scale discriminators. scale_channels: of their first layer, a multiple of 16.
        resolutions: FFT sizes of the spectrogram discriminators. resolution_channels: of their layers.

    Raises:
        ValueError: `scale_channels` that the groups of 16 do not divide.
    """

    def __init__(
        self,
        periods: tuple[int, ...] = (2, 3, 5, 7, 11),
        period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024),
        scales: int = 3,
        scale_channels: int = 128,
        resolutions: tuple[int, ...] = (),
        resolution_channels: int = 32,
    ) -> None:
        super().__init__()
        if scale_channels % 16:
            raise ValueError(f"scale_channels: expected a multiple of 16, found {scale_channels}")
        self.periods = nn.ModuleList(PeriodDiscriminator(period, list(period_channels)) for period in periods)
        self.scales = nn.ModuleList(ScaleDiscriminator(scale_channels, spectral=i == 0) for i in range(scales))
        self.resolutions = nn.ModuleList(SpectrogramDiscriminator(size, resolution_channels) for size in resolutions)

    def forward(self, waveform: Tensor) -> list[Judgement]:
        """Judge (B, S), S larger than the largest period and FFT size."""
        judgements = [discriminator(waveform) for discriminator in [*self.periods, *self.resolutions]]
        for number, discriminator in enumerate(self.scales):
            if number:
                waveform = nn.functional.avg_pool1d(waveform[:, None], 4, 2, padding=2)[:, 0]
            judgements.append(discriminator(waveform))
        return judgements


def discriminator_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """Least squares: recordings should score 1, made waveforms 0. Sum over discriminators, mean over positions."""
    pairs = zip(real, made, strict=True)
    return torch.stack([(1 - r.score).square().mean() + m.score.square().mean() for r, m in pairs]).sum()


def adversarial_loss(made: list[Judgement]) -> Tensor:
    """Least squares: the generator learns to reach a score of 1."""
    return torch.stack([(1 - m.score).square().mean() for m in made]).sum()


def feature_matching_loss(real: list[Judgement], made: list[Judgement]) -> Tensor:
    """Mean absolute difference of inner features, summed over layers and discriminators (no gradient to `real`)."""
    differences = [
        (recorded.detach() - generated).abs().mean()
        for r, m in zip(real, made, strict=True)
        for recorded, generated in zip(r.features, m.features, strict=True)
    ]
    return torch.stack(differences).sum()


def _judge(hidden: Tensor, layers: nn.ModuleList, score: nn.Module) -> Judgement:
    features = []
    for layer in layers:
        hidden = nn.functional.leaky_relu(layer(hidden), SLOPE)
        features.append(hidden)
    hidden = score(hidden)
    return Judgement(hidden.flatten(1), [*features, hidden])
