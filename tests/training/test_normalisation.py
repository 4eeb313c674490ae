"""One step is one batch: accumulating uneven micro-batches, here and on two processes, equals one large batch.

And in each of these micro-batches, whatever is in it, all that is trained takes part.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from echox.config import load_recipe, to_dict
from echox.data.features import tower_features
from echox.training.batches.normalisation import RunningMeans, denominators_of_step
from echox.training.loop import train
from echox.training.networks.modules import set_training
from echox.training.networks.parallel import blocks_to_shard
from echox.training.stages.hearing import encoder as encoder_module
from echox.training.stages.recordings.units import UnitsRecipe
from paths import ROOT
from test_ddp import LayerNormStage
from test_direct_units import stage_of as direct_units_stage
from test_fsdp_stages import corpus as corpus
from test_fsdp_stages import encoder as encoder
from test_fsdp_stages import overrides as overrides
from test_fsdp_stages import recipe_of as recipe_of
from test_fsdp_stages import recogniser_stage as recogniser_stage
from test_fsdp_stages import s2t as s2t
from test_fsdp_stages import tones as tones
from test_fsdp_stages import world as world
from test_instruct import folder as lessons  # noqa: F401 - a fixture, asked for by name
from test_instruct import stage_in as instruct_stage
from test_loop import config
from tolerance import assert_equal_up_to_rounding


def plain(recipe: Any) -> Any:
    """The recipe without anything random in its batches."""
    names = ("join", "system", "slips", "lower", "unpunctuated", "sentences", "spans", "text_turns")
    choices = dict.fromkeys(names, 0.0)
    known = {name: value for name, value in choices.items() if hasattr(recipe.data, name)}
    return replace(recipe, data=replace(recipe.data, **known))


def gradients(stage: Any, batches: Sequence[dict[str, Any]], whole: bool) -> tuple[float, torch.Tensor]:
    """The loss of a step and its gradient, as the loop makes them of its micro-batches."""
    objective = stage.objective
    objective.zero_grad()
    if whole:
        (batch,) = batches
        loss = objective(batch)["loss"]
        loss.backward()
        total = float(loss.detach())
    else:
        if hasattr(objective, "make_targets"):
            batches = objective.begin_targets([objective(batch, prepare=True) for batch in batches])()
        shared = denominators_of_step(objective, batches, torch.device("cpu"))
        total = 0.0
        for batch in batches:
            loss = objective(batch, shared)["loss"]
            loss.backward()
            total += float(loss.detach())
    trained = [value for values in stage.parameter_groups().values() for value in values]
    return total, torch.cat([torch.zeros_like(v).flatten() if v.grad is None else v.grad.flatten() for v in trained])


NAMES = ("lm", "encoder", "s2t", "t2c", "t2c_prefix", "echo", "echo_spoken", "vocoder", "vocoder_hifigan", "units")


@pytest.mark.parametrize("name", NAMES)
def test_accumulating_equals_one_large_batch(recipe_of, name, request, tmp_path, monkeypatch):
    for module in (encoder_module, tower_features):
        monkeypatch.setattr(module, "augment", lambda features, config, rng: features)
    if name == "units":
        stage = units_stage(request.getfixturevalue("corpus"), tmp_path)
    else:
        stage = even_recipe(recipe_of, name).build()
    stage.objective.eval()  # no dropout; gradients as in training
    items = uneven(stage)
    rng = random.Random(0)
    whole = stage.collate(items, rng)
    rng = random.Random(0)
    parts = [stage.collate(items[:1], rng), stage.collate(items[1:], rng)]
    loss, gradient = gradients(stage, [whole], whole=True)
    found, accumulated = gradients(stage, parts, whole=False)
    assert found == pytest.approx(loss, rel=1e-5)
    apart = float((accumulated - gradient).norm() / gradient.norm())
    assert apart < 1e-4, apart
    means = [gradients(stage, [part], whole=True)[1] for part in parts]
    if name != "vocoder_hifigan":  # its pieces are all of one length, and of the durations little comes
        naive = float((sum(means) / 2 - gradient).norm() / gradient.norm())
        assert naive > 10 * apart + 1e-3, "uneven enough that a mean of means would be found"


@pytest.mark.parametrize("name", [*NAMES, "s2t_recogniser", "direct_units", "instruct"])
def test_every_batch_uses_all_that_is_trained(recipe_of, name, request, tmp_path):
    """One item, typed or spoken or not understood: no process waits for another's gradients, or for its blocks.

    DDP waits for a gradient of each trained weight, FSDP for blocks in one order, forward, and backward (a block whose
    inputs have no gradient comes after all others); and nobody waits for a layer that is frozen and dropped at random,
    because what is frozen is not in training mode.
    """
    if name == "units":
        stage = units_stage(request.getfixturevalue("corpus"), tmp_path)
    elif name == "instruct":
        stage = instruct_stage(request.getfixturevalue("lessons"))
    elif name == "direct_units":
        world = request.getfixturevalue("world")
        stage = direct_units_stage(world, speech=[str(world / "speech" / "dialogues.jsonl")], audio_fraction=0.5)
    else:
        stage = even_recipe(recipe_of, name).build()
    objective = stage.objective
    objective.allow_silence = True
    set_training(objective)
    frozen = [part for part in objective.modules() if is_frozen(part)]
    assert not any(inside.training for part in frozen for inside in part.modules())
    trained = {name: value for name, value in objective.named_parameters() if value.requires_grad}
    orders, order = set(), []
    for place, block in enumerate(blocks_to_shard(objective)):
        block.register_forward_pre_hook(
            lambda _, given, named, place=place: order.append((place, has_gradient([*given, *named.values()]))),
            with_kwargs=True,
        )
    for batch in single_items(stage):
        objective.zero_grad()
        objective(batch)["loss"].backward()
        assert [name for name, value in trained.items() if value.grad is None] == []
        orders.add(tuple(order))
        order.clear()
    assert len(orders) == 1


def has_gradient(inputs: Sequence[object]) -> bool:
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in inputs)


def is_frozen(part: torch.nn.Module) -> bool:
    trained = [value.requires_grad for value in part.parameters()]
    return bool(trained) and not any(trained)


def single_items(stage: Any) -> Iterator[dict[str, Any]]:
    """Batches of one item: as they come, then (where a stage can) as text, then heard without a word."""
    items = uneven(stage)
    if stage.name == "instruct":
        items = list({item.spoken.dialogue.id[0]: item for item in stage.dataset()}.values())
    rng = random.Random(0)
    yield from (stage.collate([item], rng) for item in items)
    if stage.name == "s2t":
        stage.recipe.data.text_turns = 1.0
        yield stage.collate(items[:1], rng)
        stage.recipe.data.text_turns = 0.0
        stage.model.config.recogniser_tokens_per_s = 0.0
        yield stage.collate(items[:1], rng)


def even_recipe(recipe_of, name: str) -> Any:
    """The tiny recipe of a stage without anything random in its batches; also of stage t2c in the paper's form."""
    if name != "t2c_prefix":
        return plain(recipe_of(name))
    recipe = plain(recipe_of("t2c"))
    return replace(recipe, model=replace(recipe.model, form="prefix", unit_noise=0.0))


