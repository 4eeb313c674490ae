"""A loss or gradient that is not finite: back to the newest checkpoint, past the batches since, but not for ever."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import forked
from echox.config import to_dict
from echox.training.checkpoints.checkpoint import checkpoints
from echox.training.control.health import NonFiniteLossError
from echox.training.loop import train
from test_ddp import LayerNormStage
from test_loop import config, same
from tolerance import assert_equal_up_to_rounding


class DamagedStage(LayerNormStage):
    """Some items of its data are not numbers."""

    def __init__(self, *bad: int) -> None:
        super().__init__()
        self.x[list(bad)] = float("nan")

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "model.pt")


def run(folder: Path, *bad: int, **changes: object) -> DamagedStage:
    choices = {"max_rollbacks": 3, "steps": 9, "save_every_steps": 3, "log_every_steps": 1, **changes}
    settings = config(folder, **choices)
    stage = DamagedStage(*bad)
    train(stage, settings, {"stage": "toy", "training": to_dict(settings)})
    return stage


def entries(folder: Path, kind: str) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_a_damaged_batch_is_left_out(tmp_path):
    stage = run(tmp_path, 17)  # each of two epochs meets it once
    back = entries(tmp_path, "rollback")
    assert back
    assert all(entry["step"] in (0, 3, 6) and entry["failed_step"] > entry["step"] for entry in back)
    assert [entry["rollbacks"] for entry in back] == list(range(1, len(back) + 1))
    assert [entry["step"] for entry in entries(tmp_path, "train")] == list(range(1, 10))
    assert all(value.isfinite().all() for value in stage.model.state_dict().values())
    state = json.loads((checkpoints(tmp_path)[-1] / "state.json").read_text())
    assert state["rollbacks"] == len(back)


def test_it_is_the_same_again_and_after_a_kill(tmp_path):
    whole = run(tmp_path / "whole", 17)
    again = run(tmp_path / "again", 17)
    assert same(whole.model, again.model)
    with pytest.raises(NonFiniteLossError):  # stopped at the damaged batch; then continued with leave to go back
        run(tmp_path / "cut", 17, max_rollbacks=0)
    if not checkpoints(tmp_path / "cut"):
        pytest.fail("the damaged batch must come after a checkpoint, or this says nothing")
    cut = run(tmp_path / "cut", 17)
    assert same(whole.model, cut.model)


def test_what_is_always_wrong_stops_after_the_last_rollback(tmp_path):
    with pytest.raises(NonFiniteLossError, match="step 1: loss = nan"):
        run(tmp_path, *range(30), max_rollbacks=2)
    assert [entry["rollbacks"] for entry in entries(tmp_path, "rollback")] == [1, 2]


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_all_processes_go_back_when_one_finds_it(tmp_path, parallel):
    forked.two(partial(run, tmp_path / "two", 17, parallel=parallel, accumulation_steps=1))
    run(tmp_path / "one", 17, accumulation_steps=2)
    assert entries(tmp_path / "two", "rollback") == entries(tmp_path / "one", "rollback") != []
    two = torch.load(tmp_path / "two" / "model.pt", weights_only=True)
    saved = torch.load(tmp_path / "one" / "model.pt", weights_only=True)
    for name, value in saved.items():
        assert_equal_up_to_rounding(two[name], value)


def test_a_negative_number_is_refused(tmp_path):
    with pytest.raises(ValueError, match="max_rollbacks: expected 0 or more, found -1"):
        config(tmp_path, max_rollbacks=-1)
