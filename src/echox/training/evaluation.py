"""Evaluation in a process of its own, from a checkpoint, while the training goes on (`training.evaluation_device`).

No process of the run waits for it: whatever it needs, time, memory or a GPU of its own, and whether it fails or hangs,
the run only reads what it has found. Any checkpoint is evaluated so by hand::

    python -m echox.training.evaluation out/3b/s2t/checkpoints/step_0002000 --device cuda

prints its figures; on another machine too, as long as the paths in the recipe are the same there.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import torch

from echox.config import TrainingConfig, load_recipe
from echox.device import choose_device
from echox.errors import one_line
from echox.files import write_text
from echox.training.batches.stream import seed_everything
from echox.training.checkpoints.checkpoint import load_weights, step_of
from echox.training.networks.modules import autocast
from echox.training.stage import Stage

LOG_NAME = "evaluation.log"
"""In the output folder: what the processes that evaluate have printed."""
FOUND_NAME = ".evaluation.json"
_OF_A_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID")


def evaluate_checkpoint(folder: Path, device: torch.device, samples: Path | None = None) -> dict[str, float]:
    """The held-out figures of a checkpoint, with its averaged weights if it has any.

    Args:
        folder: of the checkpoint; its recipe says of what.
        device: where to compute.
        samples: where the stage's samples are written; None: nowhere.

    Raises:
        ValueError: a damaged checkpoint, or one that does not fit what its recipe makes.
    """
    recipe = load_recipe(folder / "recipe.yaml")
    config: TrainingConfig = recipe.training
    seed_everything(config.seed)
    stage: Stage = recipe.build()
    stage.model.to(device)
    stage.objective.to(device)
    stage.parameter_groups()
    load_weights(folder, stage.objective)
    stage.model.eval()
    stage.objective.eval()
    with torch.inference_mode(), autocast(device, config.precision):
        figures = {name: float(value) for name, value in stage.evaluate().items()}
        if samples is not None and hasattr(stage, "sample"):
            samples.mkdir(parents=True, exist_ok=True)
            stage.sample(samples)
    return figures


class EvaluationsApart:
    """Evaluates checkpoints of a run, one at a time; of the first process of the run.

    Args:
        config: output folder, device and threads.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._folder, self._device, self._threads = Path(config.output_dir), config.evaluation_device, config.threads
        self._asked: tuple[Path, bool] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.checkpoint: Path | None = None

    def ask(self, checkpoint: Path, samples: bool) -> str | None:
        """Evaluate a checkpoint, which may not be complete yet; returns why not, where another is being evaluated."""
        if self.checkpoint is not None:
            return f"{checkpoint.name} is not evaluated: {self.checkpoint.name} is not done yet"
        self.checkpoint, self._asked = checkpoint, (checkpoint, samples)
        return None

    def look(self) -> tuple[int, dict[str, float], str | None] | None:
        """Start what was asked for, and what has been found since: (step, figures, what went wrong), else None."""
        if self._asked is not None and self._asked[0].is_dir():
            self._start(*self._asked)
            self._asked = None
        if self._process is None or self._process.poll() is None:
            return None
        code, done = self._process.returncode, self.checkpoint
        self._forget()
        assert done is not None
        found = self._folder / FOUND_NAME
        if code != 0 or not found.is_file():
            return step_of(done), {}, f"evaluation of {done.name} ended with {code}: {self._folder / LOG_NAME}"
        return step_of(done), json.loads(found.read_text(encoding="utf-8")), None

    def close(self) -> str | None:
        """End what is running; returns what is lost."""
        lost = self.checkpoint
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._forget()
        return None if lost is None else f"{lost.name} was not evaluated: the run ended before"

    def _forget(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = self.checkpoint = self._asked = None

    def _start(self, checkpoint: Path, samples: bool) -> None:
        (self._folder / FOUND_NAME).unlink(missing_ok=True)
        command = [sys.executable, "-m", "echox.training.evaluation", str(checkpoint), "--device", str(self._device)]
        command += ["--output", str(self._folder / FOUND_NAME), "--while-input-is-open"]
        command += ["--threads", str(self._threads)] if self._threads else []
        command += ["--samples", str(self._folder / "samples" / checkpoint.name)] if samples else []
        environment = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
        with (self._folder / LOG_NAME).open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)


def _end_with_input() -> None:
    """End this process when the one that started it is gone, even by `kill -9`: then its end of the pipe is closed."""
    while os.read(sys.stdin.fileno(), 1024):  # a read through `sys.stdin` would hold its lock when the process ends
        pass
    os._exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m echox.training.evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder, for example out/3b/s2t/checkpoints/step_0002000")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, help="a JSON file for the figures, which are printed too")
    parser.add_argument("--samples", type=Path, help="folder for samples; without it none are made")
    parser.add_argument("--while-input-is-open", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(arguments)
    if options.while_input_is_open:
        threading.Thread(target=_end_with_input, daemon=True).start()
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        figures = evaluate_checkpoint(options.checkpoint, choose_device(options.device), options.samples)
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    if options.output:
        write_text(options.output, json.dumps(figures))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