@pytest.mark.parametrize("name", ["s2t", "t2c", "t2c_prefix", "echo_spoken"])
def test_packed_rows_have_the_loss_and_the_gradients_of_padded_ones(name, recipe_of, monkeypatch):
    monkeypatch.setattr(tower_features, "augment", lambda features, config, rng: features)
    recipe = even_recipe(recipe_of, name)
    found = {}
    for packing in (False, True):
        stage = replace(recipe, training=replace(recipe.training, packing=packing)).build()
        stage.objective.eval()  # no dropout; gradients as in training
        batch = stage.collate(very_uneven(stage), random.Random(0))
        found[packing] = *gradients(stage, [batch], whole=True), stage.objective(batch)
    (loss, gradient, padded), (packed_loss, packed_gradient, packed) = found[False], found[True]
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    assert float((packed_gradient - gradient).norm() / gradient.norm()) < 1e-4
    assert float(packed["unpacked_padding_share"]) == pytest.approx(float(padded["padding_share"]))
    assert float(packed["padding_share"]) < float(padded["padding_share"])
    if name == "echo_spoken":
        assert float(packed["unpacked_unit_padding_share"]) == pytest.approx(float(padded["unit_padding_share"]))


def very_uneven(stage: Any) -> list[Any]:
    """Items of which several are together as long as one: a dialogue of several turns, or texts of a word or two."""
    first, *others = uneven(stage)
    if hasattr(first, "rows"):
        again = len(first.dialogue.turns)
        rows = {turn + times * again: row for turn, row in first.rows.items() for times in range(3)}
        return [replace(first, dialogue=replace(first.dialogue, turns=first.dialogue.turns * 3), rows=rows), *others]
    return [first, *(item.cut(0, 1) for item in others)]


