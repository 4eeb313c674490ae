from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from echox.config import load_recipe
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.training.loop import run_recipe, seed_everything
from echox.training.records.record import log_entries
from echox.training.stage import Stage
from echox.training.stages.dialogue.lm import SYSTEM_PROMPT, balance_topics, slip
from paths import RECIPES
from tolerance import assert_equal_up_to_rounding

RECIPE = RECIPES / "nano" / "lm.yaml"
CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
TEMPLATES = {
    "train": ("What is the capital of {}?", "{} has which capital?"),
    "heldout": ("Tell me the capital of {}.",),
}


def dialogue(name, *texts, topic="capital", split="train"):
    turns = tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(texts))
    return Dialogue(name, turns, split=split, topic=topic)


@pytest.fixture(scope="module")
def overrides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    dialogues = [
        dialogue(f"{country}_{split}_{i}", template.format(country), f"It is {capital}.", split=split)
        for country, capital in CAPITALS.items()
        for split, templates in TEMPLATES.items()
        for i, template in enumerate(templates)
    ]
    dialogues.append(dialogue("hello", "Good morning!", "Hello.", topic="small_talk"))
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    return [
        f"data.dialogues={folder}/dialogues.jsonl",
        f"training.output_dir={folder}/out",
        "tokenizer.vocab_size=320",
        "model.hidden_size=64",
        "model.num_hidden_layers=2",
        "model.intermediate_size=128",
        "training.batch_size=4",
        "training.steps=4",
        "training.evaluate_every_steps=0",
        "training.sample_every_steps=4",
        "training.tensorboard=false",
    ]


@pytest.fixture(scope="module")
def stage(overrides):
    seed_everything(0)
    return load_recipe(RECIPE, overrides).build()


def test_is_a_stage_that_trains_everything(stage):
    assert isinstance(stage, Stage)
    assert {id(p) for p in stage.parameter_groups()["language_model"]} == {id(p) for p in stage.objective.parameters()}


def test_the_loss_is_on_replies_and_their_end(stage):
    stage.settings.data.join = stage.settings.data.system = stage.settings.data.slips = 0.0
    stage.settings.data.lower = stage.settings.data.unpunctuated = 0.0
    item = dialogue("x", "What is it?", "It is Rome.", "And now?", "Paris.")
    batch = stage.collate([item, stage.training_items[0]], random.Random(0))
    tokens, weights = batch["input_ids"][0], batch["weights"][0]
    assert stage.tokenizer.decode(tokens[weights == 1.0]) == "It is Rome.<|end|>Paris.<|end|>"
    assert stage.tokenizer.decode(tokens[weights == torch.tensor(0.1)]) == "What is it?<|end|>And now?<|end|>"
    assert (batch["weights"][batch["input_ids"] == stage.tokenizer.pad_token_id] == 0).all()


def test_the_prompt_of_training_is_that_of_answering(stage):
    item = dialogue("x", "What is it?", "It is Rome.")
    stage.settings.data.join = stage.settings.data.system = 0.0
    row = stage.collate([item], random.Random(0))["input_ids"][0]
    prompt = stage.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is it?"}], tokenize=True, add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert row[: len(prompt)].tolist() == prompt


def test_padding_does_not_change_the_loss(stage):
    stage.settings.data.join = stage.settings.data.system = 0.0
    batch = stage.collate([stage.training_items[0]], random.Random(0))
    padded = {
        "input_ids": torch.nn.functional.pad(batch["input_ids"], (0, 7), value=stage.tokenizer.pad_token_id),
        "weights": torch.nn.functional.pad(batch["weights"], (0, 7)),
    }
    assert_equal_up_to_rounding(stage.objective(padded)["loss"], stage.objective(batch)["loss"])


def test_loss_equals_the_plain_cross_entropy(stage):
    stage.settings.data.join = stage.settings.data.system = 0.0
    stage.settings.question_loss_weight = 0.0
    batch = stage.collate([stage.training_items[0]], random.Random(0))
    stage.settings.question_loss_weight = 0.1
    labels = batch["input_ids"].masked_fill(batch["weights"] == 0, -100)
    expected = stage.model(input_ids=batch["input_ids"], labels=labels).loss
    assert_equal_up_to_rounding(stage.objective(batch)["loss"], expected)


