"""Every stage, sharded over two processes (FSDP2), has the losses of one process that accumulates twice as much."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import forked
from echox.config import load_recipe, to_dict
from echox.models.text import chunked_loss
from echox.training.batches.stream import seed_everything
from echox.training.checkpoints.checkpoint import checkpoints
from echox.training.loop import train
from echox.training.networks import parallel
from echox.training.stages.hearing.s2t import S2TStage
from echox.training.stages.speaking.echo import EchoStage
from echox.training.stages.speaking.echo_targets import cut_replies
from test_echo_stage import TRIGGER, echo_recipe
from test_echo_stage import world as world
from test_encoder_stage import corpus as corpus
from test_encoder_stage import encoder as encoder
from test_encoder_stage import s2t as s2t
from test_lm import RECIPE as LM_RECIPE
from test_lm import overrides as overrides
from test_s2t_recogniser import stage as recogniser_stage  # noqa: F401 - a fixture, asked for by name
from test_t2c import stage_recipe as t2c_recipe
from test_vocoder_stage import HIFIGAN, HIFIGAN_RATES, LIGHT, load
from test_vocoder_stage import corpus as tones  # noqa: F401 - a fixture, asked for by name
from tiny_speaker import REPLIES

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
STAGES = (
    "lm",
    "encoder",
    "s2t",
    "s2t_half",
    "t2c",
    "echo",
    "echo_spoken",
    "vocoder",
    "vocoder_hifigan",
)


@pytest.fixture(scope="module")
def recipe_of(request, tmp_path_factory) -> Callable[[str], Any]:
    """The tiny recipe of a stage, by name."""

    def get(name: str) -> Any:
        value = request.getfixturevalue
        if name == "lm":
            return load_recipe(LM_RECIPE, value("overrides"))
        if name in ("encoder", "s2t"):
            return value(name).recipe
        if name == "s2t_recogniser":
            return value("recogniser_stage").recipe
        if name == "s2t_half":  # a language model in bfloat16 under a LoRA in float32
            plain = value("s2t").recipe
            folder = tmp_path_factory.mktemp(name)
            AutoTokenizer.from_pretrained(plain.model.language_model).save_pretrained(folder)
            language_model = AutoModelForCausalLM.from_pretrained(plain.model.language_model)
            language_model.to(torch.bfloat16).save_pretrained(folder)
            return replace(plain, model=replace(plain.model, language_model=str(folder)))
        if name == "t2c":
            return t2c_recipe(value("world"))
        if name == "echo":
            return echo_recipe(value("world"))
        if name == "echo_ahead":
            recipe = echo_recipe(value("world"))
            return replace(recipe, targets=replace(recipe.targets, steps_together=2, ahead=True))
        if name == "echo_spoken":
            spoken = {"speech": [str(value("world") / "speech" / "dialogues.jsonl")], "audio_fraction": 0.5}
            return echo_recipe(value("world"), data=spoken, model={"fuse_text_embeddings": True})
        more, rates = (LIGHT, "{vocoder: 1e-3}") if name == "vocoder" else (HIFIGAN, HIFIGAN_RATES)
        return load(value("tones"), tmp_path_factory.mktemp(name), more, rates)

    return get


def trained(recipe: Any, folder: Path, accumulation_steps: int, **changes: Any) -> None:
    """Train the recipe's stage in this process."""
    choices = {
        "steps": 50,
        "batch_size": 2,
        "batch_by": "items",
        "precision": "fp32",
        "log_every_steps": 1,
        "save_every_steps": 0,
        "sample_every_steps": 0,
        "evaluate_every_steps": 0,
        "warmup_steps": 5,
        "tensorboard": False,
        "device": "cpu",
        "ema_decay": 0.9,
    }
    training = replace(
        recipe.training, output_dir=str(folder), accumulation_steps=accumulation_steps, **{**choices, **changes}
    )
    recipe = replace(recipe, training=training)
    seed_everything(0)
    with mock.patch.object(chunked_loss, "MAX_SCORES", 4000):  # about 12 positions: in several chunks even here
        train(recipe.build(), training, to_dict(recipe))


def trained_by_two(recipe: Any, folder: Path, **changes: Any) -> None:
    forked.two(partial(trained, recipe, folder, 1, **changes))


def losses(folder: Path) -> torch.Tensor:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line["loss"] for line in lines if line["kind"] == "train"], dtype=torch.float64)


def difference(recipe: Any, whole: Path, sharded: Path) -> float:
    """The largest difference of a step's loss; relative where the loss is above 1, as float32 is."""
    one, two = losses(whole), losses(sharded)
    assert len(one) == len(two) > 1
    assert one[-1] != one[0], "something was learned"
    assert (checkpoints(sharded)[-1] / "sharded").is_dir()
    found = (one - two).abs()
    relative = float((found / one.abs().clamp_min(1)).max())
    print(
        f"{recipe.stage}: differs by {found.max():.1e} ({relative:.1e} of losses above 1) in {len(one)} steps, "
        f"loss {one[0]:.3f} -> {one[-1]:.3f}"
    )
    return relative


