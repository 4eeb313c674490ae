"""Atomic checkpoints: the trainable state, the optimizer, and the place in the data; nothing that is frozen.

``checkpoints/step_0000500/`` holds ``trainable.safetensors`` (trainable parameters and buffers of the objective),
``average.safetensors`` (with EMA), ``optimizer.pt``, ``state.json`` and ``recipe.yaml``. A checkpoint is written into a
temporary folder, flushed, and renamed: a full disk or a kill leaves the previous one as the newest.

The random state is not stored because it is a function of the step (see `loop.seed_everything`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from echox.training.optim import WeightAverage

_NAME = re.compile(r"step_(\d+)$")
MAY_DIFFER = {
    "steps", "log_every_steps", "evaluate_every_steps", "save_every_steps", "sample_every_steps", "keep_checkpoints",
    "prefetch_batches", "tensorboard", "device", "threads", "compile", "resume", "output_dir",
}  # fmt: skip
"""Training settings that may change between a checkpoint and its continuation."""


@dataclass
class Progress:
    """Where a run is: optimizer steps done, and the next global micro-batch (epoch, index in it)."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0


def checkpoints(output_dir: str | Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    folder = Path(output_dir) / "checkpoints"
    found = [path for path in folder.glob("step_*") if _NAME.match(path.name)] if folder.is_dir() else []
    return sorted(found, key=lambda path: int(path.name.split("_")[1]))


def trainable_state(objective: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters (shared ones once) and persistent buffers, on the CPU."""
    state: dict[str, Tensor] = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    persistent = set(objective.state_dict())
    state |= {name: value for name, value in objective.named_buffers() if name in persistent}
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}


def save_checkpoint(output_dir: str | Path, objective: nn.Module, optimizer: torch.optim.Optimizer,
                    average: WeightAverage | None, progress: Progress, recipe: dict[str, Any],
                    keep: int) -> Path:  # fmt: skip
    """Write a checkpoint atomically, then drop all but the newest `keep`.

    Raises: OSError (for example: no space left on the device), with no half checkpoint left behind.
    """
    folder = Path(output_dir) / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step_{progress.step:07d}"
    partial = folder / f".partial_{final.name}"
    for left in folder.glob(".partial_*"):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    try:
        partial.mkdir()
        save_file(trainable_state(objective), partial / "trainable.safetensors")
        if average is not None:
            save_file({name: value.cpu() for name, value in average.averages.items()}, partial / "average.safetensors")
        torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        state = {**vars(progress), "average_updates": average.updates if average else 0}
        (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
        (partial / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        for path in [*partial.iterdir(), partial]:
            _flush(path)
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
        _flush(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        # safetensors and torch report a full disk as their own errors, with the cause only in the message.
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"{final}: could not write the checkpoint ({error}); free some space, then run the same command "
                      "again: it continues from the newest complete checkpoint") from error  # fmt: skip
    for old in checkpoints(output_dir)[:-keep]:
        # Renamed first: killed half way, what is left of it must not look like a checkpoint.
        shutil.rmtree(old.rename(folder / f".partial_{old.name}"))
    return final


def load_checkpoint(folder: Path, objective: nn.Module, optimizer: torch.optim.Optimizer,
                    average: WeightAverage | None, recipe: dict[str, Any]) -> Progress:  # fmt: skip
    """Restore everything `save_checkpoint` wrote; returns where the run was.

    Raises: ValueError when a file is missing or damaged, when the recipe is another one, or the parameters differ.
    """
    remedy = f"remove {folder} to continue from an older checkpoint, or start again with training.resume=false"
    try:
        saved_recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        weights = load_file(folder / "trainable.safetensors")
        averages = load_file(folder / "average.safetensors") if average is not None else {}
        optimizer_state = torch.load(folder / "optimizer.pt", map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, SafetensorError, EOFError, yaml.YAMLError, UnpicklingError) as error:
        raise ValueError(f"{folder}: checkpoint part missing or damaged ({error}); {remedy}") from error
    check_same_recipe(saved_recipe, recipe, folder)
    live: dict[str, Tensor] = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    live |= {name: value for name, value in objective.named_buffers() if name in weights}
    if set(live) != set(weights) or any(live[name].shape != weights[name].shape for name in live):
        wrong = sorted(set(live) ^ set(weights)) or [n for n in live if live[n].shape != weights[n].shape]
        raise ValueError(
            f"{folder}: expected this model's trainable tensors; these differ: {', '.join(wrong[:4])}; {remedy}"
        )
    with torch.no_grad():
        for name, value in weights.items():
            live[name].copy_(value)
        if average is not None:
            average.updates = state["average_updates"]
            for name, value in averages.items():
                average.averages[name].copy_(value)
    optimizer.load_state_dict(optimizer_state)
    return Progress(**{name: state[name] for name in vars(Progress())})


def check_same_recipe(saved: dict[str, Any], current: dict[str, Any], folder: Path) -> None:
    """Refuse to continue a run of another recipe (cadence, device and the number of steps may differ).

    Raises: ValueError naming the first settings that differ.
    """
    before, now = _flatten(saved), _flatten(json.loads(json.dumps(current)))
    skip = {f"training.{name}" for name in MAY_DIFFER}
    # A setting added to the code since (absent in `before`) has its default: that does not make it another recipe.
    wrong = [key for key in sorted(before) if key not in skip and key in now and before[key] != now[key]]
    if wrong:
        listed = "; ".join(f"{key} was {before[key]!r}, is {now[key]!r}" for key in wrong[:3])
        raise ValueError(f"{folder}: holds a run of another recipe ({listed}); start again with training.resume=false, "
                         "or choose another training.output_dir")  # fmt: skip


def _flatten(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {key: value}
    return {k: v for name, item in value.items() for k, v in _flatten(item, f"{key}.{name}" if key else name).items()}


def _flush(path: Path) -> None:
    """Flush a file or folder: a rename must not reach the disk before the contents do."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
