"""Stage "instruct": what is learned, what stays as it was, and that nothing but the LoRA changes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from echox.api.loading import bundled_questions
from echox.audio import load_audio, save_audio
from echox.config import TrainingConfig
from echox.data.corpora.tools.requests import taught_tools
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.data.templates.tool_templates import calls_text
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.text.tokenization_text import render_chat
from echox.tool_calls.tools import ToolCall
from echox.training.networks.lora import LoRASettings
from echox.training.stages.dialogue.continued import load_s2t
from echox.training.stages.hearing import instruct
from echox.training.stages.hearing.instruct import InstructData, InstructModel, InstructRecipe, InstructStage, Keep
from tiny_echox import tiny_echox


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A whole model in 8 bits, six lessons, six typed dialogues and one spoken dialogue to keep."""
    folder = tmp_path_factory.mktemp("instruct")
    tiny_echox().save_pretrained(folder / "whole", dtype=torch.int8)
    hello = Turn("assistant", "Hello there.")
    lessons = [
        Dialogue(f"l{number}", (Turn("system", "Say hello."), Turn("user", "Say hello."), hello), split)
        for number, split in enumerate(["train"] * 5 + ["validation"])
    ]
    write_dialogues(folder / "lessons.jsonl", lessons)
    kept = [
        Dialogue(f"k{number}", (Turn("user", f"What is {number}?"), Turn("assistant", f"It is {number}.")), topic=topic)
        for number, topic in enumerate(["sums"] * 5 + ["talk"])
    ]
    write_dialogues(folder / "typed.jsonl", kept)
    samples = load_audio(bundled_questions()[0], 16000)
    save_audio(folder / "0.wav", samples, 16000)
    turn = Turn("user", "Tell me about Brazil.", "0.wav", len(samples) / 16000, "rms")
    write_dialogues(folder / "spoken.jsonl", [Dialogue("s0", (turn, Turn("assistant", "It is in America.")))])
    return folder


def stage_in(folder: Path, keep: Keep | None = None, **data: object) -> InstructStage:
    manifests = [str(folder / name) for name in ("typed.jsonl", "spoken.jsonl")]
    chosen = InstructData([str(folder / "lessons.jsonl")], manifests, [0.5, 0.25, 0.25], **data)
    training = TrainingConfig(str(folder / "out"), steps=5, batch_size=8, learning_rates={"lora": 1e-3})
    model = InstructModel(str(folder / "whole"))
    lora = LoRASettings(r=4, alpha=8, dropout=0.0)
    return InstructRecipe("instruct", chosen, model, training, keep or Keep(), lora).build()


def batch_of(stage: InstructStage) -> dict[str, torch.Tensor]:
    """A lesson, a typed and the spoken dialogue."""
    chosen = {item.spoken.dialogue.id[0]: item for item in stage.dataset()}
    return stage.collate([chosen["l"], chosen["k"], chosen["s"]], random.Random(0))


def trained(stage: InstructStage, steps: int) -> dict[str, float]:
    """Losses after some steps on one batch."""
    batch, objective = batch_of(stage), stage.objective.train()
    optimizer = torch.optim.AdamW(stage.parameter_groups()["lora"], lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    with torch.no_grad():
        return {name: float(value) for name, value in objective.eval()(batch).items()}


def test_a_run_reads_lessons_and_kept_dialogues_in_their_shares(folder):
    ids = [item.spoken.dialogue.id for item in stage_in(folder).dataset()]
    assert len(ids) == 40
    assert {name: sum(one.startswith(name) for one in ids) for name in "lks"} == {"l": 20, "k": 10, "s": 10}
    assert "l5" not in ids  # of validation


def test_several_processes_share_the_items_of_their_run(folder, monkeypatch):
    stage = stage_in(folder)
    monkeypatch.setenv("WORLD_SIZE", "3")
    several = [item.spoken.dialogue.id for item in stage.recipe.build().dataset()]
    monkeypatch.delenv("WORLD_SIZE")
    stage.recipe.training.accumulation_steps = 3
    assert several == [item.spoken.dialogue.id for item in stage.recipe.build().dataset()]
    assert len(several) == 120


def test_a_topic_is_read_more_often_on_request(folder):
    def talk(**data):
        ids = [item.spoken.dialogue.id for item in stage_in(folder, **data).dataset()]
        return ids.count("k5") / sum(one.startswith("k") for one in ids)

    plain, repeated = (talk(topic_temperature=1.0, topic_repeats=chosen) for chosen in ({}, {"talk": 5}))
    assert plain <= 0.2
    assert repeated == 0.5  # five times beside five others
    with pytest.raises(ValueError, match="topic_repeats: expected topics of data.kept .*talk.*found .'small'"):
        stage_in(folder, topic_repeats={"small": 2})


def test_at_first_nothing_has_moved_and_only_the_lora_learns(folder):
    stage = stage_in(folder)
    losses = stage.objective.train()(batch_of(stage))
    losses["loss"].backward()
    found = {name: float(value.detach()) for name, value in losses.items()}
    assert found["lesson_loss"] > 1
    assert found["logits_distance"] == found["states_distance"] == 0
    moved = {name for name, value in stage.objective.named_parameters() if value.grad is not None and value.grad.any()}
    assert moved
    assert all(".lora_" in name for name in moved)


def test_lessons_are_learned_and_the_rest_is_kept(folder):
    before = trained(stage_in(folder), 0)["lesson_loss"]
    free, held = (trained(stage_in(folder, Keep(weight, weight)), 25) for weight in (0.0, 5.0))
    assert free["lesson_loss"] < 0.7 * before, (before, free, held)
    assert held["lesson_loss"] < 0.9 * before, (before, free, held)
    assert held["logits_distance"] < 0.5 * free["logits_distance"], (before, free, held)
    assert held["states_distance"] < 0.7 * free["states_distance"], (before, free, held)


def test_a_step_of_two_batches_is_that_of_one(folder):
    stage = stage_in(folder, lower=0.0, unpunctuated=0.0, slips=0.0)
    trained(stage, 3)
    items = stage.dataset()
    objective, halves = stage.objective.eval(), (items[:3] + items[20:23], items[3:9] + items[23:25])
    whole = stage.collate([*halves[0], *halves[1]], random.Random(0))
    batches = [stage.collate(half, random.Random(0)) for half in halves]
    total = objective.denominators(whole)
    with torch.no_grad():
        expected = objective(whole)
        parts = [objective(batch, total) for batch in batches]
    for name, value in expected.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-4, atol=1e-5)