def uneven(stage: Any) -> list[Any]:
    """The longest item first, then three shorter ones."""
    stage.dataset()
    items, lengths = list(stage.dataset()), stage.lengths()
    order = sorted(range(len(items)), key=lambda place: -lengths[place])
    return [items[place] for place in [order[0], *order[-3:]]]


def units_stage(corpus: Path, folder: Path) -> Any:
    recipe = load_recipe(
        ROOT / "recipes/nano/units.yaml",
        [
            f"data.replies={corpus}/speech/questions.jsonl",
            "data.phone_times=ctc",
            f"data.lexicon={corpus}/phones.json",
            f"training.output_dir={folder}",
            "model.d_model=16",
            "model.encoder_ffn_dim=16",
            "model.encoder_layers=2",
            "model.encoder_attention_heads=2",
            "model.dropout=0.0",
            "clusters.layer=1",
        ],
    )
    assert isinstance(recipe, UnitsRecipe)
    return recipe.build()


class UnevenStage(LayerNormStage):
    """One long item and five short ones: batches of 1 and of 5."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)

    def dataset(self) -> list[int]:
        return list(range(6))

    def lengths(self) -> list[int]:
        return [5, 1, 1, 1, 1, 1]

    def collate(self, items: list[int], rng: random.Random) -> dict[str, torch.Tensor]:
        return {"x": self.x[items], "y": self.x[items].sum(-1)}


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> torch.nn.Module:
    monkeypatch.setattr(torch, "dropout", lambda states, *_: states)
    settings = config(folder, steps=6, save_every_steps=0, **changes)
    stage = UnevenStage()
    train(stage, settings, {"stage": "toy", "training": to_dict(settings)})
    return stage.model


def test_the_loop_accumulates_to_one_large_batch(tmp_path, monkeypatch):
    one = trained(tmp_path / "one", monkeypatch, batch_size=6)
    two = trained(tmp_path / "two", monkeypatch, batch_size=5, batch_by="total_length", accumulation_steps=2)
    for (name, value), other in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert_equal_up_to_rounding(other, value, msg=name)
    first, second = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "two"))
    for line, other in zip(first, second, strict=True):
        found, expected = json.loads(other), json.loads(line)
        assert found["step"] == expected["step"]
        for name in {"loss", "fit_loss", "size_loss"} & expected.keys():
            assert found[name] == pytest.approx(expected[name], rel=1e-4)


def test_an_objective_that_does_not_say_its_means_cannot_accumulate(tmp_path):
    stage = LayerNormStage()
    stage.objective.denominators = None
    settings = config(tmp_path, accumulation_steps=2)
    with pytest.raises(ValueError, match="expected ToyObjective.denominators"):
        train(stage, settings, {"stage": "toy", "training": to_dict(settings)})


def test_means_of_an_evaluation_count_tokens_not_batches():
    running = RunningMeans()
    running.add({"loss": torch.tensor(1.0), "segments": torch.tensor(9.0)}, {"loss": torch.tensor(1)})
    running.add({"loss": torch.tensor(3.0)}, {"loss": torch.tensor(3)})
    assert running.means() == {"loss": 2.5}
