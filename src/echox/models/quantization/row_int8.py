"""Storage of matrices as 8-bit integers with one scale per row: a quarter of float32, for small folders.

Weights are floats again when the folder is loaded. Rounding changes a weight by at most half a step, 1/254 of the
largest weight in its row; docs/model_card_nano.md has its effect on the accuracy of nano.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from echox.models.quantization.group_int4 import MINIMUM, SCALE

SCALE_SUFFIX = ".row_scale"
"""Beside an int8 tensor ``name`` (rows, ...) lies ``name.row_scale`` (rows,) float32."""

_STEPS = 127


def to_row_int8(state: Mapping[str, Tensor], dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """State dict with every floating matrix (two or more dimensions) in 8 bits and the rest in `dtype`.

    Raises:
        ValueError: a matrix holds a value that is not finite.
    """
    stored: dict[str, Tensor] = {}
    for name, value in state.items():
        if name.endswith(SCALE_SUFFIX):  # of a matrix that is in 8 bits already
            stored[name] = value
            continue
        if not value.is_floating_point() or value.ndim < 2 or name.endswith((SCALE, MINIMUM)):
            stored[name] = value.to(dtype) if value.is_floating_point() else value
            continue
        rows = value.float().flatten(1)
        if not bool(torch.isfinite(rows).all()):
            raise ValueError(f"{name}: expected finite weights, found nan or inf: train again from a good checkpoint")
        scale = rows.abs().amax(dim=1) / _STEPS
        steps = (rows / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round()
        stored[name] = steps.to(torch.int8).view(value.shape)
        stored[name + SCALE_SUFFIX] = scale
    return stored


def from_row_int8(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert to floats: the inverse of :func:`to_row_int8` up to rounding; other state dicts are not changed."""
    state: dict[str, Tensor] = {}
    for name, value in stored.items():
        if name.endswith(SCALE_SUFFIX):
            continue
        scale = stored.get(name + SCALE_SUFFIX)
        if scale is not None:
            value = value.float() * scale.view(-1, *[1] * (value.ndim - 1))
        state[name] = value
    return state
