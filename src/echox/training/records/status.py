"""A run at a glance, from its output folder: how far, how well, how fast, whether it lives and can be continued.

Nothing is written, so a run in the background does not notice. What its log does not tell is None.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from echox.files import JsonObject
from echox.training.checkpoints.checkpoint import checkpoints, newest_whole, step_of
from echox.training.checkpoints.integrity import DamagedCheckpointError
from echox.training.control.lock import HOLDER_NAME, holder_of
from echox.training.records.record import METRICS_NAME, RECORD_NAME, log_entries

RECENT_ENTRIES = 5
"""Log entries whose median step tells the time left."""


@dataclass(frozen=True)
class RunStatus:
    """What is known of one run.

    Attributes:
        folder: its ``training.output_dir``. stage: name.
        state: "finished", "running", "stopped", or "elsewhere": its process is on another machine, unseen from here.
        process: identifier of the process that holds the folder, and machine: its name; None when nobody does.
        step: of the newest log entry or checkpoint. steps: of the whole run.
        loss: of the newest training entry. best_loss: the lowest of all entries, and best_step: where.
        rates: amounts a second in the newest training entry, by name: ``items_per_s``, ``audio_s_per_s``.
        data_wait_share: part of a step in which the loop waited for its batch.
        peak_memory_mb: the most memory of process 0 so far: of its GPU, else of the process.
        remaining_s: steps left times the median of recent steps, without evaluations and checkpoints; None unless the
            run lives.
        evaluation: newest, with its step.
        checkpoint: newest. checkpoint_fault: what its checksums say; None: it is whole, or was not checked.
    """

    folder: str
    stage: str
    state: str
    process: int | None
    machine: str | None
    step: int
    steps: int | None
    loss: float | None
    best_loss: float | None
    best_step: int | None
    rates: dict[str, float]
    data_wait_share: float | None
    peak_memory_mb: float | None
    remaining_s: float | None
    evaluation: dict[str, float]
    checkpoint: str | None
    checkpoint_fault: str | None


def run_folders(folder: str | Path) -> list[Path]:
    """The runs in a folder, by name: itself, or folders up to two below it.

    Raises:
        ValueError: no run is there.
    """
    top = Path(folder)
    below = _folders_in(top)
    found = (
        [top]
        if _is_run(top)
        else sorted(filter(_is_run, [*below, *(one for path in below for one in _folders_in(path))]))
    )
    if not found:
        raise ValueError(
            f"{folder}: expected the output folder of a run (recipe.yaml with {METRICS_NAME} or {RECORD_NAME}) or a "
            "folder of such folders, found neither; name the training.output_dir of a recipe"
        )
    return found


def _folders_in(folder: Path) -> list[Path]:
    """Without asking the system about each file: a folder of recordings has very many."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir()]


def _is_run(folder: Path) -> bool:
    trained = (folder / "recipe.yaml").is_file() and (folder / METRICS_NAME).is_file()
    return trained or (folder / RECORD_NAME).is_file() or (folder / HOLDER_NAME).is_file()


def status_of(folder: Path, checksums: bool = True) -> RunStatus:
    """The status of one run.

    Args:
        folder: its ``training.output_dir``.
        checksums: read the newest checkpoint and compare its checksums (all of its bytes).
    """
    record = _read(folder / RECORD_NAME)
    recipe = _recipe(folder) or record.get("recipe") or {}
    entries = log_entries(folder)
    trained = [entry for entry in entries if entry["kind"] == "train" and "loss" in entry]
    last = trained[-1] if trained else {}
    best = min(trained, key=lambda entry: entry["loss"], default={})
    evaluated = [entry for entry in entries if entry["kind"] == "evaluation"]
    steps = (recipe.get("training") or {}).get("steps", record.get("steps"))
    newest, fault = _checkpoint(folder, checksums)
    step = max([0, *(entry["step"] for entry in entries), *([step_of(newest)] if newest else [])])
    state, process, machine = holder_of(folder)
    if state == "stopped" and record and record.get("steps", 0) >= (steps or 0):
        state = "finished"
    step_s = _step_s(trained)
    left = None if steps is None or step_s is None or state not in ("running", "elsewhere") else steps - step
    return RunStatus(
        folder=str(folder),
        stage=str(record.get("stage") or recipe.get("stage") or "unknown"),
        state=state,
        process=process,
        machine=machine,
        step=step,
        steps=steps,
        loss=last.get("loss"),
        best_loss=best.get("loss"),
        best_step=best.get("step"),
        rates={name: value for name, value in last.items() if name.endswith("_per_s")},
        data_wait_share=_share(last.get("data_wait_s"), last.get("step_s")),
        peak_memory_mb=last.get("peak_memory_mb"),
        remaining_s=None if left is None or step_s is None else left * step_s,
        evaluation={name: value for name, value in evaluated[-1].items() if name != "kind"} if evaluated else {},
        checkpoint=newest.name if newest else None,
        checkpoint_fault=fault,
    )


def lines_of(status: RunStatus) -> list[str]:
    """The status for people: a line of the run, then one of its figures, evaluation and checkpoint."""
    of = f" of {status.steps}" if status.steps else ""
    left = "" if status.remaining_s is None else f", about {_duration(status.remaining_s)} left"
    who = "" if status.process is None else f" (process {status.process} on {status.machine})"
    lines = [f"{status.folder}  {status.stage}: {status.state}{who}, step {status.step}{of}{left}"]
    figures = [] if status.loss is None else [f"loss {status.loss:.4g}"]
    if status.best_loss is not None:
        figures.append(f"best {status.best_loss:.4g} at step {status.best_step}")
    figures += [f"{_rate_name(name)} {value:.4g}" for name, value in status.rates.items()]
    if status.data_wait_share is not None:
        figures.append(f"waiting for data {100 * status.data_wait_share:.0f} %")
    if status.peak_memory_mb is not None:
        figures.append(f"peak {status.peak_memory_mb / 1000:.2f} GB")
    if figures:
        lines.append("  " + ", ".join(figures))
    if status.evaluation:
        listed = ", ".join(f"{key} {value:.4g}" for key, value in status.evaluation.items() if key != "step")
        lines.append(f"  evaluated at step {status.evaluation['step']}: {listed or 'nothing held out'}")
    if status.checkpoint:
        lines.append(
            f"  {status.checkpoint}" + (f": DAMAGED: {status.checkpoint_fault}" if status.checkpoint_fault else "")
        )
    return lines


def _read(path: Path) -> JsonObject:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _recipe(folder: Path) -> JsonObject:
    path = folder / "recipe.yaml"
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _checkpoint(folder: Path, checksums: bool) -> tuple[Path | None, str | None]:
    """The newest checkpoint and its fault. One that the run drops while it is read is no fault: the next is read."""
    while True:
        found = checkpoints(folder)
        if not found:
            return None, None
        try:
            if checksums:
                newest_whole(found[-1:], skip_damaged=False)
        except DamagedCheckpointError as error:
            if found[-1].is_dir():
                return found[-1], " ".join(str(error).split())
            continue
        return found[-1], None


def _step_s(trained: Sequence[JsonObject]) -> float | None:
    recent = [entry["step_s"] for entry in trained[-RECENT_ENTRIES:] if "step_s" in entry]
    return statistics.median(recent) if recent else None


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else min(1.0, part / whole)


def _rate_name(name: str) -> str:
    return name.removesuffix("_per_s") + "/s"


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
