"""Batches: ragged items become padded tensors.

Legend: B batch, L longest item, C channels. What is padded with what is the same everywhere:

    input_ids               (B, L) int64     pad_token_id, right; with attention_mask (B, L) int64, 1 = real
    labels                  (B, L) int64     -100, ignored by every loss
    word_ids                (B, L) int64     -1: padding, or a token that is not spoken
    units                   (B, L) int64     -1
    durations_frames        (B, L) int64     0
    input_features          (B, C, L) float  0.0, time last; with input_features_mask (B, L) bool
    waveform                (B, L) float     0.0; with waveform_lengths (B,) int64
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

IGNORE_INDEX = -100
"""Label that losses skip (Hugging Face's convention)."""


def pad_sequences(
    items: Sequence[Sequence[int] | torch.Tensor], value: float, dtype: torch.dtype = torch.int64, multiple_of: int = 1
) -> torch.Tensor:
    """Pad one-dimensional items on the right.

    Args:
        items: Sequences of any lengths; an item may be empty.
        value: What to pad with.
        dtype: Of the result.
        multiple_of: Round the padded length up, so that fewer shapes occur.

    Returns:
        (B, L) tensor.

    Raises:
        ValueError: No items.
    """
    lengths = [len(item) for item in items]
    padded = torch.full((len(items), _padded_length(lengths, multiple_of)), value, dtype=dtype)
    for row, item in enumerate(items):
        padded[row, : lengths[row]] = torch.as_tensor(item, dtype=dtype)
    return padded


def pad_features(
    items: Sequence[torch.Tensor], value: float = 0.0, multiple_of: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pad items of shape (C, length) on the right, in time.

    Returns:
        The padded (B, C, L) tensor, in the items' dtype, and its mask (B, L) bool, true where real.

    Raises:
        ValueError: No items, or items with different numbers of channels.
    """
    lengths = [item.shape[-1] for item in items]
    length = _padded_length(lengths, multiple_of)
    channels = {item.shape[0] for item in items}
    if len(channels) != 1:
        raise ValueError(f"items: expected one number of channels, found {sorted(channels)}; use one feature extractor")
    padded = items[0].new_full((len(items), channels.pop(), length), value)
    for row, item in enumerate(items):
        padded[row, :, : lengths[row]] = item
    return padded, lengths_to_mask(torch.tensor(lengths), length)


def lengths_to_mask(lengths: torch.Tensor, length: int | None = None) -> torch.Tensor:
    """Return a (B, L) bool mask, true at the first ``lengths[b]`` positions (L: the longest, unless given)."""
    length = int(lengths.max()) if length is None else length
    return torch.arange(length, device=lengths.device)[None, :] < lengths[:, None]


def _padded_length(lengths: Sequence[int], multiple_of: int) -> int:
    if not lengths:
        raise ValueError("items: expected at least one item, found none; is the batch empty?")
    return -(-max(lengths) // multiple_of) * multiple_of
