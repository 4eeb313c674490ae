"""Storage of matrices as 4-bit codes in groups of 32, each group with a scale and a minimum: an eighth of float32.

``weight[i, j] = minimum[i, j // 32] + scale[i, j // 32] * code[i, j]`` with codes 0 to 15. This is form Q4_1 of GGUF
files: weights published so are stored, and computed with, exactly as they are.

Source: https://github.com/ggml-org/ggml/blob/master/src/ggml-quants.c (``quantize_row_q4_1_ref``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32
"""Columns that share a scale and a minimum."""

CODES, SCALE, MINIMUM = "_codes", "_scale", "_minimum"
"""In a state dict ``name_codes``, ``name_scale`` and ``name_minimum`` take the place of ``name``."""

DOWN, UP = "_low_rank_down", "_low_rank_up"
"""Beside them may lie a sum of low rank: ``name_low_rank_up`` (n, r) @ ``name_low_rank_down`` (r, k) is added."""

_LARGEST = 15
_ROWS_AT_ONCE = 256
"""What is rounded at once stays in a CPU's cache."""


@dataclass(frozen=True, eq=False)
class GroupInt4:
    """A matrix (n, k) in 4 bits.

    Attributes:
        codes: uint8 (n, k / 2); the low half of byte j is column 2 j, the high half column 2 j + 1.
        scale: (n, k / 32), float16 where stored.
        minimum: likewise.
    """

    codes: Tensor
    scale: Tensor
    minimum: Tensor

    def columns(self) -> Tensor:
        """The codes as uint8 (n, k)."""
        return torch.stack([self.codes & _LARGEST, self.codes >> 4], -1).flatten(1)

    def floats(self) -> Tensor:
        """The matrix as float32 (n, k)."""
        groups = self.columns().view(*self.scale.shape, GROUP).float()
        return groups.mul_(self.scale.float()[..., None]).add_(self.minimum.float()[..., None]).flatten(1)


def fits(weight: Tensor) -> bool:
    """Whether a tensor can be stored so: a matrix whose width is a multiple of 32."""
    return weight.is_floating_point() and weight.ndim == 2 and weight.shape[1] % GROUP == 0


def to_group_int4(weight: Tensor) -> GroupInt4:
    """Round a matrix (n, k) to 4 bits. A matrix that was in this form before gets the same codes again.

    Raises:
        ValueError: k is no multiple of 32, or a value is not finite.
    """
    if not fits(weight):
        raise ValueError(f"expected a matrix with a multiple of {GROUP} columns, found shape {tuple(weight.shape)}")
    parts = [_rounded(rows.float().unflatten(1, (-1, GROUP))) for rows in weight.detach().split(_ROWS_AT_ONCE)]
    return GroupInt4(*map(torch.cat, zip(*parts, strict=True)))


def _rounded(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, scale and minimum of groups (n, k / 32, 32)."""
    lowest, highest = groups.aminmax(dim=-1)
    if not bool(torch.isfinite(lowest).all() and torch.isfinite(highest).all()):
        raise ValueError("expected finite weights, found nan or inf: train again from a good checkpoint")
    step = (highest - lowest) / _LARGEST
    divisor = torch.where(step > 0, step, torch.ones_like(step))
    codes = ((groups - lowest[..., None]) / divisor[..., None]).round().clamp_(0, _LARGEST).to(torch.uint8).flatten(1)
    return pack_columns(codes), step.half(), lowest.half()


def pack_columns(codes: Tensor) -> Tensor:
    """Codes uint8 (n, k) in half bytes (n, k / 2)."""
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def held_in_int4(state: Mapping[str, Tensor]) -> dict[str, int]:
    """The matrices that a state dict holds in 4 bits: their names, and the rank of the sum beside each."""
    names = [name.removesuffix(CODES) for name in state if name.endswith("weight" + CODES)]
    return {name: state[name + UP].shape[1] if name + UP in state else 0 for name in sorted(names)}


def from_group_int4(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict with floats in place of 4-bit matrices, their sums of low rank added; others are not changed."""
    plain = dict(state)
    for name in held_in_int4(state):
        value = GroupInt4(plain.pop(name + CODES), plain.pop(name + SCALE), plain.pop(name + MINIMUM)).floats()
        if name + UP in plain:
            value += plain.pop(name + UP).float() @ plain.pop(name + DOWN).float()
        plain[name] = value
    return plain
