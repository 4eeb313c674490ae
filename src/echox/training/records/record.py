"""Logs of a run (metrics.jsonl, TensorBoard, a tracker, progress) and the training record beside the weights."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from echox.config import TrainingConfig
from echox.files import JsonObject, write_text
from echox.process_memory import peak_resident_bytes
from echox.training.checkpoints.checkpoint import TrainingProgress, check_same_recipe
from echox.training.records.trackers import Tracker, open_tracker

if TYPE_CHECKING:
    import rich.progress
    from torch.utils.tensorboard import SummaryWriter

RECORD_NAME = "training_record.json"
METRICS_NAME = "metrics.jsonl"


class RunLog:
    """Logs of one run, written by process 0: ``metrics.jsonl``, TensorBoard if installed, a tracker, printed lines.

    On a terminal a progress bar shows step, loss, throughput and remaining time; elsewhere one line per entry.
    """

    def __init__(self, config: TrainingConfig, name: str, progress: TrainingProgress, recipe: JsonObject) -> None:
        self._folder = Path(config.output_dir)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._path = self._folder / METRICS_NAME
        self.drop_entries_after(progress)
        self._steps, self._name, self._first = config.steps, name, progress.step
        self._began_s, self._told = time.monotonic(), progress.step
        found = (
            _tensorboard(self._folder) if config.tensorboard else None,
            open_tracker(config.tracker, self._folder, name, recipe),
        )
        self._trackers = [tracker for tracker in found if tracker is not None]
        shown = sys.stderr.isatty()
        self._bar = _progress_bar(name, config.steps, progress.step) if shown else None

    def write(self, step: int, values: dict[str, float], kind: str = "train") -> None:
        """One entry: ``{"step", "kind", ...values}``."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind, **values}) + "\n")
        self._told = max(self._told, step)  # evaluations apart come late, and a tracker's steps only rise
        for tracker in self._trackers:
            tracker.write(self._told, {f"{kind}/{key}": value for key, value in values.items()})
        shown = {key: value for key, value in values.items() if "/" not in key and key != "learning_rate_factor"}
        listed = "  ".join(f"{key} {value:.4g}" for key, value in shown.items())
        eta = f"  left {self.remaining_s(step) / 60:.1f} min" if kind == "train" else ""
        self.say(f"{self._name} {step}/{self._steps} {kind}  {listed}{eta}")
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def say(self, line: str) -> None:
        """Print a line (above the progress bar, if there is one)."""
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def remaining_s(self, step: int) -> float:
        """Estimated remaining time, from the speed since this process began."""
        return (time.monotonic() - self._began_s) / max(1, step - self._first) * (self._steps - step)

    def close(self) -> None:
        """Flush and stop the progress bar."""
        if self._bar is not None:
            self._bar.stop()
        for tracker in self._trackers:
            tracker.close()

    def drop_entries_after(self, place: TrainingProgress) -> None:
        """Remove entries of steps after a checkpoint, which the run that continues from it repeats."""

        def stays(entry: JsonObject) -> bool:
            return entry["step"] <= place.step and entry.get("rollbacks", 0) <= place.rollbacks

        if self._path.exists():
            kept = [json.dumps(entry) + "\n" for entry in log_entries(self._folder) if stays(entry)]
            write_text(self._path, "".join(kept))


class _TensorBoard:
    """TensorBoard as a tracker."""

    def __init__(self, board: SummaryWriter) -> None:
        self._board = board

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._board.add_scalar(key, value, step)

    def close(self) -> None:
        self._board.close()


def _tensorboard(folder: Path) -> Tracker | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # optional extra; metrics.jsonl has the same numbers
        return None
    return _TensorBoard(SummaryWriter(str(folder / "tensorboard")))


def _progress_bar(name: str, steps: int, first_step: int) -> rich.progress.Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True))
    bar.start()
    bar.add_task(name, total=steps, completed=first_step)
    return bar


def peak_memory_mb(device: torch.device) -> dict[str, float]:
    """``peak_memory_mb`` so far: of this process's tensors on a GPU, else of the process; empty where nothing tells."""
    if device.type == "cuda":
        return {"peak_memory_mb": torch.cuda.max_memory_allocated(device) / 1e6}
    peak = peak_resident_bytes()
    return {} if peak is None else {"peak_memory_mb": peak / 1e6}


def log_entries(folder: Path) -> list[JsonObject]:
    """The entries of ``metrics.jsonl`` of a run; one that is being written is left out. Empty without a log."""
    path = folder / METRICS_NAME
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def write_record(
    stage: str,
    config: TrainingConfig,
    recipe: JsonObject,
    progress: TrainingProgress,
    metrics: dict[str, float],
    world_size: int,
    details: JsonObject | None = None,
) -> None:
    """Write ``training_record.json`` beside the final weights: recipe, seed, metrics, cost, environment."""
    record = {
        "stage": stage,
        "recipe": recipe,
        "seed": config.seed,
        "steps": progress.step,
        "metrics": metrics,
        "cost": {"wall_s": round(progress.wall_s, 1), "cpu_s": round(progress.cpu_s, 1)},
        "environment": environment(world_size),
        "details": details or {},
    }
    write_text(Path(config.output_dir) / RECORD_NAME, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def write_stage_record(
    stage: str, folder: Path, recipe: JsonObject, metrics: dict[str, float], details: JsonObject | None = None
) -> None:
    """Write ``training_record.json`` of a stage that makes no steps: recipe, metrics, environment, and details."""
    record = stage_record(stage, recipe, metrics, details)
    write_text(folder / RECORD_NAME, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def stage_record(
    stage: str, recipe: JsonObject, metrics: JsonObject, details: JsonObject | None, watch: Stopwatch | None = None
) -> JsonObject:
    """The record of a stage without checkpoints; with its seed if the recipe has one, and its cost if it was timed."""
    record: JsonObject = {"stage": stage, "recipe": recipe}
    record |= {name: recipe[name] for name in ("seed", "steps") if name in recipe}
    record |= {"metrics": metrics}
    record |= {} if watch is None else {"cost": watch.cost()}
    record |= {"environment": environment()}
    return record | ({} if details is None else {"details": details})


class Stopwatch:
    """What a stage costs, from now on: clock time and CPU-time, with that of the programs that it starts."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), sum(os.times()[:4])

    def cost(self) -> JsonObject:
        """``wall_s`` and ``cpu_s``."""
        wall_s, cpu_s = time.monotonic() - self._wall_s, sum(os.times()[:4]) - self._cpu_s
        return {"wall_s": round(wall_s, 1), "cpu_s": round(cpu_s, 1)}


def finished_record(config: TrainingConfig, recipe: JsonObject) -> JsonObject | None:
    """The record in `output_dir` of a finished run of exactly this recipe, else None.

    Raises: ValueError when the finished run there is of another recipe (and `training.resume` is on).
    """
    path = Path(config.output_dir) / RECORD_NAME
    if not config.resume or not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    check_same_recipe(record["recipe"], recipe, Path(config.output_dir))
    return record if record["steps"] >= config.steps else None


def environment(world_size: int = 1) -> JsonObject:
    """Commit, versions and machine of this process."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    for package in ("echox", "transformers", "peft", "lhotse"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        **code_state(),
        "versions": versions,
        "device": device,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "world_size": world_size,
    }


@functools.cache
def code_state() -> JsonObject:
    """``commit`` of the checkout that this code is in and whether it is ``dirty``; None: it is in none.

    As it was at the first call: the code that a run of hours has loaded, whatever is checked out when it ends.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):  # an installed package has no repository around it
        return {"commit": None, "dirty": None}
