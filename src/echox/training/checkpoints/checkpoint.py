"""Atomic checkpoints and how they are read: trainable weights, optimizer state, position in the data; nothing frozen.

In a checkpoint of a sharded run (FSDP2) the folder ``sharded/`` replaces the three weight files: each process writes
its own part, and any number of processes, sharded or not, can read it.

``checkpoints/step_0000500/`` holds ``trainable.safetensors`` (trainable parameters and buffers of the objective),
``average.safetensors`` (with EMA), ``optimizer.pt``, ``recipe.yaml``, and ``state.json`` with the checksums of all of
them (`integrity`). A checkpoint is written (`checkpoint_writing`) into a temporary folder, flushed, and renamed: after
a full disk or a kill the previous one is still the newest.

The random state is not stored because it is a function of the step (see `loop.seed_everything`).
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TypeGuard

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from echox.config import changed_settings
from echox.files import JsonObject
from echox.models.conversion.file_formats.torch_file import check_torch_file
from echox.training.checkpoints.integrity import DamagedCheckpointError, read_state
from echox.training.networks.optim import WeightAverage
from echox.training.networks.parallel import copy_in, is_sharded, local

_NAME = re.compile(r"step_(\d+)$")
MAY_DIFFER = {
    "steps",
    "log_every_steps",
    "evaluate_every_steps",
    "save_every_steps",
    "sample_every_steps",
    "evaluation_device",
    "keep_checkpoints",
    "prefetch_batches",
    "workers",
    "tensorboard",
    "tracker",
    "peak_tflop_per_s",
    "device",
    "threads",
    "compile",
    "resume",
    "save_in_background",
    "output_dir",
    "parallel",
    "cpu_offload",
    "max_rollbacks",
    "skip_damaged",
    "accumulation_steps",
    "find_unused_parameters",
}
"""Training settings that may change between a checkpoint and its continuation."""


@dataclass
class TrainingProgress:
    """Where a run is: optimizer steps done, the next global micro-batch (epoch, index in it), rollbacks so far."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rollbacks: int = 0


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    folder = Path(output_dir) / "checkpoints"
    found = [path for path in folder.glob("step_*") if _NAME.match(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def checkpoint_path(output_dir: str | Path, step: int) -> Path:
    """Where the checkpoint of a step is, or will be."""
    return Path(output_dir) / "checkpoints" / f"step_{step:07d}"


def step_of(checkpoint: Path) -> int:
    """The optimizer step of a checkpoint, by its name."""
    return int(checkpoint.name.split("_")[1])


def load_checkpoint(
    folder: Path,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    recipe: JsonObject,
    state: JsonObject | None = None,
) -> TrainingProgress:
    """Restore everything that a `CheckpointWriter` wrote; returns where the run was. Every process must call this.

    Args:
        folder: of the checkpoint.
        objective: whose trainable parameters and buffers are restored.
        optimizer: whose state is restored.
        average: averaged weights, if there are any.
        recipe: of this run.
        state: of the checkpoint, where `newest_whole` has just checked its parts; None: they are checked here.

    Raises: ValueError when a file is missing or damaged, or when the recipe or the parameters differ.
    """
    remedy = f"remove {folder} to continue from an older checkpoint, or start again with training.resume=false"
    try:
        state = _state_of(folder) if state is None else state
        saved_recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        check_same_recipe(saved_recipe, recipe, folder)
        _check_batches(state, recipe, folder)
        if (folder / "sharded").is_dir():
            _read_sharded(folder, objective, optimizer, average, remedy)
        else:
            _read_plain(folder, objective, optimizer, average, remedy)
    except WrongCheckpointError:
        raise
    except DamagedCheckpointError as error:
        raise DamagedCheckpointError(f"{error}; {remedy}") from error
    except UnpicklingError as error:  # its own message advises to run what is in the file
        raise ValueError(f"{folder}: expected an optimizer state of tensors, found other objects; {remedy}") from error
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError, yaml.YAMLError, CheckpointException) as error:
        raise ValueError(f"{folder}: checkpoint part missing or damaged ({error}); {remedy}") from error
    if average is not None:
        average.updates = state["average_updates"]
    return TrainingProgress(**{name: state[name] for name in vars(TrainingProgress())})


def load_weights(folder: Path, objective: nn.Module) -> None:
    """Weights and buffers of a checkpoint alone, averaged where it has averages; of one process.

    Args:
        folder: of the checkpoint.
        objective: unsharded; its trainable parameters and buffers are replaced.

    Raises:
        ValueError: a part is missing or damaged, or the parameters differ.
    """
    remedy = "evaluate it with the code and files that it was trained with"
    state, live = _state_of(folder), live_tensors(objective)
    averaged = bool(state["average_updates"])
    if (folder / "sharded").is_dir():
        _check_names(folder, _shapes(folder), live, remedy)
        wanted = {
            f"{'average' if averaged and _is_trained(value) else 'trainable'}.{name}": value.detach()
            for name, value in live.items()
        }
        dcp.load(wanted, checkpoint_id=folder / "sharded", no_dist=True)
        return
    weights = load_file(folder / "trainable.safetensors")
    _check_names(folder, {name: value.shape for name, value in weights.items()}, live, remedy)
    if averaged:
        weights |= load_file(folder / "average.safetensors")
    with torch.no_grad():
        for name, value in weights.items():
            live[name].copy_(value)


def newest_whole(found: list[Path], skip_damaged: bool) -> tuple[Path, JsonObject] | None:
    """The checkpoint to continue from, and its state. Every process must call this.

    Args:
        found: of `checkpoints`.
        skip_damaged: go back to the newest checkpoint that is not damaged (None if there is none), and rename the
            damaged ones to ``damaged_step_...``.

    Raises:
        DamagedCheckpointError: the newest is damaged and may not be skipped; the message names the last whole one.
    """
    damaged: list[tuple[Path, DamagedCheckpointError]] = []
    whole = None
    for path in reversed(found):
        try:
            whole = path, _state_of(path)
        except DamagedCheckpointError as error:
            damaged.append((path, error))
            continue
        break
    if damaged and not skip_damaged:
        offer = (
            f"{whole[0].name}, before it, is whole: training.skip_damaged=true continues from there"
            if whole
            else "no checkpoint before it is whole: training.resume=false starts again"
        )
        raise DamagedCheckpointError(f"the newest checkpoint is damaged: {damaged[0][1]}; {offer}")
    if dist.is_initialized():
        dist.barrier()  # all have read them
    for path, _ in damaged:
        if not dist.is_initialized() or dist.get_rank() == 0:
            aside = path.with_name(f"damaged_{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    return whole


def _state_of(folder: Path) -> JsonObject:
    state = read_state(folder, {**vars(TrainingProgress()), "average_updates": 0, "micro_batches": 1})
    if folder.name != f"step_{state['step']:07d}":
        raise DamagedCheckpointError(f"{folder}: expected the state of step {folder.name}, found step {state['step']}")
    return state


class WrongCheckpointError(ValueError):
    """A checkpoint that is not damaged but belongs to another run."""


def _read_plain(
    folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None, remedy: str
) -> None:
    weights = load_file(folder / "trainable.safetensors")
    averages = load_file(folder / "average.safetensors") if average is not None else {}
    check_torch_file(folder / "optimizer.pt")
    states = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    live = live_tensors(objective)
    _check_names(folder, {name: value.shape for name, value in weights.items()}, live, remedy)
    with torch.no_grad():
        for name, value in weights.items():
            copy_in(value, live[name])
        for name, value in averages.items():
            assert average is not None
            copy_in(value, average.averages[name])
    if not is_sharded(objective):
        optimizer.load_state_dict(states)
        return
    own = [value for group in optimizer.param_groups for value in group["params"]]
    with torch.no_grad():
        for target, (_, values) in zip(own, sorted(states["state"].items()), strict=True):
            state = _optimizer_state(optimizer, target)
            for name, value in values.items():
                copy_in(value, state[name])


def _read_sharded(
    folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None, remedy: str
) -> None:
    _check_names(folder, _shapes(folder), live_tensors(objective), remedy)
    state = sharded_state(objective, optimizer, average)
    dcp.load(state, checkpoint_id=folder / "sharded", no_dist=not dist.is_initialized())


def _shapes(folder: Path) -> dict[str, torch.Size]:
    """Of the trainable tensors in a sharded checkpoint, by name."""
    saved = dcp.FileSystemReader(folder / "sharded").read_metadata().state_dict_metadata
    return {
        name.removeprefix("trainable."): value.size
        for name, value in saved.items()
        if name.startswith("trainable.") and isinstance(value, TensorStorageMetadata)
    }


def sharded_state(
    objective: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> dict[str, Tensor]:
    """All tensors of a run by name, sharded or not, to save, or to load into in place."""
    live = live_tensors(objective)
    state = {f"trainable.{name}": value.detach() for name, value in live.items()}
    for name, value in live.items():
        if _is_trained(value):
            for part, tensor in _optimizer_state(optimizer, value).items():
                state[f"optimizer.{name}.{part}"] = tensor
    if average is not None:
        state |= {f"average.{name}": value for name, value in average.averages.items()}
    return state


def _is_trained(value: Tensor) -> TypeGuard[nn.Parameter]:
    """Of `live_tensors`: not a buffer."""
    return isinstance(value, nn.Parameter)


def _optimizer_state(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """AdamW's state of a parameter; zeros before its first step."""
    state = optimizer.state[parameter]
    if not state:
        state["step"] = torch.zeros((), device=local(parameter).device)
        state["exp_avg"], state["exp_avg_sq"] = (torch.zeros_like(parameter.detach()) for _ in range(2))
    return state


def live_tensors(objective: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters and persistent buffers of a run, by name."""
    persistent = set(objective.state_dict())
    live: dict[str, Tensor] = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    return live | {name: value for name, value in objective.named_buffers() if name in persistent}


def _check_names(folder: Path, saved: JsonObject, live: dict[str, Tensor], remedy: str) -> None:
    if set(live) != set(saved) or any(live[name].shape != saved[name] for name in live):
        wrong = sorted(set(live) ^ set(saved)) or [n for n in live if live[n].shape != saved[n]]
        raise WrongCheckpointError(
            f"{folder}: expected this model's trainable tensors; these differ: {', '.join(wrong[:4])}; {remedy}"
        )


def micro_batches(recipe: JsonObject) -> int:
    """Number of micro-batches of one optimizer step, over all processes; it must not change within a run."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    return world * int(recipe.get("training", {}).get("accumulation_steps", 1))


def _check_batches(state: JsonObject, recipe: JsonObject, folder: Path) -> None:
    before, now = state["micro_batches"], micro_batches(recipe)
    if before != now:
        raise WrongCheckpointError(
            f"{folder}: expected {before} micro-batches a step (processes x training.accumulation_steps) as before, "
            f"found {now}; set training.accumulation_steps so that the product is the same"
        )


def check_same_recipe(saved: JsonObject, current: JsonObject, folder: Path) -> None:
    """Refuse to continue a run of another recipe (device, number of steps, and how often it logs and saves may differ).

    Raises: ValueError naming the first settings that differ.
    """
    if not isinstance(saved, dict) or not saved:
        raise ValueError(f"expected a recipe, found {str(saved)[:40]}")
    changed = changed_settings(saved, current)
    wrong = sorted(changed.keys() - {f"training.{name}" for name in MAY_DIFFER})
    if wrong:
        listed = "; ".join(f"{key} was {changed[key][0]!r}, is {changed[key][1]!r}" for key in wrong[:3])
        raise WrongCheckpointError(
            f"{folder}: holds a run of another recipe ({listed}); start again with "
            "training.resume=false, or choose another training.output_dir"
        )
