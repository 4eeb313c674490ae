"""Mixes several channels to one, without losing speech in any of them."""

from __future__ import annotations

import numpy as np

_CANCELLED = 0.5  # of the energy that unrelated channels would leave in their mean


def mix_to_mono(channels: np.ndarray) -> np.ndarray:
    """Mix samples ``(S, C)`` to ``(S,)`` float32: their mean, or one channel if the mean would cancel them.

    One microphone wired with the wrong polarity gives left = -right, whose mean is silence. The mean of C unrelated
    channels of energy E each holds E / C. Where less than half of that is left, the channels cancel each other, and
    the one with the most energy is taken instead (the first of equals).

    Args:
        channels: float samples, at least one channel; S may be 0.

    Raises:
        ValueError: not a two-dimensional array with at least one channel.
    """
    if channels.ndim != 2 or channels.shape[1] == 0:
        raise ValueError(f"expected samples (S, C) with at least one channel, found shape {channels.shape}")
    count = channels.shape[1]
    if count == 1 or len(channels) == 0:
        return np.ascontiguousarray(channels[:, 0], dtype=np.float32)
    mean = channels.mean(axis=1, dtype=np.float32)
    # Without the offsets of the converters: a constant is not sound.
    energies = channels.var(axis=0, dtype=np.float64)
    if mean.var(dtype=np.float64) < _CANCELLED * energies.mean() / count:
        return np.ascontiguousarray(channels[:, int(energies.argmax())], dtype=np.float32)
    return mean
