"""Optimizer, learning-rate schedule, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from echox.config import TrainingConfig
from echox.training.networks.parallel import local, whole


def build_optimizer(groups: dict[str, list[nn.Parameter]], config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with the group's peak rate; no weight decay on vectors (norms, biases).

    Every optimizer group carries ``name`` and ``peak`` (its peak learning rate), which `set_learning_rates` scales.
    """
    optimizer_groups = []
    for name, parameters in groups.items():
        peak = config.learning_rates[name]
        matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
        vectors = [parameter for parameter in parameters if parameter.ndim < 2]
        for members, decay in ((matrices, config.weight_decay), (vectors, 0.0)):
            if members:
                optimizer_groups.append(
                    {"params": members, "lr": peak, "weight_decay": decay, "name": name, "peak": peak}
                )
    return torch.optim.AdamW(optimizer_groups, betas=config.betas, fused=True)


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Fraction of the peak rate at step `step` (from 0): warm-up, constant, then down to `final_lr_ratio`."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    start = config.warmup_steps + config.hold_ratio * max(0, config.steps - config.warmup_steps)
    progress = min(1.0, max(0.0, (step - start) / max(1.0, config.steps - 1 - start)))
    falling = 1.0 - progress if config.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.final_lr_ratio + (1.0 - config.final_lr_ratio) * falling


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Scale every group's peak rate."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def clip_gradients(groups: dict[str, list[nn.Parameter]], config: TrainingConfig) -> Tensor:
    """Clip the gradients of all groups together (or of each alone); returns their norm before clipping."""
    limit = config.clip_norm if config.clip_norm > 0 else math.inf
    if config.clip_by_group:
        return torch.stack([whole(nn.utils.clip_grad_norm_(group, limit)) for group in groups.values()]).norm()
    everything = [parameter for parameters in groups.values() for parameter in parameters]
    return whole(nn.utils.clip_grad_norm_(everything, limit))


class WeightAverage:
    """Exponential moving average of trainable weights, in float32.

    The decay rises to its final value (``(1 + n) / (10 + n)`` after n updates), so that early averages are not the
    initial weights.
    """

    def __init__(self, named_parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = named_parameters
        self.averages = {name: value.detach().float().clone() for name, value in named_parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average one step towards the current weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages = [local(value) for value in self.averages.values()]
        live = [local(self._live[name].detach()).float() for name in self.averages]
        torch._foreach_lerp_(averages, live, 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the ``with`` block, the model holds the averages."""
        kept = {name: value.detach().clone() for name, value in self._live.items()}
        self._copy_in(self.averages)
        try:
            yield
        finally:
            self._copy_in(kept)

    @torch.no_grad()
    def _copy_in(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            local(self._live[name]).copy_(local(value))
