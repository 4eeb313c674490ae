"""Stage s2t with aligner "recogniser": a recogniser and a language model become a model that learns and loads."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from echox.audio import save_audio
from echox.data.features.corpus_features import AugmentationConfig
from echox.data.features.waveform_augmentation import augment_waveform
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.models.towers.auto import AutoAudioTower
from echox.training.loop import run_recipe
from echox.training.networks.lora import LoRASettings
from echox.training.stages.hearing.instruct import InstructData, InstructModel, InstructRecipe
from echox.training.stages.hearing.s2t import S2TData, S2TModel, S2TRecipe, S2TStage
from test_encoder_stage import training
from tiny_echox import TEXTS, tone
from tiny_recogniser import tiny_moonshine
from tolerance import assert_equal_up_to_rounding


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> S2TStage:
    folder = tmp_path_factory.mktemp("recogniser")
    model, tokenizer = tiny_moonshine()
    model.save_pretrained(folder / "published")
    tokenizer.save_pretrained(folder / "published")
    (folder / "recogniser.yaml").write_text(
        f"stage: recogniser\nmodel: {folder / 'published'}\noutput_dir: {folder / 'heard'}\n"
    )
    made = run_recipe(folder / "recogniser.yaml")
    assert made["vocabulary"] == len(tokenizer)
    text = train_text_tokenizer(TEXTS, vocab_size=340)
    config = LlamaConfig(
        vocab_size=len(text),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "lm")
    text.save_pretrained(folder / "lm")
    dialogues = []
    for number in range(6):
        save_audio(folder / f"{number}.wav", tone(0.5 + 0.3 * number, number), 16_000)
        turns = (Turn("user", TEXTS[0], f"{number}.wav", 1.0), Turn("assistant", TEXTS[1]))
        dialogues.append(Dialogue(f"d{number}", turns, split="train" if number < 4 else "heldout"))
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    recipe = S2TRecipe(
        "s2t",
        S2TData([str(folder / "dialogues.jsonl")], max_new_tokens=4),
        S2TModel(str(folder / "heard"), str(folder / "lm"), aligner="recogniser"),
        training(folder / "s2t", {"adapters": 1e-3, "lora": 1e-3}),
        LoRASettings(r=2, alpha=4),
    )
    return recipe.build()


def test_residual_and_lora_learn_and_nothing_else(stage):
    groups = stage.parameter_groups()
    assert sorted(groups) == ["adapters", "lora"]
    stage.objective.train()
    before = {name: value.clone() for name, value in stage.model.state_dict().items()}
    optimizer = torch.optim.SGD([value for values in groups.values() for value in values], lr=0.5)
    batch = stage.collate(list(stage.dataset()), random.Random(0))
    first = stage.objective(batch)
    assert set(first) == {"loss", "s2t_loss", "padding_share"}
    for _ in range(4):
        stage.objective(batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(stage.objective(batch)["loss"].detach()) < float(first["loss"].detach())
    moved = {name for name, value in stage.model.state_dict().items() if not torch.equal(value, before[name])}
    assert "residual_adapter.gate" in moved
    assert all(name.startswith("residual_adapter") or "lora_" in name for name in moved)


def test_lengths_are_in_hundredths_of_a_second_for_every_tower(stage):
    assert all(40 <= length <= 250 for length in stage.lengths())
    assert stage.lengths() == sorted(stage.lengths())


def test_evaluation_and_saved_weights(stage, tmp_path):
    stage.model.eval()
    with torch.inference_mode():
        metrics = stage.evaluate()
        stage.sample(tmp_path)
        stage.save(tmp_path)
    assert set(metrics) == {"recogniser_wer_heldout", "s2t_exact_heldout", "t2t_exact_heldout"}
    loaded = S2TForConditionalGeneration.from_pretrained(tmp_path).eval()
    processor = EchoXProcessor.from_pretrained(tmp_path)
    inputs = processor.prepare([[{"role": "user", "content": [{"type": "audio", "audio": tone(1.0)}]}]], 16_000)
    with torch.inference_mode():
        found, expected = (model(**inputs, retokenizer=processor.retokenizer).logits for model in (loaded, stage.model))
    assert_equal_up_to_rounding(found, expected)
    assert AutoAudioTower.spec(loaded.config.audio_config).num_mel_bins is None


def test_only_questions_that_are_heard_count_as_heard(stage, monkeypatch):
    """Typed ones have no transcript, and recordings without words no reference."""
    items = stage.evaluation_items["heldout"]
    expected = stage.evaluate()["recogniser_wer_heldout"]
    silent = (replace(items[0].dialogue.turns[0], text=None), *items[0].dialogue.turns[1:])
    more = [replace(items[0], rows={}), replace(items[0], dialogue=replace(items[0].dialogue, turns=silent))]
    monkeypatch.setattr(stage, "evaluation_items", {"heldout": [*items, *more]})
    assert stage.evaluate()["recogniser_wer_heldout"] == expected
    monkeypatch.setattr(stage, "evaluation_items", {"heldout": more[:1]})
    assert "recogniser_wer_heldout" not in stage.evaluate()


def test_what_it_says_to_speech_can_be_kept_while_it_learns_lessons(stage, tmp_path):
    stage.save(tmp_path / "finished")
    lesson = Dialogue("lesson", (Turn("user", TEXTS[0]), Turn("assistant", TEXTS[2])))
    write_dialogues(tmp_path / "lessons.jsonl", [lesson])
    data = InstructData([str(tmp_path / "lessons.jsonl")], stage.recipe.data.manifests, [0.5, 0.5])
    settings = training(tmp_path / "instruct", {"lora": 1e-3})
    learning = InstructRecipe("instruct", data, InstructModel(str(tmp_path / "finished")), settings).build()
    chosen = {item.lesson: item for item in learning.dataset()}
    batch = learning.collate([chosen[True], chosen[False]], random.Random(0))
    losses = {name: value.detach() for name, value in learning.objective.train()(batch).items()}
    assert float(losses["lesson_loss"]) > 0
    assert float(losses["logits_distance"]) == pytest.approx(0, abs=1e-5)  # nothing is learned yet


def test_waveforms_are_varied_as_the_settings_say():
    samples = torch.from_numpy(tone(1.0))
    still = AugmentationConfig(speed=0, gain_db=0, tilt_db=0, noise_ratio=0)
    assert (augment_waveform(samples, still, random.Random(0)) - samples).abs().max() < 2e-3
    lengths = {len(augment_waveform(samples, AugmentationConfig(), random.Random(seed))) for seed in range(20)}
    assert 16_000 / 1.16 < min(lengths) < 15_000
    assert 17_000 < max(lengths) < 16_000 / 0.84
    noisy = augment_waveform(
        samples,
        AugmentationConfig(speed=0, gain_db=0, tilt_db=0, noise_ratio=1, noise_db=(20.0, 20.0)),
        random.Random(1),
    )
    added = (noisy - samples)[:4000]
    level_db = 20 * np.log10(float(added.std()) / float(samples.square().mean().sqrt()))
    assert -24 < level_db < -16
    again = augment_waveform(samples, AugmentationConfig(), random.Random(7))
    assert torch.equal(again, augment_waveform(samples, AugmentationConfig(), random.Random(7)))