class Heard:
    """Whether there is audio in each micro-batch of a run in this process, from now on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stage: type) -> None:
        self.found: list[bool] = []
        collate = stage.collate  # type: ignore[attr-defined]

        def noted(itself: Any, items: list[Any], rng: Any) -> Any:
            batch = collate(itself, items, rng)
            self.found.append("input_features" in batch.get("s2t", batch))
            return batch

        monkeypatch.setattr(stage, "collate", noted)

    def by_one_of_two(self, steps: int) -> bool:
        """Whether in some step one process heard something, and the other nothing."""
        pairs = zip(self.found[: 2 * steps : 2], self.found[1 : 2 * steps : 2], strict=True)
        return any(first != second for first, second in pairs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parallel"), [("s2t", "ddp"), ("s2t", "fsdp"), ("s2t_recogniser", "fsdp"), ("echo_spoken", "fsdp")]
)
def test_a_process_that_hears_nothing_keeps_step_with_one_that_does(recipe_of, tmp_path, monkeypatch, name, parallel):
    """A dialogue each, half of them typed: the steps are those of one process that accumulates the same batches."""
    recipe = recipe_of(name)
    if name != "echo_spoken":
        recipe = replace(recipe, data=replace(recipe.data, text_turns=0.5))
    changes = {"steps": 6, "batch_size": 1}
    trained_by_two(recipe, tmp_path / "two", parallel=parallel, **changes)
    heard = Heard(monkeypatch, EchoStage if name == "echo_spoken" else S2TStage)
    trained(recipe, tmp_path / "one", 2, **changes)
    assert heard.by_one_of_two(6)
    found, expected = (losses(tmp_path / folder) for folder in ("two", "one"))
    assert float((found - expected).abs().max()) < 1e-4
    two, one = (load_file(tmp_path / folder / "model.safetensors") for folder in ("two", "one"))
    assert two.keys() == one.keys()
    for value, weights in one.items():
        torch.testing.assert_close(two[value], weights, atol=1e-4, rtol=1e-3, msg=value)


def labelled(recipe: Any, folder: Path, shared: bool) -> None:
    """Labels that the teacher gives the training dialogues, sharded as on a GPU if there are two processes."""
    seed_everything(0)
    stage = recipe.build()
    chosen = replace(recipe.training, parallel="fsdp", precision="bf16", device="cpu")
    policy = parallel.precision_policy("bf16", torch.device("cuda"))
    with parallel.process_group(chosen) as (rank, _, device):
        if shared:
            with mock.patch.object(parallel, "precision_policy", return_value=policy):
                parallel.shard(stage.objective, chosen, device)
        assert {value.dtype for value in stage.objective.t2c.parameters()} == {torch.float32}
        if shared:
            stage.objective(stage.collate(list(stage.dataset())[:1], random.Random(0)), prepare=True)  # gathers
        text = stage.tokenizer(REPLIES, add_special_tokens=False, padding=True, return_tensors="pt")
        ids = text["input_ids"].masked_fill(text["attention_mask"] == 0, -1)
        segments = cut_replies(ids, torch.zeros(ids.shape), TRIGGER, stage.tokenizer)
        _, words, word_of = stage.objective.targets(segments, {})
    torch.save((words, word_of), folder / f"{shared}{rank}.pt")


@pytest.mark.slow
def test_a_teacher_labels_in_full_precision_whatever_the_weights_are_gathered_in(recipe_of, tmp_path):
    recipe = recipe_of("echo")
    labelled(recipe, tmp_path, False)
    forked.two(labelled, recipe, tmp_path, True)
    alone, *others = (torch.load(tmp_path / f"{name}.pt") for name in ("False0", "True0", "True1"))
    for words, word_of in others:
        assert torch.equal(words, alone[0])
        assert torch.equal(word_of, alone[1])
    assert alone[0].numel() > 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["s2t", "echo_ahead"])
def test_sharded_stages_equal_one_process(recipe_of, tmp_path, name):
    recipe, changes = recipe_of(name), {"steps": 5, "gradient_checkpointing": True}
    trained(recipe, tmp_path / "one", 2, **changes)
    trained_by_two(recipe, tmp_path / "two", parallel="fsdp", **changes)
    assert difference(recipe, tmp_path / "one", tmp_path / "two") < 1e-5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", STAGES)
def test_fifty_steps_of_every_stage(recipe_of, tmp_path, name):
    recipe, changes = recipe_of(name), {}
    if name == "vocoder_hifigan":
        changes["steps"] = 20  # its discriminators cost ten times as much as anything else here
        # Its spectral norms take a step in every forward pass, so one process that makes twice as many has others.
        trained_by_two(recipe, tmp_path / "whole", parallel="ddp", **changes)
    else:
        trained(recipe, tmp_path / "whole", 2)
    trained_by_two(recipe, tmp_path / "sharded", parallel="fsdp", **changes)
    assert difference(recipe, tmp_path / "whole", tmp_path / "sharded") < 1e-5