def test_instructions_that_are_also_the_question_vary_with_it(folder):
    stage = stage_in(folder, lower=1.0, unpunctuated=1.0, slips=0.0)
    batch = stage.collate([item for item in stage.dataset() if item.lesson][:1], random.Random(0))
    text = stage.tokenizer.decode(batch["input_ids"][0])
    assert text.count("say hello") == 2
    assert "Hello there." in text


def test_flags_follow_their_dialogues(folder):
    stage = stage_in(folder)
    batch = batch_of(stage)
    texts = stage.tokenizer.batch_decode(batch["input_ids"])
    assert [("Hello there." in text) for text in texts] == batch["lesson"].tolist()
    assert batch["lesson"].sum() == 1
    assert len(batch["input_features"]) == 1


def test_the_result_is_the_old_model_but_for_its_language_model(folder, tmp_path):
    stage = stage_in(folder)
    trained(stage, 2)
    stage.save(tmp_path)
    whole = EchoXForConditionalGeneration.from_pretrained(folder / "whole", dtype=torch.float32).s2t.state_dict()
    found = load_s2t(tmp_path).state_dict()
    changed = {name for name, value in found.items() if not torch.equal(value, whole[name])}
    assert changed
    assert all(name.startswith("language_model.") and ".layers." in name for name in changed)


def test_a_lora_is_continued(folder, tmp_path):
    first = stage_in(folder)
    trained(first, 2)
    first.save(tmp_path)
    model = InstructModel(first.recipe.model.start_from, lora=str(tmp_path))
    second = replace(first.recipe, model=model).build()
    found = second.model.language_model.state_dict()
    for name, value in first.model.language_model.state_dict().items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)
    with pytest.raises(ValueError, match="expected a LoRA of this language model with r=3 and alpha=8"):
        replace(first.recipe, model=model, lora=LoRASettings(r=3, alpha=8)).build()


def test_it_answers_validation_lessons(folder):
    metrics = stage_in(folder).evaluate()
    assert set(metrics) == {"exact_validation", "exact/none"}
    assert 0 <= metrics["exact_validation"] <= 1


def test_calls_where_the_lesson_calls_none_are_counted(folder, monkeypatch):
    plain = stage_in(folder)
    stage = replace(plain.recipe, model=InstructModel(str(folder / "whole"), tools=True)).build()
    call = calls_text("", [ToolCall("get_time", '{"city": "Rome"}')])
    monkeypatch.setattr(instruct, "answer_dialogues", lambda _, __, dialogues: [call] * len(dialogues))
    assert stage.evaluate()["called_without_need"] == 1.0
    monkeypatch.setattr(instruct, "answer_dialogues", lambda _, __, dialogues: ["Hello."] * len(dialogues))
    assert stage.evaluate()["called_without_need"] == 0.0


def test_shares_that_do_not_fit_are_refused(folder):
    recipe = stage_in(folder).recipe
    with pytest.raises(ValueError, match=r"data\.shares: expected one share"):
        replace(recipe, data=replace(recipe.data, shares=[0.5, 0.5])).build()


def test_a_model_that_learns_tools_declares_them(folder, tmp_path):
    plain = stage_in(folder)
    recipe = replace(plain.recipe, model=InstructModel(str(folder / "whole"), tools=True))
    stage = recipe.build()
    stage.save(tmp_path)
    tokenizer = EchoXProcessor.from_pretrained(tmp_path).tokenizer
    messages = [{"role": "user", "content": "What time is it?"}]
    tools = [tool.for_template() for tool in taught_tools()]
    assert "get_time(city: string)" in render_chat(tokenizer, messages, tools=tools)
    assert render_chat(tokenizer, messages) == render_chat(plain.tokenizer, messages)
