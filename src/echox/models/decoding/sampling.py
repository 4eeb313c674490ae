"""Choice of the next output of each row: the most likely, or a sample from the nucleus. There is no other sampler.

A sample needs exactly one random number in [0, 1), so each row of a batch has its own randomness and gets the same
result as alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

_COLDEST = 1e-6  # colder is this cold: the most likely output, and no overflow


def nucleus(logits: Tensor, temperatures: Tensor, top_ps: Tensor, uniforms: Tensor) -> Tensor:
    """(B,) one output per row of logits (B, V), sampled where the row's temperature is above 0, else the most likely.

    Args:
        logits: any float type.
        temperatures: (B,).
        top_ps: (B,) in (0, 1]: samples come from the smallest set of outputs with this total probability.
        uniforms: (B,) float64 in [0, 1): the place of each sample in its distribution.
    """
    best = logits.argmax(-1)
    sampled = temperatures > 0
    if not bool(sampled.any()):
        return best
    rows = logits.float() / temperatures.masked_fill(~sampled, 1.0).clamp(min=_COLDEST).float()[:, None]
    ordered, order = rows.softmax(-1).sort(-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    # Kept: every output whose more likely ones sum up to less than top_p, so always the first.
    ordered = ordered.masked_fill(before >= top_ps[:, None], 0.0)
    reached = ordered.double().cumsum(-1)
    place = torch.searchsorted(reached, (uniforms.double() * reached[:, -1])[:, None], right=True)
    # Rounding must not lead past the last kept output. (A row that is not finite has none: the caller checks.)
    place = place.minimum((ordered > 0).sum(-1, keepdim=True) - 1).clamp(min=0)
    return torch.where(sampled, order.gather(-1, place).squeeze(-1), best)


def choose(
    logits: Tensor, do_sample: bool, temperature: float, top_p: float, generator: torch.Generator | None
) -> Tensor:
    """One output per row from logits (B, V): the largest, or a sample from the nucleus of mass `top_p`.

    Raises:
        ValueError: a temperature that is not positive, or `top_p` outside (0, 1].
    """
    if not do_sample:
        return logits.argmax(-1)
    if temperature <= 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"expected temperature > 0 and 0 < top_p <= 1, found {temperature} and {top_p}; for the most "
            "likely outputs use do_sample=False"
        )
    place = generator.device if generator is not None else logits.device
    uniforms = torch.rand(len(logits), dtype=torch.float64, device=place, generator=generator).to(logits.device)
    alike = torch.ones(len(logits), device=logits.device)
    return nucleus(logits, temperature * alike, top_p * alike, uniforms)
