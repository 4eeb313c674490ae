"""`echox status`: what a run's folder tells about it, while it runs, when it was killed, when it has finished."""

import json
import os
import platform
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from echox.cli.main import app
from echox.config import to_dict
from echox.training.checkpoints.checkpoint import checkpoints
from echox.training.control.lock import HOLDER_NAME, output_lock
from echox.training.loop import train
from echox.training.records.record import RECORD_NAME
from echox.training.records.status import lines_of, run_folders, status_of
from test_loop import ToyStage, config


@pytest.fixture
def finished(tmp_path):
    folder = tmp_path / "toy"
    settings = config(folder, steps=6, log_every_steps=2, save_every_steps=3, evaluate_every_steps=3)
    train(ToyStage(), settings, {"stage": "toy", "training": to_dict(settings)})
    return folder


@pytest.fixture
def half(finished):
    """The same run, seen when 4 of 12 steps were made: no record yet."""
    (finished / RECORD_NAME).unlink()
    recipe = (finished / "recipe.yaml").read_text()
    (finished / "recipe.yaml").write_text(recipe.replace("steps: 6\n", "steps: 12\n"))
    log = finished / "metrics.jsonl"
    log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()) + '{"step": 7, "ki')
    return finished


def test_a_finished_run(finished):
    status = status_of(finished)
    entries = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained = [entry for entry in entries if entry["kind"] == "train"]
    assert (status.state, status.stage, status.step, status.steps) == ("finished", "toy", 6, 6)
    assert status.loss == trained[-1]["loss"]
    assert status.best_loss == min(entry["loss"] for entry in trained)
    assert status.rates["items_per_s"] > 0
    assert 0 <= status.data_wait_share <= 1
    if sys.platform == "linux":
        assert status.peak_memory_mb > 10
    assert status.evaluation["step"] == 6
    assert status.checkpoint == "step_0000006"
    assert status.checkpoint_fault is None
    assert status.remaining_s is None


def test_a_run_that_lives_has_a_time_left(half):
    assert status_of(half).state == "stopped"
    with output_lock(half):
        status = status_of(half)
        assert (status.state, status.process, status.machine) == ("running", os.getpid(), platform.node())
        assert status.remaining_s > 0
        with pytest.raises(ValueError, match="no other run"), output_lock(half):  # it is still held
            pass
    assert "step 6 of 12" in lines_of(status)[0]


def test_a_note_that_a_killed_run_left_is_no_process(half):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (half / HOLDER_NAME).write_text(f"process {ended.pid} on {platform.node()}\n")
    assert status_of(half).state == "stopped"
    note = half / HOLDER_NAME
    note.write_text(f"process {os.getppid()} on {platform.node()}\n")
    os.utime(note, (1.0, 1.0))  # written long before this process began: its number is another's now
    assert status_of(half).state == "stopped"
    note.write_text(f"process {ended.pid} on another-machine\n")
    assert status_of(half).state == "elsewhere"


def test_a_damaged_checkpoint_is_said(half):
    part = checkpoints(half)[-1] / "trainable.safetensors"
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    assert "SHA-256" in status_of(half).checkpoint_fault
    assert status_of(half, checksums=False).checkpoint_fault is None
    assert "DAMAGED" in "\n".join(lines_of(status_of(half)))
    assert checkpoints(half)[-1] == part.parent, "looking changes nothing"


def test_the_command_reads_a_folder_of_runs(finished):
    runner = CliRunner()
    shown = runner.invoke(app, ["status", str(finished.parent), "--json"])
    assert shown.exit_code == 0
    assert [json.loads(line)["stage"] for line in shown.stdout.splitlines()] == ["toy"]
    assert "toy: finished, step 6 of 6" in runner.invoke(app, ["status", str(finished)]).stdout
    nothing = runner.invoke(app, ["status", str(finished / "checkpoints" / "none")])
    assert nothing.exit_code == 1
    assert "expected the output folder of a run" in nothing.stderr


def test_a_stage_without_steps_has_a_record_only(tmp_path):
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / RECORD_NAME).write_text(json.dumps({"stage": "package", "recipe": {"stage": "package"}, "metrics": {}}))
    assert run_folders(tmp_path) == [folder]
    status = status_of(folder)
    assert (status.state, status.stage, status.steps) == ("finished", "package", None)