def test_collate_is_a_function_of_its_rng_and_joins_conversations(stage):
    data = stage.settings.data
    data.join, data.system, data.slips, data.lower = 1.0, 1.0, 0.5, 0.5
    items = stage.training_items[:3]
    first, again, other = (stage.collate(items, random.Random(seed))["input_ids"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.equal(first, other)
    text = stage.tokenizer.decode(first[0])
    assert text.startswith(f"<|bos|><|system|>{SYSTEM_PROMPT}<|end|><|user|>")
    assert text.count("<|assistant|>") in (2, 3)


def test_answers_in_a_batch_are_those_alone(stage):
    items = [*stage.heldout, dialogue("y", "A much longer question than the others, is it not?", "No.")]
    together = stage.answer(items, max_new_tokens=8)
    alone = [stage.answer([item], max_new_tokens=8)[0] for item in items]
    assert together == alone


def test_balance_topics():
    items = [dialogue(f"a{i}", "x", "y", topic="large") for i in range(100)]
    items += [dialogue(f"b{i}", "x", "y", topic="multi_turn/small") for i in range(4)]
    items += [dialogue(f"c{i}", "x", "y", topic="small") for i in range(5)]

    def counts(temperature):
        topics = [item.topic == "large" for item in balance_topics(items, temperature)]
        return sum(topics), len(topics) - sum(topics)

    assert counts(1.0) == (100, 9)
    assert counts(0.5) == (100, 30)
    assert counts(0.0) == (100, 100)


def test_slips_are_small():
    rng = random.Random(0)
    text = "What is the capital of France?"
    slipped = {slip(text, rng) for _ in range(200)}
    assert len(slipped) > 20
    assert all(4 <= len(other.split()) <= 7 and abs(len(other) - len(text)) <= 9 for other in slipped)
    assert slip("Hello there!", rng) == "Hello there!"


def test_recipe_trains_saves_and_loads(overrides):
    metrics = run_recipe(RECIPE, overrides)
    folder = Path(overrides[1].split("=")[1])
    assert 0.0 <= metrics["exact_heldout"] <= 1.0
    record = json.loads((folder / "training_record.json").read_text())
    assert record["details"]["items_by_topic"] == {"capital": 4}
    assert (folder / "samples/step_0000004/replies.txt").exists()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.vocab_size == len(tokenizer)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**prompt, max_new_tokens=3, do_sample=False).shape[1] > prompt["input_ids"].shape[1]


def test_one_batch_can_be_learnt(overrides, tmp_path):
    extra = [
        f"training.output_dir={tmp_path}",
        "training.overfit_one_batch=true",
        "training.steps=50",
        "training.learning_rates.language_model=1e-2",
        "training.warmup_steps=5",
        "training.log_every_steps=10",
        "training.sample_every_steps=0",
        "data.max_evaluation_items=3",
    ]
    run_recipe(RECIPE, [*overrides, *extra])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [line["reply_loss"] for line in lines if line["kind"] == "train"]
    assert losses[0] > 2.0
    assert losses[-1] < 0.3


def test_bad_recipe(overrides):
    with pytest.raises(ValueError, match="'architecture'"):
        load_recipe(RECIPE, [*overrides, "model={}"]).build()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_compiled_blocks_learn_the_same(overrides, tmp_path):
    """Whatever a batch's shape; the arithmetic of a step is that of one that was not compiled."""
    found = {}
    for compiled in (False, True):
        chosen = ["training.steps=3", "training.log_every_steps=1", "training.precision=fp32", "training.device=cpu"]
        chosen += [f"training.compile={compiled}", f"training.output_dir={tmp_path}/{compiled}"]
        chosen += ["training.gradient_checkpointing=true", "training.sample_every_steps=0"]
        run_recipe(RECIPE, [*overrides, *chosen])
        found[compiled] = [entry for entry in log_entries(tmp_path / f"{compiled}") if entry["kind"] == "train"]
    plain, compiled = ([entry["loss"] for entry in found[key]] for key in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert all(entry["tflop_per_s"] > 0 for entry in found[True])
