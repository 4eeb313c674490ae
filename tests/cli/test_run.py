"""``echox run``: every kind of recipe through one command; old names of commands do the same and say so."""

import json
from dataclasses import dataclass, field

import pytest
import typer
import yaml
from typer.testing import CliRunner

from echox.cli.main import app
from echox.config import TrainingConfig, recipe
from test_loop import ToyStage


@recipe("cli_toy_training")
@dataclass
class ToyTraining:
    stage: str
    training: TrainingConfig

    def build(self):
        return ToyStage()


@recipe("cli_toy_data")
@dataclass
class ToyData:
    stage: str
    items: int = 2
    names: list[str] = field(default_factory=list)

    def run(self):
        return {"items": self.items}


OLD_NAMES = {
    ("train",): "echox run",
    ("prepare",): "echox run",
    ("data", "prepare"): "echox run",
    ("eval", "nano"): "echox eval run --task nano",
    ("bench", "trigger"): "echox eval trigger",
    ("analyze", "gap"): "echox eval gap",
}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def training(tmp_path):
    settings = {
        "output_dir": str(tmp_path / "out"),
        "steps": 3,
        "batch_size": 2,
        "warmup_steps": 1,
        "learning_rates": {"head": 1e-3, "norm": 1e-3},
    }
    path = tmp_path / "training.yaml"
    path.write_text(yaml.safe_dump({"stage": "cli_toy_training", "training": settings}), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.yaml"
    path.write_text("stage: cli_toy_data\n", encoding="utf-8")
    return path


def test_a_stage_is_trained_and_its_record_keeps_the_overrides(training, tmp_path):
    result = run("run", training, "training.steps=2", "--overfit-one-batch")
    assert result.exit_code == 0, result.output
    assert "weight_norm" in json.loads(result.stdout.splitlines()[-1])
    record = json.loads((tmp_path / "out" / "training_record.json").read_text())
    assert record["steps"] == 2
    assert record["recipe"]["training"]["overfit_one_batch"] is True


def test_a_recipe_that_makes_data_is_run(data):
    assert json.loads(run("run", data, "items=5").stdout) == {"items": 5}


@pytest.mark.parametrize("option", [("--dry-run",), ("--ray", "local")])
def test_options_of_data_preparation_are_refused_elsewhere(data, option):
    result = run("run", data, *option)
    assert result.exit_code == 1
    assert f"{option[0]}: expected a recipe of stage prepare_data, found stage 'cli_toy_data'" in result.stderr


@pytest.mark.parametrize("old", [("train",), ("prepare",), ("data", "prepare")], ids=" ".join)
def test_old_names_run_the_same_recipe(data, old):
    result = run(*old, data, "items=3")
    assert json.loads(result.stdout) == {"items": 3}
    assert result.stderr.splitlines() == [
        f"`echox {' '.join(old)}` is now `echox run`; the next release drops the old name"
    ]


@pytest.mark.parametrize("old", OLD_NAMES, ids=" ".join)
def test_old_names_are_hidden_and_name_a_command_that_takes_their_options(old):
    old_command, new_command = command_of(old), command_of(OLD_NAMES[old].split()[1:3])
    assert old_command.hidden or command_of(old[:1]).hidden
    assert {one.name for one in old_command.params} <= {one.name for one in new_command.params}


@pytest.mark.parametrize("old", [("eval", "nano"), ("bench", "trigger"), ("analyze", "gap")], ids=" ".join)
def test_old_names_say_the_new_one_before_anything_else(old, tmp_path):
    folder = "--dialogues" if old[-1] == "gap" else "--data"
    result = run(*old, folder, tmp_path / "nothing", "--model", tmp_path / "nothing")
    assert result.exit_code == 1
    first, *others = result.stderr.splitlines()
    assert first.startswith(f"`echox {' '.join(old)}` is now `{OLD_NAMES[old]}`;")
    assert others[-1].startswith("error: ")


def command_of(names):
    command = typer.main.get_command(app)
    for name in names:
        command = command.commands[name]
    return command
