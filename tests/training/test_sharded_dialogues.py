"""Stages "s2t" and "echo" read shards as they read manifests: the same batches, without a copy of the corpus."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from echox.api.loading import bundled_questions
from echox.audio import load_audio, save_audio
from echox.config import TrainingConfig, to_dict
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.preparation.dialogue_shards import write_dialogue_shards
from echox.preparation.execute import Workers
from echox.preparation.settings import Shards
from echox.training.loop import train
from echox.training.networks.lora import LoRASettings
from echox.training.stages.hearing.s2t import S2TData, S2TModel, S2TRecipe, S2TStage
from tiny_echox import tiny_echox

REPLY = Turn("assistant", "Hello to you.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A whole model, and six dialogues: as a manifest and as shards of two; one is held out, one is typed."""
    folder = tmp_path_factory.mktemp("sharded")
    tiny_echox().save_pretrained(folder / "whole")
    dialogues = []
    for number in range(6):
        samples = load_audio(bundled_questions()[number % 2], 16000)[: 8000 + 1000 * number]
        save_audio(folder / f"{number}.wav", samples, 16000)
        said = Turn("user", f"Say hello {number}.", f"{number}.wav", len(samples) / 16000, "rms")
        if number == 3:
            said = Turn("user", "Say hello, typed.")
        turns = (said, REPLY) if number != 4 else (said, REPLY, said, REPLY)
        dialogues.append(Dialogue(f"s{number}", turns, "heldout" if number == 5 else "train"))
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    write_dialogue_shards(read_dialogues(folder / "dialogues.jsonl"), Shards(2), Workers(), folder)
    return folder


def recipe_in(folder: Path, manifests: list[str], shares: list[float] | None = None, **training) -> S2TRecipe:
    data = S2TData([str(folder / name) for name in manifests], shares, text_turns=0.0)
    rates = {"adapters": 1e-3, "lora": 1e-3}
    settings = TrainingConfig(
        **{"output_dir": str(folder / "s2t"), "steps": 4, "batch_size": 2, "learning_rates": rates, **training}
    )
    return S2TRecipe("s2t", data, S2TModel(start_from=str(folder / "whole")), settings, LoRASettings(r=2, alpha=4))


def stage_in(folder: Path, *manifests: str, shares: list[float] | None = None) -> S2TStage:
    return recipe_in(folder, [*manifests], shares).build()


def by_id(stage: S2TStage) -> dict[str, tuple[int, dict[str, torch.Tensor]]]:
    """Length and batch of each training dialogue alone."""
    return {
        item.dialogue.id: (length if item.rows else 0, stage.collate([item], random.Random(0)))
        for item, length in zip(stage.dataset(), stage.lengths(), strict=True)
    }


def test_batches_and_lengths_are_those_of_the_manifest(folder):
    listed, sharded = stage_in(folder, "dialogues.jsonl"), stage_in(folder, "dialogue_shards")
    expected, found = by_id(listed), by_id(sharded)
    assert found.keys() == expected.keys() == {"s0", "s1", "s2", "s3", "s4"}
    for name, (length, batch) in expected.items():
        assert found[name][0] == length
        assert found[name][1].keys() == batch.keys()
        for key, value in batch.items():  # the manifest's features are kept in float16
            torch.testing.assert_close(found[name][1][key], value, atol=4e-3, rtol=4e-3, msg=f"{name} {key}")
    assert [item.dialogue.id for item in sharded.evaluation_items["heldout"]] == ["s5"]
    assert sorted(sharded.token_lengths()) == sorted(listed.token_lengths())
    assert not (folder / "dialogue_shards" / "features").exists()


def test_shards_and_manifests_can_be_mixed(folder):
    stage = stage_in(folder, "dialogue_shards", "dialogues.jsonl", shares=[0.75, 0.25])
    items = stage.dataset()
    assert [item.dialogue.id for item in items][6:] == ["s0", "s2"]
    assert len(np.unique(items.shards[:6])) == 3
    assert len(np.unique(items.shards)) == 5, "each dialogue of a manifest is its own"


def test_training_from_shards_continues_where_it_stopped(folder):
    """Two worker processes, stopped after two of four steps, then a thread: the weights of a run without a stop."""

    def trained(name: str, workers: int) -> dict[str, torch.Tensor]:
        recipe = recipe_in(
            folder,
            ["dialogue_shards"],
            output_dir=str(folder / name),
            save_every_steps=2,
            batch_by="total_length",
            batch_size=200,
            max_batch_tokens=40,
            workers=workers,
        )
        stage = recipe.build()
        stage.evaluation_items = {}
        train(stage, recipe.training, to_dict(recipe))
        return stage.model.state_dict()

    whole = trained("whole_run", workers=2)
    half = "checkpoints/step_0000002"
    shutil.copytree(folder / "whole_run" / half, folder / "stopped" / half)
    resumed = trained("stopped", workers=0)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_folder_without_shards_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match=r"expected folders of dialogue shards.*dialogue_shards that echox run"):
        replace(recipe_in(folder, []), data=S2TData([str(tmp_path)])).build()
