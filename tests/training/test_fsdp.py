"""Sharded training: the losses of one process, checkpoints for any number of processes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import ProcessRaisedException

import forked
from echox.config import to_dict
from echox.training.checkpoints.checkpoint import checkpoints
from echox.training.loop import train
from echox.training.networks import parallel
from echox.training.networks.parallel import precision_policy, process_group, shard, whole
from test_ddp import LayerNormStage
from test_loop import config
from tolerance import assert_equal_up_to_rounding

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part"),
]


class NamedNorm(nn.LayerNorm):
    """A block that is sharded apart."""


class ShardedStage(LayerNormStage):
    """With a block of its own, and buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.model.norm = NamedNorm(8)
        self.model._no_split_modules = ["NamedNorm"]

    def save(self, folder: Path) -> None:
        torch.save(self.model.state_dict(), folder / "model.pt")


def run(folder: str, accumulation_steps: int, **changes: object) -> None:
    choices = {"steps": 8, "save_every_steps": 3, "evaluate_every_steps": 4, "sample_every_steps": 4, **changes}
    settings = config(folder, accumulation_steps=accumulation_steps, **choices)
    train(ShardedStage(), settings, {"stage": "toy", "training": to_dict(settings)})


def two(folder: Path, **changes: object) -> None:
    forked.two(partial(run, str(folder), accumulation_steps=2, parallel="fsdp", **changes))


def four(folder: Path, **changes: object) -> None:
    """Two machines of two processes each."""
    forked.several((2, 2), partial(run, str(folder), accumulation_steps=1, parallel="hybrid", **changes))


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_two_shards_equal_one_process(tmp_path):
    two(tmp_path / "two", ema_decay=0.9, log_every_steps=1)
    equals_one_process(tmp_path / "two", tmp_path / "one")


def equals_one_process(sharded: Path, whole: Path) -> None:
    run(str(whole), accumulation_steps=4, ema_decay=0.9, log_every_steps=1)
    assert_equal_up_to_rounding(losses(sharded), losses(whole))
    one, other = (torch.load(folder / "model.pt", weights_only=True) for folder in (whole, sharded))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert_equal_up_to_rounding(other[name], value)
    assert all((path / "sharded").is_dir() for path in checkpoints(sharded))
    assert (sharded / "samples" / "step_0000004" / "sample.txt").exists()


def test_shards_inside_two_machines_equal_one_process(tmp_path):
    four(tmp_path / "four", ema_decay=0.9, log_every_steps=1)
    equals_one_process(tmp_path / "four", tmp_path / "one")


def test_machines_of_different_sizes_are_refused(tmp_path):
    with pytest.raises(ProcessRaisedException, match=r"as many processes on each machine.*found \[1, 2\] of 3"):
        forked.several((2, 1), partial(run, str(tmp_path), accumulation_steps=1, parallel="hybrid"))


@pytest.mark.parametrize("continued_by", ["one", "two", "two from one", "one from four", "four from one"])
def test_a_checkpoint_is_for_any_number_of_processes(tmp_path, continued_by):
    run(str(tmp_path / "whole"), accumulation_steps=4, ema_decay=0.9, hold_ratio=1.0)
    begun, ended = ({"steps": steps, "ema_decay": 0.9, "hold_ratio": 1.0} for steps in (5, 8))  # no schedule
    begun["save_in_background"] = True
    by = {"one": partial(run, accumulation_steps=4), "two": two, "four": four}
    second, _, first = continued_by.partition(" from ")
    by[first or "two"](str(tmp_path / "cut"), **begun)
    by[second](str(tmp_path / "cut"), **ended)
    whole, cut = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "cut"))
    for name, value in whole.items():
        assert_equal_up_to_rounding(cut[name], value)


class OneWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, factor: float) -> torch.Tensor:
        return (self.weight * factor).sum()


def small_gradients_beside_large_ones(folder: str) -> None:
    """As on a GPU: weights in bfloat16. One process has a gradient of 1 and three of 2^-9, the other four of 2^-9."""
    chosen = config(folder, parallel="fsdp", precision="bf16")
    gpu = precision_policy("bf16", torch.device("cuda"))
    with process_group(chosen) as (rank, _, device), mock.patch.object(parallel, "precision_policy", return_value=gpu):
        objective = OneWeight()
        (root,) = shard(objective, chosen, device)
        factors = [1.0 if rank == 0 else 2.0**-9, 2.0**-9, 2.0**-9, 2.0**-9]
        for place, factor in enumerate(factors):
            root.set_requires_gradient_sync(place == len(factors) - 1)
            objective(factor).backward()
        found = whole(objective.weight.grad)
        assert found.dtype == torch.float32
        assert found.tolist() == [(1 + 7 * 2.0**-9) / 2] * 4, "the mean, of which bfloat16 would lose the small ones"


def test_gradients_of_bfloat16_weights_are_summed_in_float32(tmp_path):
    forked.two(small_gradients_beside_large_ones, str(tmp_path))


def test_another_number_of_micro_batches_is_refused(tmp_path):
    two(tmp_path, steps=3)
    with pytest.raises(ValueError, match="expected 4 micro-batches"):
        run(str(tmp_path), accumulation_steps=2)


def test_a_damaged_shard_is_refused(tmp_path):
    two(tmp_path, steps=3)
    part = next((checkpoints(tmp_path)[-1] / "sharded").glob("*.distcp"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(ValueError, match="expected the SHA-256"):
        run(str(tmp_path), accumulation_steps=4)
