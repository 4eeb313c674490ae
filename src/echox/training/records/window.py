"""What a log entry says of the steps since the one before: means, amounts a second, padding, arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

_TEXT = ("text_tokens", "text_positions")
_AMOUNTS = ("items", "length", *_TEXT, "operations")
"""Of a step, for figures of the window; they are no figures themselves."""


def text_of(batches: Sequence[Mapping[str, object]]) -> dict[str, float]:
    """Text tokens of a step's batches, and positions with their padding, where the batches say so."""
    masks: list[Tensor] = []
    for batch in batches:
        inner = batch.get("s2t", batch)
        mask = inner.get("attention_mask") if isinstance(inner, Mapping) else None
        masks += [mask] if isinstance(mask, Tensor) else []
    found = [sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)]
    return dict(zip(_TEXT, map(float, found), strict=True)) if masks else {}


def sums_of(
    window: Sequence[Mapping[str, float]], world: int, device: torch.device
) -> tuple[dict[str, float], dict[str, float]]:
    """Sums of the figures of the window's steps in all processes, and in how many steps each figure was; loss first."""
    found: set[str] = set().union(*window)
    if world > 1:  # a part of the loss that only some batches have may be missing in one process
        everyone: list[set[str]] = [set() for _ in range(world)]
        dist.all_gather_object(everyone, found)
        found = found.union(*everyone)
    names = sorted(found, key=lambda name: (name != "loss", name))
    sums = torch.tensor([sum(step.get(name, 0.0) for step in window) for name in names], dtype=torch.float64)
    counts = torch.tensor([sum(name in step for step in window) for name in names], dtype=torch.float64)
    if world > 1:
        both = torch.stack([sums, counts]).to(device, torch.float32)
        dist.all_reduce(both)
        sums, counts = both.cpu().double()
    return dict(zip(names, sums.tolist(), strict=True)), dict(zip(names, counts.tolist(), strict=True))


def figures_of(
    sums: Mapping[str, float],
    counts: Mapping[str, float],
    seconds: float,
    length_unit: tuple[str | None, float],
    peak_tflop_per_s: float | None,
) -> dict[str, float]:
    """The figures of a log entry.

    Args:
        sums: see `sums_of`.
        counts: see `sums_of`.
        seconds: that the steps took.
        length_unit: see `echox.training.stage.Stage`; without a name lengths are not told.
        peak_tflop_per_s: of all devices together; None: not known.
    """
    values = {name: total / counts[name] for name, total in sums.items() if name not in _AMOUNTS}
    seconds = max(seconds, 1e-9)
    unit, each = length_unit
    text, positions = (sums.get(name, 0.0) for name in _TEXT)
    amounts = {"items": sums["items"], unit: each * sums["length"]}
    amounts |= {"tokens": text} if text and unit != "tokens" else {}
    values |= {f"{name}_per_s": amount / seconds for name, amount in amounts.items() if name}
    if positions and "padding_share" not in values:  # an objective whose batches grow in the model tells it itself
        values["padding_share"] = 1 - text / positions
    if "operations" in sums:  # of a unit of length, in the counted steps
        values["tflop_per_s"] = sums["operations"] / counts["operations"] * sums["length"] / seconds / 1e12
        if peak_tflop_per_s:
            values["flops_utilisation"] = values["tflop_per_s"] / peak_tflop_per_s
    return values
