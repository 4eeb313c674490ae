"""The teacher of stage III labels several batches together, and beside the training: the same labels, and resumable."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
import torch

from echox.config import to_dict
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.training import loop
from echox.training.batches.stream import seed_everything
from echox.training.checkpoints.checkpoint import checkpoints
from echox.training.stages.speaking import echo_teacher
from echox.training.stages.speaking.echo import EchoStage, EchoTargets
from echox.training.stages.speaking.echo_targets import cut_replies
from echox.training.stages.speaking.echo_teacher import OnlineTargets
from test_echo_stage import TRIGGER, echo_recipe
from test_echo_stage import world as world


def segments_of(stage: EchoStage, rows: list[int]):
    """Segments of a batch of these written dialogues."""
    batch = stage._batch([stage.train_items[row] for row in rows], None)
    _, states, reply_ids, _ = stage.objective.reply_states(batch)
    return cut_replies(reply_ids, stage.objective.trigger_scores(states), TRIGGER, stage.tokenizer)


def asked_rows(t2c: T2CForUnitGeneration, monkeypatch) -> list[int]:
    """How many segments each call of the teacher decodes, from now on."""
    generate, asked = t2c.generate, []

    def counted(input_ids: torch.Tensor, *arguments: Any, **more: Any):
        asked.append(len(input_ids))
        return generate(input_ids, *arguments, **more)

    monkeypatch.setattr(t2c, "generate", counted)
    return asked


@pytest.mark.parametrize("ahead", [False, True])
def test_batches_that_are_labelled_together_get_the_labels_of_each_alone(world, monkeypatch, ahead):
    stage = echo_recipe(world).build()
    stage.objective.eval()
    t2c = T2CForUnitGeneration.from_pretrained(world / "t2c").eval()
    asked = asked_rows(t2c, monkeypatch)
    parts = [segments_of(stage, rows) for rows in ([0, 1], [2], [3, 4, 0])]
    alone = OnlineTargets(t2c, remember=0)
    expected = [alone(part, {}) for part in parts]
    assert asked == [len(part) for part in parts], "one call for each"
    for limit in (128, 3):
        asked.clear()
        found = OnlineTargets(t2c, remember=0, rows_together=limit).begin([(part, {}) for part in parts], ahead)()
        different = len({tuple(row) for part in parts for row in part.token_ids.clamp(min=-1).tolist()})
        assert max(asked) <= limit
        assert len(asked) == 1 if limit == 128 else len(asked) > 2
        assert sum(asked) <= different, "what two batches ask for is decoded once"
        for (kept, words, word_of), (kept_alone, words_alone, word_of_alone) in zip(found, expected, strict=True):
            assert kept.owners == kept_alone.owners
            assert torch.equal(words, words_alone)
            assert torch.equal(word_of, word_of_alone)
    assert OnlineTargets(t2c).begin([], ahead)() == []


def trained(world, folder, steps: int = 6, targets: dict[str, Any] | None = None, lora: bool = True, **changes: Any):
    """A run of stage echo on two dialogues a step; its trained weights."""
    recipe = echo_recipe(world, steps, model={"train_lora": lora})
    choices = {"batch_size": 2, "tensorboard": False, "device": "cpu", "log_every_steps": 1, "warmup_steps": 1}
    training = replace(recipe.training, output_dir=str(folder), **(choices | changes))
    recipe = replace(recipe, training=training, targets=EchoTargets(remember=0, max_unit_words=60, **(targets or {})))
    seed_everything(0)
    stage = recipe.build()
    loop.train(stage, training, to_dict(recipe))
    assert all(entry["segments"] > 0 for entry in entries(folder)), "there is something to learn from"
    return [value.detach().clone() for values in stage.parameter_groups().values() for value in values]


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def entries(folder) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == "train"]


def test_where_the_words_do_not_change_neither_does_the_training(world, tmp_path):
    """A language model that is not trained says the same before and after: groups, and a thread, change nothing."""
    plain = trained(world, tmp_path / "plain", lora=False)
    for name, targets in (("group", {"steps_together": 4}), ("ahead", {"steps_together": 2, "ahead": True})):
        assert equal(trained(world, tmp_path / name, targets=targets, lora=False), plain), name
        assert {entry["still_said"] for entry in entries(tmp_path / name)} == {1.0}


@pytest.mark.slow
def test_accumulated_batches_are_labelled_together(world, tmp_path, monkeypatch):
    calls: list[int] = []
    decode = OnlineTargets._decode

    def counted(self, segments):
        calls.append(len(segments))
        return decode(self, segments)

    monkeypatch.setattr(OnlineTargets, "_decode", counted)
    together = trained(world, tmp_path / "together", 3, accumulation_steps=3)
    in_training = [count for count in calls if count > 3]
    assert len(in_training) >= 3
    one_by_one = trained(world, tmp_path / "alone", 3, {"rows_together": 1}, accumulation_steps=3)
    assert equal(together, one_by_one)


def test_the_words_of_a_group_are_those_before_its_first_step(world, tmp_path):
    """With a language model that learns fast: labels of old words are other labels, and a thread changes nothing."""
    fast = {"learning_rates": {"echo_decoder": 1e-2, "denoising_adapter": 1e-2, "lora": 0.3}}
    plain = trained(world, tmp_path / "plain", **fast)
    group = trained(world, tmp_path / "group", targets={"steps_together": 3}, **fast)
    assert not equal(group, plain)
    said = [entry["still_said"] for entry in entries(tmp_path / "group")]
    assert said[0] == said[3] == 1.0, "the first of each group"
    assert min(said) < 1.0


@pytest.mark.slow
def test_a_thread_labels_what_the_calling_thread_would(world, tmp_path, monkeypatch):
    fast = {"learning_rates": {"echo_decoder": 1e-2, "denoising_adapter": 1e-2, "lora": 0.3}}
    chosen = {"steps_together": 2, "ahead": True}
    beside = trained(world, tmp_path / "beside", targets=chosen, **fast)
    assert min(entry["still_said"] for entry in entries(tmp_path / "beside")) < 1.0

    class Here:
        """An executor that works at once, in the calling thread."""

        def submit(self, work, *arguments):
            future: Future = Future()
            future.set_result(work(*arguments))
            return future

    monkeypatch.setattr(echo_teacher, "ThreadPoolExecutor", lambda **_: Here())
    assert equal(trained(world, tmp_path / "here", targets=chosen, **fast), beside)


@pytest.mark.slow
@pytest.mark.parametrize("chosen", [{"steps_together": 2}, {"steps_together": 2, "ahead": True}])
def test_a_killed_run_makes_the_labels_of_an_uninterrupted_one(world, tmp_path, monkeypatch, chosen):
    """Also where a checkpoint (every 3 steps) cuts a group of 2."""
    fast = {"learning_rates": {"echo_decoder": 1e-2, "denoising_adapter": 1e-2, "lora": 0.3}, "save_every_steps": 3}
    whole = trained(world, tmp_path / "whole", 8, chosen, **fast)

    class Killed(RuntimeError):
        pass

    step = loop._Run._step

    def dies(self, *arguments, **more):
        if self.progress.step == 5:
            raise Killed
        return step(self, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", dies)
        with pytest.raises(Killed):
            trained(world, tmp_path / "parts", 8, chosen, **fast)
    assert checkpoints(str(tmp_path / "parts"))[-1].name == "step_0000003"
    assert equal(trained(world, tmp_path / "parts", 8, chosen, **fast), whole)


def test_a_group_has_at_least_one_step():
    with pytest.raises(ValueError, match=r"targets\.steps_together: expected 1 or more, found 0"):
        EchoTargets(steps_together=0)
