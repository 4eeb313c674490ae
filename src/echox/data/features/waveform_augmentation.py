"""Training waveforms varied: another tempo and pitch, microphone, level and room noise.

The same settings as for log-mel features (`AugmentationConfig`), as far as they mean something for a waveform.
"""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

from echox.data.features.corpus_features import SAMPLING_RATE, AugmentationConfig

_TILT_TAPS = 65
_FRAME_S = 0.02
_LEAST_LEVEL = 1e-4


def augment_waveform(samples: Tensor, config: AugmentationConfig, rng: random.Random) -> Tensor:
    """A varied copy of samples (S,) at 16 kHz; `warp`, `blur_bins` and `mel_masks` do nothing here.

    Tempo and pitch change together, as when a tape runs faster.
    """
    speed = 1 + rng.uniform(-config.speed, config.speed)
    length = max(2, round(len(samples) / speed))
    varied = F.interpolate(samples[None, None], size=length, mode="linear", align_corners=True)[0, 0]
    varied = _tilted(varied, rng.uniform(-config.tilt_db, config.tilt_db))
    varied = varied * 10 ** (rng.uniform(-config.gain_db, config.gain_db) / 20)
    if rng.random() < config.noise_ratio:
        noise = torch.randn(length, generator=torch.Generator().manual_seed(rng.getrandbits(63)))
        level = max(_loudest(varied), _LEAST_LEVEL) * 10 ** (-rng.uniform(*config.noise_db) / 20)
        varied = varied + level * _tilted(noise, rng.uniform(-config.tilt_db, config.tilt_db))
    for _ in range(config.time_masks):
        width = int(rng.uniform(0, config.time_mask_s) * SAMPLING_RATE)
        start = rng.randrange(max(1, length - width))
        varied[start : start + width] = 0.0
    return varied.clamp(-1.0, 1.0)


def _tilted(samples: Tensor, tilt_db: float) -> Tensor:
    """Samples (S,) through a filter whose gain rises by ``tilt_db`` from 0 Hz to half the sampling rate."""
    gain = 10 ** (torch.linspace(-0.5, 0.5, _TILT_TAPS // 2 + 1) * tilt_db / 20)
    taps = torch.fft.irfft(gain, _TILT_TAPS).roll(_TILT_TAPS // 2) * torch.hann_window(_TILT_TAPS, periodic=False)
    return F.conv1d(samples[None, None], taps[None, None], padding=_TILT_TAPS // 2)[0, 0]


def _loudest(samples: Tensor) -> float:
    """Root mean square of the loudest fiftieth of a second."""
    frame = min(len(samples), int(_FRAME_S * SAMPLING_RATE))
    power = F.avg_pool1d(samples.square()[None], frame)[0]
    return math.sqrt(float(power.max()))
