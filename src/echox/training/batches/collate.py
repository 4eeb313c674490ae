"""Padding of items of different lengths to one tensor.

Legend: B batch, L longest item, C channels. The padding values are the same everywhere:

    input_ids               (B, L) int64     pad_token_id, right; with attention_mask (B, L) int64, 1 = real
    labels                  (B, L) int64     -100, ignored by every loss
    word_ids                (B, L) int64     -1: padding, or a token that is not spoken
    units                   (B, L) int64     -1
    durations_frames        (B, L) int64     0
    input_features          (B, C, L) float  0.0, time last; with input_features_mask (B, L) int64
    waveform                (B, L) float     0.0; with waveform_lengths (B,) int64
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

IGNORE_INDEX = -100
"""Label that losses skip (Hugging Face's convention)."""


def pad_sequences(
    items: Sequence[Sequence[int] | torch.Tensor], value: float, dtype: torch.dtype = torch.int64
) -> torch.Tensor:
    """Pad one-dimensional items on the right.

    Args:
        items: Sequences of any lengths; an item may be empty.
        value: What to pad with.
        dtype: Of the result.

    Returns:
        (B, L) tensor.

    Raises:
        ValueError: No items.
    """
    if not items:
        raise ValueError("items: expected at least one item, found none; is the batch empty?")
    padded = torch.full((len(items), max(len(item) for item in items)), value, dtype=dtype)
    for row, item in enumerate(items):
        padded[row, : len(item)] = torch.as_tensor(item, dtype=dtype)
    return padded
