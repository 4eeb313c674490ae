"""Stages encoder and s2t on a handful of synthetic utterances: what is trained, what is saved, what is refused."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import paths
from echox.audio import save_audio
from echox.config import TrainingConfig, load_recipe
from echox.data.features.corpus_features import AugmentationConfig, augment
from echox.data.manifest import Dialogue, Turn, Utterance, write_dialogues, write_utterances
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.echox.processing_echox import EchoXProcessor
from echox.training.networks.lora import LoRASettings, continue_lora, merged_state_dict
from echox.training.stages.dialogue.dialogues import dialogue_pieces
from echox.training.stages.hearing.encoder import (
    EncoderData,
    EncoderModel,
    EncoderRecipe,
    EncoderStage,
    PhoneLexicon,
    initial_weights,
)
from echox.training.stages.hearing.s2t import S2TData, S2TModel, S2TRecipe, S2TStage
from tolerance import assert_equal_up_to_rounding

RECIPES = paths.RECIPES / "nano"
LEXICON = {"red": ["r", "eh", "d"], "Paris": ["p", "ae", "r", "ax", "s"], "is": ["ih", "z"]}
TEXTS = ["Paris is red.", "Is Paris red?", "Red is Paris.", "red Paris is"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Eight noises that pretend to be speech, as utterances and as dialogues."""
    folder = tmp_path_factory.mktemp("nano")
    rng = np.random.default_rng(0)
    utterances, dialogues = [], []
    for index in range(8):
        split = "train" if index < 4 else "heldout"
        speaker = "new" if index == 7 else f"voice{index % 2}"
        samples = rng.normal(0, 0.1, 12000 + 1600 * index).astype(np.float32)
        (folder / "speech" / "wav").mkdir(parents=True, exist_ok=True)
        save_audio(folder / "speech" / "wav" / f"{index}.wav", samples, 16000)
        text, seconds = TEXTS[index % 4], len(samples) / 16000
        utterances.append(Utterance(f"u{index}", f"wav/{index}.wav", text, speaker, seconds, split))
        turns = (Turn("user", text, f"wav/{index}.wav", seconds, speaker), Turn("assistant", "It is red."))
        if index == 1:
            turns = (*turns, Turn("user", text, "wav/0.wav", 0.75, speaker), Turn("assistant", "Paris."))
        dialogues.append(Dialogue(f"d{index}", turns, split, "red"))
    write_utterances(folder / "speech" / "questions.jsonl", utterances)
    write_dialogues(folder / "speech" / "dialogues.jsonl", dialogues)
    (folder / "phones.json").write_text(
        json.dumps({"phones": sorted({p for ps in LEXICON.values() for p in ps}), "lexicon": LEXICON})
    )
    return folder


def training(folder: Path, groups: dict[str, float]) -> TrainingConfig:
    return TrainingConfig(output_dir=str(folder), steps=2, batch_size=4, learning_rates=groups)


@pytest.fixture(scope="module")
def encoder(corpus) -> EncoderStage:
    data = EncoderData(
        manifests=[str(corpus / "speech" / "questions.jsonl")],
        phones=str(corpus / "phones.json"),
        tokenizer=str(corpus / "tokenizer"),
        dialogues=str(corpus / "speech" / "dialogues.jsonl"),
        vocab_size=280,
    )
    sizes = EncoderModel(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=16,
        hidden_size=16,
        adapter_attention_heads=2,
        phone_layer=1,
        max_source_positions=100,
    )
    stage = EncoderRecipe(
        "encoder", data, sizes, AugmentationConfig(), training(corpus / "enc", {"encoder": 1e-3})
    ).build()
    (corpus / "encoder").mkdir()
    stage.save(corpus / "encoder")
    return stage


