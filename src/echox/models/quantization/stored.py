"""How the weights of a folder are stored: as floats, in 8 bits (`row_int8.py`) or in 4 bits (`group_int4.py`).

What is in 4 bits in memory is stored so: it is the smallest form, and the same codes come back. Whoever reads a folder
gets floats where it has 8 bits; codes stay, and `from_group_int4` turns them into floats for who cannot use them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from echox.models.quantization.group_int4 import CODES, from_group_int4
from echox.models.quantization.row_int8 import SCALE_SUFFIX, from_row_int8, to_row_int8


def holds_few_bits(file: Path) -> bool:
    """Whether a safetensors file has matrices in 8 or 4 bits; reads its header only."""
    return _holds(file, (SCALE_SUFFIX, "weight" + CODES))


def holds_group_int4(file: Path) -> bool:
    """Whether a safetensors file has matrices in 4 bits; reads its header only."""
    return _holds(file, ("weight" + CODES,))


def _holds(file: Path, endings: tuple[str, ...]) -> bool:
    if not file.is_file():
        return False
    with safe_open(file, framework="pt") as content:
        return any(name.endswith(endings) for name in content.keys())  # noqa: SIM118 - not a dict


def read_weights(file: Path) -> dict[str, Tensor]:
    """The weights of a safetensors file: floats in place of 8 bits, matrices in 4 bits as they are."""
    return from_row_int8(load_file(file))


def to_stored(state: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """A state dict as it is written.

    Args:
        state: of a model; its matrices may be in 8 or 4 bits.
        dtype: a type of floats, which all floats then have, those in few bits included; int8: matrices in 8 bits, but
            those in 4 bits stay so; None: as they are.

    Raises:
        ValueError: another type, or weights in 8 bits that are not finite.
    """
    if dtype is None:
        return dict(state)
    if dtype == torch.int8:
        return to_row_int8(state)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a type of floats, torch.int8 or None, found {dtype}")
    floats = from_group_int4(from_row_int8(state))
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in floats.items()}
