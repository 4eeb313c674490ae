"""Evaluations in a process of its own: the figures of the run's own evaluation, and nothing that a run waits for."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import forked
from echox.training import evaluation
from echox.training.checkpoints.checkpoint import checkpoint_path, checkpoints
from echox.training.evaluation import evaluate_checkpoint, main
from echox.training.loop import run_recipe
from echox.training.records.record import log_entries
from test_lm import RECIPE
from test_lm import overrides as overrides
from waiting import wait_until

CPU = torch.device("cpu")


def train(chosen: list[str], **settings: object) -> None:
    more = {"precision": "fp32", "device": "cpu", "threads": 1, "ema_decay": 0.5, "log_every_steps": 1, **settings}
    run_recipe(RECIPE, [*chosen, *(f"training.{name}={json.dumps(value)}" for name, value in more.items())])


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    found = [entry for entry in log_entries(folder) if entry["kind"] == "evaluation"]
    return {entry["step"]: {name: entry[name] for name in entry if name not in ("step", "kind")} for entry in found}


@pytest.mark.slow
def test_a_checkpoint_has_the_figures_of_the_run(overrides, tmp_path, capsys):
    train(overrides, output_dir=str(tmp_path), save_every_steps=2, evaluate_every_steps=2)
    ours = evaluations(tmp_path)
    assert ours.keys() == {2, 4}
    for step, figures in ours.items():
        assert evaluate_checkpoint(checkpoint_path(tmp_path, step), CPU) == figures
    capsys.readouterr()
    newest = checkpoints(tmp_path)[-1]
    assert main([str(newest), "--device", "cpu", "--samples", str(tmp_path / "said")]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == ours[4]
    assert list((tmp_path / "said").iterdir())
    (newest / "trainable.safetensors").write_bytes(b"")
    assert main([str(newest), "--device", "cpu"]) == 1
    assert "expected the SHA-256" in capsys.readouterr().err


def slow_steps(monkeypatch, reached) -> None:
    """Every step of a training waits until `reached(step)`."""
    from echox.training.stages.dialogue.lm import LMStage

    collate, made = LMStage.collate, []

    def wait_and_collate(self, items, rng):
        made.append(len(made))
        wait_until(lambda: reached(len(made)), "what the step waits for", 120)
        return collate(self, items, rng)

    monkeypatch.setattr(LMStage, "collate", wait_and_collate)


@pytest.mark.slow
def test_the_run_goes_on_while_another_process_evaluates(overrides, tmp_path, monkeypatch):
    """Step 2 is evaluated apart, with samples, and kept meanwhile though only one checkpoint is."""
    begun, start = [], evaluation.EvaluationsApart._start

    def noted(self, *what):
        start(self, *what)
        begun.append(self._process)

    monkeypatch.setattr(evaluation.EvaluationsApart, "_start", noted)
    slow_steps(monkeypatch, lambda step: step < 12 or (begun and begun[0].poll() is not None))
    settings = {"output_dir": str(tmp_path), "steps": 14, "keep_checkpoints": 1, "save_every_steps": 1}
    train(overrides, **settings, evaluate_every_steps=2, sample_every_steps=2, evaluation_device="cpu")
    found = evaluations(tmp_path)
    assert min(found) == 2
    trained = [(entry["step"], entry["kind"]) for entry in log_entries(tmp_path)]
    assert trained.index((2, "evaluation")) > trained.index((9, "train")), "it came late, and nobody waited"
    assert list((tmp_path / "samples" / "step_0000002").iterdir())
    assert found[14].keys() == found[2].keys()


@pytest.mark.slow
def test_what_hangs_or_fails_in_an_evaluation_does_not_stop_the_run(overrides, tmp_path, monkeypatch, capsys):
    def start(self, checkpoint, samples):
        script = "import sys; sys.exit(3)" if checkpoint.name == "step_0000002" else "import time; time.sleep(600)"
        self._process = evaluation.subprocess.Popen([evaluation.sys.executable, "-c", script])
        if checkpoint.name == "step_0000002":
            self._process.wait()

    monkeypatch.setattr(evaluation.EvaluationsApart, "_start", start)
    train(overrides, output_dir=str(tmp_path), steps=9, evaluate_every_steps=2, evaluation_device="cpu")
    said = capsys.readouterr().out
    assert "evaluation of step_0000002 ended with 3" in said
    assert "step_0000006 is not evaluated: step_0000004 is not done yet" in said
    assert "step_0000004 was not evaluated: the run ended before" in said
    assert evaluations(tmp_path).keys() == {9}


@pytest.mark.slow
def test_it_ends_with_the_run_that_started_it(overrides, tmp_path):
    train(overrides, output_dir=str(tmp_path), steps=2)
    command = [evaluation.sys.executable, "-m", "echox.training.evaluation", str(checkpoints(tmp_path)[-1])]
    process = evaluation.subprocess.Popen([*command, "--while-input-is-open"], stdin=evaluation.subprocess.PIPE)
    process.stdin.close()
    assert process.wait(120) == 1


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
def test_a_sharded_checkpoint_is_evaluated_by_one_process(overrides, tmp_path):
    settings = {"output_dir": str(tmp_path), "parallel": "fsdp", "save_every_steps": 2, "evaluate_every_steps": 2}
    forked.two(partial(train, overrides, **settings))
    ours = evaluations(tmp_path)
    assert (checkpoint_path(tmp_path, 2) / "sharded").is_dir()
    found = evaluate_checkpoint(checkpoint_path(tmp_path, 2), CPU)
    assert found == pytest.approx(ours[2], rel=1e-4)