@pytest.fixture(scope="module")
def s2t(corpus, encoder) -> S2TStage:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(encoder.tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        pad_token_id=encoder.tokenizer.pad_token_id,
        bos_token_id=encoder.tokenizer.bos_token_id,
        eos_token_id=encoder.tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(corpus / "lm")
    encoder.tokenizer.save_pretrained(corpus / "lm")
    recipe = S2TRecipe(
        "s2t",
        S2TData([str(corpus / "speech" / "dialogues.jsonl")], max_new_tokens=4),
        S2TModel(str(corpus / "encoder"), str(corpus / "lm")),
        training(corpus / "s2t", {"adapters": 1e-3, "lora": 1e-3}),
        LoRASettings(r=2, alpha=4),
    )
    return recipe.build()


@pytest.mark.parametrize("name", ["encoder", "s2t"])
def test_recipes_load(name):
    assert load_recipe(RECIPES / f"{name}.yaml").stage == name


def test_encoder_batches_and_losses(encoder):
    items = encoder.dataset()
    assert [item.utterance.split for item in items] == ["train"] * 4
    assert encoder.lengths() == [item.frames for item in items]
    batch = encoder.collate(list(items), random.Random(1))
    again = encoder.collate(list(items), random.Random(1))
    assert all(torch.equal(batch[name], again[name]) for name in batch), "augmentation follows rng alone"
    assert not torch.equal(encoder.collate(list(items), random.Random(2))["input_features"], batch["input_features"])
    losses = encoder.objective(batch)
    assert set(losses) == {"loss", "ctc_loss", "phone_loss"}
    losses["loss"].backward()
    assert all(value.grad is not None for value in encoder.parameter_groups()["encoder"])
    encoder.model.zero_grad()


def test_encoder_evaluates_seen_and_new_voices_apart(encoder, tmp_path):
    encoder.model.eval()
    with torch.inference_mode():
        metrics = encoder.evaluate()
        encoder.sample(tmp_path)
    assert set(metrics) == {
        f"{kind}_heldout_{voices}" for kind in ("wer", "per") for voices in ("seen_voices", "new_voices")
    }
    assert (tmp_path / "heldout_new_voices.tsv").read_text().startswith("voice\tsaid\theard\nnew\tred Paris is\t")


def test_what_is_too_long_is_counted(encoder, corpus, caplog):
    manifest = corpus / "speech" / "questions.jsonl"
    longest_s, encoder.recipe.data.max_duration_s = encoder.recipe.data.max_duration_s, 1.0
    try:
        kept = encoder._items(manifest)
        assert 0 < len(kept) < 8
        assert f"{8 - len(kept)} of 8 utterances are longer than 1 s and left out" in caplog.text
        encoder.recipe.data.max_duration_s = 0.1
        with pytest.raises(ValueError, match=r"at most 0.1 s, found 8 longer ones; raise data.max_duration_s"):
            encoder._items(manifest)
    finally:
        encoder.recipe.data.max_duration_s = longest_s


def test_encoder_folder_loads(encoder, corpus):
    loaded = SpeechEncoderForCTC.from_pretrained(corpus / "encoder")
    assert loaded.phone_ids() == encoder.model.phone_ids()
    assert loaded.config.blank_token_id == encoder.tokenizer.convert_tokens_to_ids("<|audio|>")


def test_encoder_continues_from_a_trained_one(encoder, corpus):
    again = dataclasses.replace(encoder.recipe.model, start_from=str(corpus / "encoder"))
    stage = dataclasses.replace(encoder.recipe, model=again).build()
    assert torch.equal(stage.model.ctc_head.weight, encoder.model.ctc_head.weight)
    other = SpeechEncoderForCTC.from_pretrained(corpus / "encoder").config
    other.phones = [*other.phones, "zh"]
    with pytest.raises(ValueError, match="phones"):
        initial_weights(str(corpus / "encoder"), other)


def test_phone_lexicon(corpus):
    lexicon = PhoneLexicon(corpus / "phones.json")
    assert lexicon.classes("Red.") == tuple(lexicon.phones.index(phone) + 1 for phone in LEXICON["red"])
    with pytest.raises(ValueError, match="'blue'"):
        lexicon.classes("blue")


def test_augmentation_changes_what_it_says():
    features = torch.randn(80, 80).cumsum(0) * 0.05
    still = AugmentationConfig(speed=0, warp=0, gain_db=0, tilt_db=0, noise_ratio=0)
    unchanged = augment(features, still, random.Random(0))
    assert unchanged.shape == features.shape
    assert (unchanged - features).abs().max() < 1e-5
    lengths = {len(augment(features, AugmentationConfig(), random.Random(seed))) for seed in range(30)}
    assert min(lengths) >= 68
    assert max(lengths) <= 92
    assert len(lengths) > 10
    noisy = augment(
        features, AugmentationConfig(noise_ratio=1, mel_masks=2, time_masks=1, blur_bins=2), random.Random(3)
    )
    assert torch.isfinite(noisy).all()


def test_dialogue_pieces_mark_replies_only(encoder):
    dialogue = Dialogue(
        "d", (Turn("user", "a", "a.wav"), Turn("assistant", "b"), Turn("user", "c"), Turn("assistant", "d"))
    )
    pieces = dialogue_pieces(encoder.tokenizer, dialogue, {0})
    assert pieces == [
        ("<|bos|><|user|><|audio|><|end|><|assistant|>", False),
        ("b<|end|>", True),
        ("<|user|>c<|end|><|assistant|>", False),
        ("d<|end|>", True),
    ]
    assert dialogue_pieces(encoder.tokenizer, dialogue, set(), last_reply=False)[-1][1] is False


def test_s2t_trains_only_adapters_and_lora(s2t):
    groups = s2t.parameter_groups()
    chosen = {id(value) for values in groups.values() for value in values}
    assert {name for name, value in s2t.model.named_parameters() if value.requires_grad} == {
        name for name, value in s2t.model.named_parameters() if id(value) in chosen
    }
    assert not any(value.requires_grad for value in s2t.model.audio_tower.parameters())
    s2t.objective.train()
    before = {name: value.clone() for name, value in s2t.model.state_dict().items()}
    optimizer = torch.optim.SGD([value for values in groups.values() for value in values], lr=0.1)
    for seed in range(2):  # the gate and LoRA's A move once B and the look-back's gate have moved
        losses = s2t.objective(s2t.collate(list(s2t.dataset()), random.Random(seed)))
        assert {"loss", "s2t_loss", "ctc_loss", "padding_share"} == set(losses)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in s2t.model.state_dict().items() if not torch.equal(value, before[name])}
    assert all(
        name.startswith(("alignment_adapter", "ctc_head", "shrinking", "ctc_bridge")) or "lora_" in name
        for name in moved
    )
    assert {"ctc_bridge.gate", "ctc_head.weight"} <= moved
    assert any("lora_A" in name for name in moved)


