"""Checks that stop a faulty training run: wrong trainable parameters, gradients in frozen ones, non-finite losses."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from echox.config import TrainingConfig


class NonFiniteLossError(FloatingPointError, ValueError):
    """A loss or its gradient became NaN or infinite."""


def check_trainable(
    stage_name: str, objective: nn.Module, groups: dict[str, list[nn.Parameter]], config: TrainingConfig
) -> None:
    """Check that each trainable parameter of the objective is in exactly one group, and each group has a learning rate.

    Raises: ValueError naming the parameters or groups that are wrong.
    """
    if set(groups) != set(config.learning_rates):
        raise ValueError(
            f"training.learning_rates: expected exactly the groups of {stage_name!r} "
            f"({', '.join(sorted(groups))}), found {', '.join(sorted(config.learning_rates))}"
        )
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    trainable = {id(parameter) for parameter in objective.parameters() if parameter.requires_grad}
    grouped: set[int] = set()
    for group, parameters in groups.items():
        if not parameters:
            raise ValueError(f"stage {stage_name!r}: parameter group {group!r} is empty")
        for parameter in parameters:
            if id(parameter) in grouped:
                raise ValueError(f"stage {stage_name!r}: {names.get(id(parameter))} is in two parameter groups")
            if id(parameter) not in names:
                raise ValueError(f"stage {stage_name!r}: group {group!r} holds a parameter that is not in `objective`")
            grouped.add(id(parameter))
    _refuse(stage_name, names, trainable - grouped, "require gradients but are in no parameter group: freeze or group")
    _refuse(stage_name, names, grouped - trainable, "are in a parameter group but frozen: unfreeze or drop")


def _refuse(stage_name: str, names: dict[int, str], wrong: set[int], problem: str) -> None:
    if wrong:
        listed = sorted(names[key] for key in wrong)
        shown = ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
        raise ValueError(f"stage {stage_name!r}: {len(listed)} parameters {problem} them ({shown})")


def check_losses(losses: object, step: int) -> dict[str, float]:
    """The parts of the objective's return value as numbers, after a check: a scalar "loss", and all of them finite.

    Raises:
        ValueError: not a dict of tensors, no "loss".
        NonFiniteLossError: names the step and the parts that are NaN or infinite.
    """
    if not isinstance(losses, dict) or "loss" not in losses:
        found = sorted(losses) if isinstance(losses, dict) else type(losses).__name__
        raise ValueError(f"objective: expected a dict of losses with the key 'loss', found {found}")
    if losses["loss"].ndim:
        raise ValueError(f"objective: expected a scalar 'loss', found shape {tuple(losses['loss'].shape)}")
    named: dict[str, Tensor] = losses
    numbers = torch.stack([value.detach().float() for value in named.values()]).tolist()  # one transfer from the device
    values = dict(zip(named, numbers, strict=True))
    wrong = {name: value for name, value in values.items() if not math.isfinite(value)}
    if wrong:
        listed = ", ".join(f"{name} = {value}" for name, value in wrong.items())
        raise NonFiniteLossError(
            f"step {step}: {listed}; expected finite losses. Lower training.learning_rates, "
            "set training.precision=fp32, or look at this batch"
        )
    return values


def check_norm(norm: float, step: int) -> None:
    """Check that the gradient norm is finite.

    Raises: NonFiniteLossError naming the step.
    """
    if not math.isfinite(norm):
        raise NonFiniteLossError(
            f"step {step}: gradient_norm = {norm}; expected finite gradients. Lower training.learning_rates, set "
            "training.precision=fp32, or look at this batch"
        )


def check_everywhere(broken: NonFiniteLossError | None, asked: int, step: int, device: torch.device) -> int:
    """Raise the error of one process in all processes; otherwise the others would wait for it.

    Returns: the largest `asked` of all processes (see `stopping.StopRequests`).
    Raises: NonFiniteLossError.
    """
    anywhere = torch.tensor([float(broken is not None), float(asked)], device=device)
    if dist.is_initialized():
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
    if broken is not None:
        raise broken
    broken_anywhere, most = anywhere.tolist()
    if broken_anywhere:
        raise NonFiniteLossError(f"step {step}: a loss of another process is not finite")
    return int(most)


def check_gradients(stage_name: str, objective: nn.Module, groups: dict[str, list[nn.Parameter]], step: int) -> None:
    """Check, after a backward pass, that frozen parameters have no gradient and that every group has one.

    Raises: ValueError naming a parameter or group.
    """
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad and parameter.grad is not None:
            raise ValueError(f"stage {stage_name!r}, step {step}: frozen parameter {name} received a gradient")
    for group, parameters in groups.items():
        if all(parameter.grad is None for parameter in parameters):
            raise ValueError(
                f"stage {stage_name!r}, step {step}: no parameter of group {group!r} received a gradient: "
                "the loss does not depend on it"
            )
