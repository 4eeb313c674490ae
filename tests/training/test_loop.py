from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from echox.config import TrainingConfig, recipe, to_dict
from echox.training.batches.normalisation import share_of_step
from echox.training.batches.stream import BatchStream
from echox.training.checkpoints import writing as checkpoint_writing
from echox.training.checkpoints.checkpoint import TrainingProgress, checkpoints
from echox.training.control.attempts import LAUNCHER_COUNT
from echox.training.control.health import NonFiniteLossError
from echox.training.control.lock import output_lock
from echox.training.control.stopping import STOP_FILE, STOPPED
from echox.training.loop import main, run_loaded, train
from echox.training.networks.optim import WeightAverage, build_optimizer, learning_rate_factor
from echox.training.records.record import code_state, environment, finished_record
from echox.training.stage import Stage
from waiting import wait_until


class ToyObjective(nn.Module):
    """Regression with dropout: its result depends on the random state of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 8).requires_grad_(False)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 1)
        self.break_at: int | None = None
        self.calls = 0

    def denominators(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"fit_loss": torch.tensor(len(batch["y"])), "size_loss": torch.tensor(1)}

    def forward(self, batch: dict[str, torch.Tensor], denominators=None) -> dict[str, torch.Tensor]:
        self.calls += 1
        states = torch.dropout(self.norm(self.frozen(batch["x"])), 0.2, self.training)
        fit_loss = (self.head(states).squeeze(-1) - batch["y"]).square().mean()
        size_loss = self.head.weight.square().mean()
        if self.calls == self.break_at:
            fit_loss = fit_loss * float("nan")
        losses = share_of_step({"fit_loss": fit_loss, "size_loss": size_loss}, self, batch, denominators)
        parts = {name: value.detach() for name, value in losses.items()}
        return {"loss": losses["fit_loss"] + 0.1 * losses["size_loss"], **parts}


class ToyStage:
    name = "toy"

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.objective = self.model = ToyObjective()
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(30, 4, generator=generator)
        self.evaluations: list[torch.Tensor] = []

    def parameter_groups(self):
        return {"head": list(self.model.head.parameters()), "norm": list(self.model.norm.parameters())}

    def dataset(self):
        return list(range(30))

    def lengths(self):
        return [1 + i % 3 for i in range(30)]

    def collate(self, items, rng: random.Random):
        noise = torch.tensor([rng.gauss(0, 0.1) for _ in items])
        return {"x": self.x[items], "y": self.x[items].sum(-1) + noise}

    def evaluate(self):
        assert not self.objective.training
        torch.rand(5)  # evaluation may use randomness: training must not notice
        self.evaluations.append(self.model.head.weight.clone())
        return {"weight_norm": float(self.model.head.weight.norm())}

    def sample(self, folder: Path):
        (folder / "sample.txt").write_text("said\n", encoding="utf-8")

    def save(self, folder: Path):
        torch.save(self.model.state_dict(), folder / "model.pt")


def config(folder, **changes: Any) -> TrainingConfig:
    base = TrainingConfig(
        output_dir=str(folder),
        steps=12,
        batch_size=4,
        learning_rates={"head": 0.05, "norm": 0.01},
        warmup_steps=3,
        precision="fp32",
        ema_decay=0.9,
        log_every_steps=4,
        save_every_steps=5,
        tensorboard=False,
    )
    return replace(base, **changes)


def run(folder, stage=None, **changes):
    settings = config(folder, **changes)
    stage = stage or ToyStage()
    metrics = train(stage, settings, {"stage": "toy", "training": to_dict(settings)})
    return stage, metrics


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_toy_is_a_stage():
    assert isinstance(ToyStage(), Stage)


def test_a_record_names_the_code_that_was_loaded_not_what_is_checked_out_at_the_end(monkeypatch):
    class Hours:
        """A stage during which somebody commits."""

        def run(self):
            later = SimpleNamespace(stdout="new")
            monkeypatch.setattr("echox.training.records.record.subprocess.run", lambda *_, **__: later)
            return environment()

    code_state.cache_clear()
    before = dict(code_state())
    code_state.cache_clear()
    found = run_loaded(Hours())
    assert {"commit": found["commit"], "dirty": found["dirty"]} == before
    assert found["commit"] != "new"


def test_a_run_leaves_weights_logs_samples_and_record(tmp_path):
    stage, metrics = run(tmp_path, evaluate_every_steps=6, sample_every_steps=6)
    record = json.loads((tmp_path / "training_record.json").read_text())
    assert record["metrics"] == metrics
    assert record["steps"] == 12
    assert record["cost"]["wall_s"] >= 0
    assert record["recipe"]["training"]["learning_rates"] == {"head": 0.05, "norm": 0.01}
    assert record["environment"]["versions"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [4, 8, 12]
    assert [line["step"] for line in lines if line["kind"] == "evaluation"] == [6, 12]
    assert {"loss", "fit_loss", "size_loss", "gradient_norm", "items_per_s"} <= lines[0].keys()
    assert (tmp_path / "samples" / "step_0000006" / "sample.txt").exists()
    assert [path.name for path in checkpoints(tmp_path)] == ["step_0000010", "step_0000012"]
    assert not list(tmp_path.rglob(".partial*"))
    # The final model and evaluations are the averaged weights; training went on with its own.
    assert torch.equal(torch.load(tmp_path / "model.pt")["head.weight"], stage.evaluations[-1])
    assert not torch.equal(stage.model.head.weight, stage.evaluations[-1])


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_resume_equals_uninterrupted(tmp_path, accumulation_steps, monkeypatch):
    whole, metrics = run(tmp_path / "whole", accumulation_steps=accumulation_steps, evaluate_every_steps=4)

    class Killed(RuntimeError):
        pass

    broken = ToyStage()
    forward = broken.objective.forward

    def dies(*arguments):
        if broken.objective.calls == 9 * accumulation_steps:
            raise Killed
        return forward(*arguments)

    monkeypatch.setattr(broken.objective, "forward", dies)
    with pytest.raises(Killed):
        run(tmp_path / "parts", broken, accumulation_steps=accumulation_steps)
    assert [path.name for path in checkpoints(tmp_path / "parts")] == ["step_0000005"]
    resumed, resumed_metrics = run(tmp_path / "parts", accumulation_steps=accumulation_steps)
    assert resumed.objective.calls == 7 * accumulation_steps
    assert same(whole.model, resumed.model)
    assert resumed_metrics == metrics
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert steps == [4, 8, 12, 12]


def test_an_empty_evaluation_warns(tmp_path, capsys):
    stage = ToyStage()
    stage.evaluate = dict
    run(tmp_path / "at_the_end", stage)
    assert capsys.readouterr().out.count("toy: WARNING: expected held-out items") == 1
    stage = ToyStage()
    stage.evaluation_items = []
    run(tmp_path / "at_the_start", stage)
    assert "toy: WARNING: expected held-out items" in capsys.readouterr().out.split("step")[0]
    run(tmp_path / "held_out")
    assert "WARNING" not in capsys.readouterr().out


def test_resume_false_starts_again(tmp_path):
    first, _ = run(tmp_path)
    second, _ = run(tmp_path, resume=False)
    assert second.objective.calls == 12
    assert same(first.model, second.model)


COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT", LAUNCHER_COUNT)


@pytest.mark.parametrize("variable", COUNTS)
def test_resume_false_starts_again_only_once(variable, tmp_path, monkeypatch):
    """What a launcher starts again goes on; the old run is gone all the same, and a new call starts again."""
    for name in COUNTS:
        monkeypatch.setenv(name, "0")
    run(tmp_path)
    assert stopped(tmp_path, resume=False) == STOPPED  # in its sixth step
    monkeypatch.setenv(variable, "1")
    assert run(tmp_path, resume=False)[0].objective.calls == 6
    assert run(tmp_path, resume=False)[0].objective.calls == 0  # only the end is done again
    monkeypatch.setenv(variable, "0")
    assert run(tmp_path, resume=False)[0].objective.calls == 12


def test_another_recipe_is_not_continued(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="training.weight_decay was 0.01, is 0.5.*training.resume=false"):
        run(tmp_path, weight_decay=0.5)
    stage, _ = run(tmp_path, steps=14, log_every_steps=1)  # more steps are a continuation
    assert stage.objective.calls == 2


def test_damaged_checkpoint_is_named(tmp_path):
    run(tmp_path)
    (tmp_path / "checkpoints" / "step_0000012" / "trainable.safetensors").unlink()
    with pytest.raises(ValueError, match="step_0000012: expected the parts .* missing: .'trainable.safetensors'"):
        run(tmp_path, steps=14)


def test_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    def no_space(path: Path) -> None:
        if "0000010" in str(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writing, "_flush", no_space)
    with pytest.raises(OSError, match="No space left on device.*continues from the newest"):
        run(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_0000005"]
    monkeypatch.undo()
    assert run(tmp_path)[0].objective.calls == 7


def test_a_checkpoint_in_the_background_is_of_its_moment(tmp_path, monkeypatch):
    """It is written when the run has gone on, and holds what one that was written at once holds."""
    run(tmp_path / "at_once", save_every_steps=3, keep_checkpoints=9)
    stage, seen = ToyStage(), []
    write_tensors = checkpoint_writing.write_tensors

    def late(path, tensors):
        if "0000003" in str(path):
            wait_until(lambda: stage.objective.calls >= 5, "two more steps")
        seen.append(stage.objective.calls)
        write_tensors(path, tensors)

    monkeypatch.setattr(checkpoint_writing, "write_tensors", late)
    run(tmp_path / "later", stage, save_every_steps=3, keep_checkpoints=9, save_in_background=True)
    assert seen[0] >= 5
    first, second = (checkpoints(tmp_path / name) for name in ("at_once", "later"))
    assert [path.name for path in first] == [path.name for path in second]
    assert len(first) == 4
    for one, other in zip(first, second, strict=True):
        for name in ("trainable.safetensors", "average.safetensors"):
            assert (one / name).read_bytes() == (other / name).read_bytes()
        ours, theirs = (torch.load(path / "optimizer.pt", weights_only=True)["state"] for path in (one, other))
        assert all(torch.equal(ours[key][part], theirs[key][part]) for key in ours for part in ours[key])


def test_a_full_disk_in_the_background_stops_the_run(tmp_path, monkeypatch):
    def no_space(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writing, "_flush", no_space)
    with pytest.raises(OSError, match="No space left on device.*continues from the newest"):
        run(tmp_path, save_every_steps=5, save_in_background=True)
    assert not list((tmp_path / "checkpoints").iterdir())


def stopped(folder: Path, **changes: Any) -> int:
    """Run the toy until it is told to stop in its sixth step; the exit status."""
    stage = ToyStage()
    stage.objective.register_forward_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGUSR1) if stage.objective.calls == 6 else None
    )
    with pytest.raises(SystemExit) as ended:
        run(folder, stage, **changes)
    return ended.value.code


@pytest.mark.parametrize("background", [False, True])
def test_a_run_that_is_told_to_stop_continues_as_if_it_had_not(tmp_path, background):
    whole, _ = run(tmp_path / "whole")
    before = signal.getsignal(signal.SIGUSR1)
    assert stopped(tmp_path / "cut", save_in_background=background) == STOPPED
    assert signal.getsignal(signal.SIGUSR1) == before
    assert [path.name for path in checkpoints(tmp_path / "cut")] == ["step_0000005", "step_0000006"]
    cut, _ = run(tmp_path / "cut")
    assert cut.objective.calls == 6
    assert same(cut.model, whole.model)


@pytest.mark.parametrize(("torchrun", "status"), [(False, STOPPED), (True, 0)])
def test_a_file_tells_a_run_to_stop(torchrun, status, tmp_path, monkeypatch):
    """Under torchrun without an error: it would start it again."""
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    (tmp_path / "stop").touch()
    monkeypatch.setenv(STOP_FILE, str(tmp_path / "stop"))
    with pytest.raises(SystemExit) as ended:
        run(tmp_path / "run")
    assert ended.value.code == status
    assert [path.name for path in checkpoints(tmp_path / "run")] == ["step_0000001"]
    (tmp_path / "stop").unlink()
    assert run(tmp_path / "run")[0].objective.calls == 11


def test_full_disk_at_the_end_leaves_nothing_half_written(tmp_path):
    stage = ToyStage()

    def no_space(folder: Path) -> None:
        (folder / "model.pt").write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    stage.save = no_space
    with pytest.raises(OSError, match=r"final model .*No space left.*continues from the newest"):
        run(tmp_path, stage)
    assert not list(tmp_path.rglob("model.pt"))
    assert not (tmp_path / "training_record.json").exists()
    again, _ = run(tmp_path)
    assert again.objective.calls == 0, "only the end is done again"
    assert (tmp_path / "model.pt").exists()


def test_a_repeated_run_that_is_killed_does_not_count_as_finished(tmp_path):
    run(tmp_path)
    stage = ToyStage()
    stage.objective.break_at = 3
    with pytest.raises(NonFiniteLossError):
        run(tmp_path, stage, resume=False)
    assert finished_record(config(tmp_path), {"stage": "toy", "training": to_dict(config(tmp_path))}) is None


def test_what_a_kill_left_behind_is_no_checkpoint(tmp_path, monkeypatch):
    removed = []
    monkeypatch.setattr(checkpoint_writing.shutil, "rmtree", lambda path, **_: removed.append(Path(path).name))
    run(tmp_path, save_every_steps=3, keep_checkpoints=1)  # a kill before anything is deleted
    assert [path.name for path in checkpoints(tmp_path)] == ["step_0000012"]
    assert ".partial_step_0000003" in removed
    monkeypatch.undo()
    run(tmp_path, steps=13)
    assert not list((tmp_path / "checkpoints").glob(".partial_*"))


def test_only_trainable_moves_and_is_stored(tmp_path):
    before = ToyStage().model.state_dict()
    stage, _ = run(tmp_path)
    moved = {name for name, value in stage.model.state_dict().items() if not torch.equal(value, before[name])}
    assert "head.weight" in moved
    assert not any(name.startswith("frozen") for name in moved)
    stored = load_file(checkpoints(tmp_path)[-1] / "trainable.safetensors")
    assert "norm.running_mean" in stored
    assert not any(name.startswith("frozen") for name in stored)


def test_what_is_frozen_is_in_evaluation_mode_in_every_step(tmp_path):
    stage, modes = ToyStage(), []
    objective = stage.objective
    objective.frozen = nn.Sequential(objective.frozen, nn.Dropout(0.5))
    forward = objective.forward

    def noted(*arguments):
        modes.append((objective.training, objective.norm.training, objective.frozen[1].training))
        return forward(*arguments)

    objective.forward = noted
    run(tmp_path, stage, evaluate_every_steps=4)
    assert set(modes) == {(True, True, False)}


def test_overfit_one_batch(tmp_path):
    stage = ToyStage()
    seen = []
    collate = stage.collate
    stage.collate = lambda items, rng: seen.append(tuple(items)) or collate(items, rng)
    run(tmp_path, stage, overfit_one_batch=True)
    assert len(set(seen)) == 1


def test_non_finite_loss_stops_with_step_and_part(tmp_path):
    stage = ToyStage()
    stage.objective.break_at = 7
    with pytest.raises(NonFiniteLossError, match="step 7: loss = nan, fit_loss = nan; expected finite"):
        run(tmp_path, stage)
    assert issubclass(NonFiniteLossError, ValueError)


def test_non_finite_gradient_stops_before_the_weights_move(tmp_path):
    stage = ToyStage()
    stage.model.head.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = stage.model.head.weight.detach().clone()
    with pytest.raises(NonFiniteLossError, match="step 1: gradient_norm = (nan|inf); expected finite"):
        run(tmp_path, stage)
    assert torch.equal(stage.model.head.weight, before)
    assert not checkpoints(tmp_path)


def edit_group(stage, groups):
    stage.parameter_groups = lambda: groups(stage.model)
    return stage


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            lambda m: {"head": list(m.head.parameters()), "norm": [m.norm.weight]},
            r"in no parameter group.*\(norm.bias\)",
        ),
        (lambda m: {"head": list(m.parameters()), "norm": [m.norm.weight]}, "two parameter groups"),
        (lambda m: {"head": list(m.head.parameters())}, "expected exactly the groups"),
        (lambda m: {"head": [*m.head.parameters(), m.frozen.bias], "norm": [*m.norm.parameters()]}, "but frozen"),
        (lambda m: {"head": [*m.head.parameters()], "norm": []}, "'norm' is empty"),
        (lambda m: {"head": [nn.Parameter(torch.zeros(1))], "norm": []}, "not in `objective`"),
    ],
)
def test_wrong_trainables(tmp_path, groups, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, edit_group(ToyStage(), groups))


def test_gradient_leaks_and_dead_groups_are_found(tmp_path):
    leaking = ToyStage()
    leaking.model.frozen.bias.grad = torch.zeros(8)
    with pytest.raises(ValueError, match="frozen parameter frozen.bias received a gradient"):
        run(tmp_path / "a", leaking)
    dead = ToyStage()
    dead.objective.norm.forward = lambda x: x
    with pytest.raises(ValueError, match="group 'norm' received a gradient: the loss does not depend"):
        run(tmp_path / "b", dead)


@pytest.mark.parametrize(
    ("returned", "message"),
    [({"fit_loss": torch.zeros(())}, "key 'loss'"), ({"loss": torch.zeros(2)}, "scalar 'loss'")],
)
def test_malformed_losses(tmp_path, returned, message):
    stage = ToyStage()
    stage.objective.forward = lambda batch: returned
    with pytest.raises(ValueError, match=message):
        run(tmp_path, stage)


def test_errors_in_collate_reach_the_caller(tmp_path):
    stage = ToyStage()
    stage.collate = lambda items, rng: {}["missing"]
    with pytest.raises(KeyError, match="missing"):
        run(tmp_path, stage)


def test_bf16_and_clipping_by_group(tmp_path):
    stage, metrics = run(tmp_path, precision="bf16", clip_by_group=True, ema_decay=0.0)
    assert metrics["weight_norm"] > 0


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_schedule(schedule):
    settings = config("x", steps=100, warmup_steps=10, hold_ratio=0.2, final_lr_ratio=0.1, schedule=schedule)
    rates = [learning_rate_factor(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert all(rate == 1.0 for rate in rates[10:28])
    assert all(later < earlier for earlier, later in zip(rates[29:], rates[30:], strict=False))
    assert rates[-1] == pytest.approx(0.1)
    assert sum(rates[28:]) / 72 == pytest.approx(0.55, abs=0.01)


def test_weight_decay_spares_vectors():
    model = ToyObjective()
    groups = {"head": list(model.head.parameters()), "norm": list(model.norm.parameters())}
    optimizer = build_optimizer(groups, config("x"))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays[id(model.head.weight)] == 0.01
    assert decays[id(model.head.bias)] == decays[id(model.norm.weight)] == 0.0


def test_weight_average_follows_and_gives_back():
    weight = nn.Parameter(torch.zeros(2))
    average = WeightAverage({"w": weight}, decay=0.5)
    for _ in range(60):
        weight.data.fill_(1.0)
        average.update()
    weight.data.fill_(7.0)
    with average.applied():
        assert torch.allclose(weight, torch.ones(2), atol=1e-4)
    assert torch.equal(weight, torch.full((2,), 7.0))


def test_ranks_share_the_batches_of_one_process():
    settings = config("x")

    def take(count, rank=0, world=1, start=None):
        collate = lambda items, rng: {"items": items, "draw": rng.random()}  # noqa: E731
        stream = BatchStream(list(range(30)), [1] * 30, collate, settings, start or TrainingProgress(), rank, world)
        micro = [next(stream) for _ in range(count)]
        stream.close()
        return micro

    alone = take(24)
    pairs = [take(12, rank, 2) for rank in (0, 1)]
    mixed = [micro for both in zip(*pairs, strict=True) for micro in both]
    assert [m.tensors for m in mixed] == [m.tensors for m in alone]
    assert [m.place for m in mixed] == [m.place for m in alone] == list(range(24))
    assert len({str(m.tensors) for m in alone}) == 24
    later = take(5, start=TrainingProgress(step=9, epoch=alone[8].epoch_after, batch=alone[8].batch_after))
    assert [(m.place, m.tensors) for m in later] == [(m.place, m.tensors) for m in alone[9:14]]


@recipe("toy_training")
@dataclass
class ToyRecipe:
    stage: str
    training: TrainingConfig

    def build(self) -> ToyStage:
        return ToyStage()


@recipe("toy_script")
@dataclass
class ScriptRecipe:
    stage: str
    path: str

    def run(self) -> None:
        Path(self.path).write_text("done", encoding="utf-8")


def test_command_line(tmp_path, capsys):
    path = tmp_path / "toy.yaml"
    path.write_text(
        f"stage: toy_training\ntraining: {{output_dir: {tmp_path}/out, steps: 2, batch_size: 4, precision: fp32, "
        "learning_rates: {head: 0.1, norm: 0.1}, tensorboard: false}\n"
    )
    assert main([str(path), "training.seed=3", "--overfit-one-batch"]) == 0
    record = json.loads((tmp_path / "out/training_record.json").read_text())
    assert record["seed"] == 3
    assert record["recipe"]["training"]["overfit_one_batch"]
    assert main([str(path), "training.seed=3", "--overfit-one-batch"]) == 0
    assert "already trained" in capsys.readouterr().out
    assert main([str(path), "training.stepz=3"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "did you mean 'steps'" in error
    assert main([str(path), "training.device=abacus", "training.resume=false"]) == 1
    assert "found 'abacus'" in capsys.readouterr().err
    script = tmp_path / "script.yaml"
    script.write_text(f"stage: toy_script\npath: {tmp_path}/made\n")
    assert main([str(script)]) == 0
    assert (tmp_path / "made").read_text() == "done"


def test_two_runs_in_one_folder_are_refused(tmp_path, capsys, monkeypatch):
    path = tmp_path / "toy.yaml"
    path.write_text(
        f"stage: toy_training\ntraining: {{output_dir: {tmp_path}/out, steps: 2, batch_size: 4, precision: fp32, "
        "learning_rates: {head: 0.1, norm: 0.1}, tensorboard: false}\n"
    )
    with output_lock(tmp_path / "out"):
        assert main([str(path)]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"{tmp_path}/out: expected a folder that no other run writes to, found one of process" in error
        assert not (tmp_path / "out" / "checkpoints").exists()
        monkeypatch.setenv("RANK", "1")
        with output_lock(tmp_path / "out"):  # another process of the same run
            pass
        monkeypatch.delenv("RANK")
    assert main([str(path)]) == 0, "given up at the end"


def test_a_killed_run_gives_its_folder_up(tmp_path):
    script = (
        "import sys, time\nfrom echox.training.control.lock import output_lock\n"
        "with output_lock(sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=f"found one of process {holder.pid} on "), output_lock(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with output_lock(tmp_path):
        pass


def test_a_stage_that_does_not_pack_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"training\.packing: stage 'toy' does not pack sequences"):
        run(tmp_path, packing=True)