def test_s2t_batch_matches_audio_and_placeholders(s2t):
    items = list(s2t.dataset())
    batch = s2t.collate(items, random.Random(0))
    audio_id = s2t.model.config.audio_token_id
    assert int((batch["input_ids"] == audio_id).sum()) == len(batch["input_features"]) == len(batch["ctc_labels"])
    assert ((batch["labels"] == -100) | (batch["labels"] == batch["input_ids"])).all()


def test_s2t_evaluates_and_saves_merged_weights(s2t, corpus, tmp_path):
    s2t.model.eval()
    with torch.inference_mode():
        metrics = s2t.evaluate()
        s2t.sample(tmp_path)
        s2t.save(tmp_path)
    assert set(metrics) == {"ctc_wer_heldout", "s2t_exact_heldout", "t2t_exact_heldout"}
    loaded = S2TForConditionalGeneration.from_pretrained(tmp_path).eval()
    processor = EchoXProcessor.from_pretrained(tmp_path)
    inputs = processor.prepare(
        [[{"role": "user", "content": [{"type": "audio", "audio": np.ones(9000, dtype=np.float32) * 0.1}]}]], 16000
    )
    with torch.no_grad():
        expected = s2t.model(**inputs).logits
        assert_equal_up_to_rounding(loaded(**inputs).logits, expected)
        continue_lora(loaded, tmp_path)
        assert_equal_up_to_rounding(loaded(**inputs).logits, expected)
    base = LlamaForCausalLM.from_pretrained(corpus / "lm").state_dict()
    for name, value in loaded.language_model.state_dict().items():
        if ".base_layer." in name:
            assert_equal_up_to_rounding(value, base[name.replace(".base_layer", "")])
    assert merged_state_dict(loaded).keys() == set(S2TForConditionalGeneration(loaded.config).state_dict())


def test_lora_of_another_model_is_refused(s2t, tmp_path):
    with pytest.raises(ValueError, match=r"lora\.safetensors"):
        continue_lora(s2t.model, tmp_path)


def test_different_tokenizers_are_refused(s2t, encoder, corpus):
    from echox.models.text.tokenization_text import train_text_tokenizer
    from echox.training.stages.hearing.s2t import check_same_vocabulary

    with pytest.raises(ValueError, match="one tokenizer"):
        check_same_vocabulary(train_text_tokenizer(["zebra zebra"], 270), encoder.tokenizer, s2t.recipe.model)
