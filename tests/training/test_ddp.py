from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

import forked
from echox.config import to_dict
from echox.training.checkpoints.checkpoint import checkpoints
from echox.training.control.attempts import first_attempt
from echox.training.loop import train
from echox.training.networks.parallel import process_group
from test_loop import ToyStage, config
from tolerance import assert_equal_up_to_rounding


class LayerNormStage(ToyStage):
    """Batch statistics differ between one process and two by design: take a norm without them."""

    def __init__(self) -> None:
        super().__init__()
        self.model.norm = nn.LayerNorm(8)


def run(folder: str, accumulation_steps: int) -> None:
    settings = config(
        folder,
        accumulation_steps=accumulation_steps,
        steps=8,
        save_every_steps=3,
        evaluate_every_steps=4,
        batch_by="total_length",
        batch_size=7,
    )
    train(LayerNormStage(), settings, {"stage": "toy", "training": to_dict(settings)})


def note_attempts(folder: str) -> None:
    """Of two torchruns the second has started its process again; the other's was started again by nothing it counts."""
    rank, found = os.environ["RANK"], []
    with process_group(config(folder)) as (_, _, device):
        for count in ("0", rank):
            os.environ["TORCHELASTIC_RESTART_COUNT"] = count
            found.append(first_attempt(device))
    Path(folder, rank).write_text(str(found))


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
def test_processes_agree_whether_this_is_their_first_attempt(tmp_path: Path):
    forked.two(note_attempts, str(tmp_path))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["[True, False]"] * 2


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
def test_two_processes_equal_one_that_accumulates(tmp_path: Path):
    forked.two(run, str(tmp_path / "two"), 2)
    run(str(tmp_path / "one"), accumulation_steps=4)
    one, two = (checkpoints(tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two] == ["step_0000006", "step_0000008"]
    first, second = (load_file(paths[-1] / "trainable.safetensors") for paths in (one, two))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert_equal_up_to_rounding(second[name], value)
    assert (tmp_path / "two" / "training_record.json").exists()
