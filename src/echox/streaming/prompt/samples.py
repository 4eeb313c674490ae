"""Audio samples of other libraries (NumPy, torch; any type and layout) to mono float32 (S,) in [-1, 1]."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import numpy as np

from echox.audio_decoding.downmix import mix_to_mono
from echox.audio_decoding.limits import MAX_CHANNELS
from echox.speech_detection import within_full_scale

if TYPE_CHECKING:
    from torch import Tensor


def is_samples(source: object) -> TypeGuard[np.ndarray | Tensor]:
    """Whether this is a NumPy array or a torch tensor (binary files have ``detach`` too, but no ``dtype``)."""
    return isinstance(source, np.ndarray) or (hasattr(source, "detach") and hasattr(source, "dtype"))


def mono_samples(source: np.ndarray | Tensor) -> np.ndarray:
    """Samples of any type and number of channels as float32 (S,) in [-1, 1].

    Integers of 8, 16 and 32 bits are divided by their full scale. Floats beyond 1 (16-bit values converted to float,
    an overdriven mix) are divided by their peak; the level of a question does not matter.

    Args:
        source: a NumPy array or torch tensor, (S,), (channels, S) as torchaudio has it or (S, channels) as soundfile
            has it.

    Raises:
        ValueError: no samples, more than 8 channels or 2 axes, values that are not numbers or not finite.
    """
    if not isinstance(source, np.ndarray):
        source = source.detach().cpu()
        if source.is_floating_point():
            source = source.float()  # NumPy has no bfloat16
        source = source.numpy()
    samples = _as_floats(source)
    if samples.size == 0:
        raise ValueError("expected audio samples, found none, so no speech; record the question again")
    if not np.isfinite(samples).all():
        raise ValueError("expected finite audio samples, found NaN or infinity; check how they were made")
    if samples.ndim == 1:
        return within_full_scale(samples)
    if samples.ndim != 2 or min(samples.shape) > MAX_CHANNELS:  # a longer second axis cannot be channels
        raise ValueError(
            f"expected samples (S,), or (channels, S) or (S, channels) of at most {MAX_CHANNELS} channels, found shape "
            f"{samples.shape}; pass one recording at a time"
        )
    channels_last = samples.T if samples.shape[0] <= samples.shape[1] else samples
    return mix_to_mono(within_full_scale(channels_last))


def _as_floats(samples: np.ndarray) -> np.ndarray:
    """The same samples as floats; integers of a known full scale in [-1, 1)."""
    if np.issubdtype(samples.dtype, np.floating):
        return samples
    if not np.issubdtype(samples.dtype, np.integer):
        raise ValueError(f"expected float or integer samples, found {samples.dtype}; pass what a decoder returns")
    kind = np.iinfo(samples.dtype)
    if kind.bits > 32:  # no recording has 64-bit samples: these are other values that were converted
        return samples.astype(np.float64)
    middle = 0.0 if kind.min < 0 else 2.0 ** (kind.bits - 1)
    return (samples.astype(np.float64) - middle) / 2.0 ** (kind.bits - 1)
