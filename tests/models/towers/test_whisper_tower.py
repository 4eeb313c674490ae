"""Any published Whisper as audio tower: transformers' own numbers, and stages that begin with it."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from echox.data.features.corpus_features import AugmentationConfig
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.models.towers.whisper import WhisperTower
from echox.training.stages.hearing.encoder import EncoderData, EncoderModel, EncoderRecipe
from echox.training.stages.hearing.s2t import S2TData, S2TModel, S2TRecipe
from test_encoder_stage import corpus, training  # noqa: F401 - a fixture
from tolerance import assert_equal_up_to_rounding


def whisper(kind=WhisperForConditionalGeneration, mels: int = 80, layers: int = 2, width: int = 16):
    torch.manual_seed(mels + layers)
    config = WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_mel_bins=mels,
        max_source_positions=100,
        vocab_size=60,
        init_std=0.2,
        dropout=0.0,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
    )
    return kind(config).eval()


@pytest.mark.parametrize("kind", [WhisperModel, WhisperForConditionalGeneration])
@pytest.mark.parametrize(("mels", "layers"), [(80, 2), (128, 3)])
def test_every_layout_and_size_gives_transformers_own_states(tmp_path, kind, mels, layers):
    reference = whisper(kind, mels, layers)
    reference.save_pretrained(tmp_path)
    ours = WhisperTower.from_checkpoint(tmp_path).eval()
    encoder = reference.get_encoder()
    assert {name: tuple(value.shape) for name, value in ours.state_dict().items()} == {
        name: tuple(value.shape) for name, value in encoder.state_dict().items()
    }
    features = torch.randn(2, mels, 200)
    with torch.no_grad():
        expected = encoder(features, output_hidden_states=True)
        found = ours(features, output_hidden_states=True)
    assert_equal_up_to_rounding(found.last_hidden_state, expected.last_hidden_state)
    for one, other in zip(found.hidden_states[:-1], expected.hidden_states[:-1], strict=True):
        assert_equal_up_to_rounding(one, other)


def test_an_encoder_of_ours_and_half_precision_load_too(tmp_path):
    whisper().half().save_pretrained(tmp_path / "half")
    ours = WhisperTower.from_checkpoint(tmp_path / "half", dtype=torch.float16)
    assert ours.conv1.weight.dtype == torch.float16
    ours.save_pretrained(tmp_path / "alone")
    again = WhisperTower.from_checkpoint(tmp_path / "alone", dtype=torch.float16)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in ours.state_dict().items())


def test_what_is_no_whole_whisper_is_refused(tmp_path):
    whisper().save_pretrained(tmp_path / "w")
    file = tmp_path / "w" / "model.safetensors"
    state = load_file(file)
    state.pop("model.encoder.layers.0.fc1.weight")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"none for layers\.0\.fc1\.weight and 0 more"):
        WhisperTower.from_checkpoint(tmp_path / "w")
    LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(tmp_path / "llama")
    with pytest.raises(ValueError, match="expected a checkpoint of whisper, .*, found model type 'llama'"):
        SpeechEncoderForCTC.from_tower(tmp_path / "llama")


@pytest.fixture
def parts(tmp_path):
    """A Whisper folder as published, and a language model whose tokenizer knows no audio."""
    whisper().save_pretrained(tmp_path / "whisper")
    WhisperFeatureExtractor(feature_size=80).save_pretrained(tmp_path / "whisper")
    return tmp_path


def encoder_recipe(parts, corpus, **sizes):  # noqa: F811
    data = EncoderData(
        manifests=[str(corpus / "speech" / "questions.jsonl")],
        phones=str(corpus / "phones.json"),
        tokenizer=str(corpus / "tokenizer"),
        dialogues=str(corpus / "speech" / "dialogues.jsonl"),
        vocab_size=280,
    )
    model = EncoderModel(
        whisper=str(parts / "whisper"), hidden_size=16, adapter_attention_heads=2, phone_layer=1, **sizes
    )
    return EncoderRecipe("encoder", data, model, AugmentationConfig(), training(parts / "encoder", {"encoder": 1e-3}))


def test_encoder_stage_starts_from_a_frozen_whisper(parts, corpus):  # noqa: F811
    from echox.training.loop import train

    recipe = encoder_recipe(parts, corpus, train_tower=False)
    train(recipe.build(), recipe.training, {})
    trained = SpeechEncoderForCTC.from_pretrained(parts / "encoder")
    expected = WhisperTower.from_checkpoint(parts / "whisper").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trained.audio_tower.state_dict().items())
    moved = recipe.build().model.alignment_adapter.state_dict()
    assert not torch.equal(moved["projection.weight"], trained.alignment_adapter.projection.weight)
    with pytest.raises(ValueError, match=r"num_mel_bins: expected 80 as in .*, found 128"):
        encoder_recipe(parts, corpus, num_mel_bins=128).build()


def test_s2t_stage_starts_from_a_whisper_folder(parts, corpus):  # noqa: F811
    from echox.training.loop import train

    tokenizer = train_text_tokenizer(["Paris is red.", "Is it red? It is red."], vocab_size=280)
    tokenizer.save_pretrained(parts / "lm")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=4,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(parts / "lm")
    recipe = S2TRecipe(
        "s2t",
        S2TData([str(corpus / "speech" / "dialogues.jsonl")], text_turns=0.0),
        S2TModel(str(parts / "whisper"), str(parts / "lm"), drop_blanks=False, ctc_bridge=False),
        training(parts / "s2t", {"adapters": 1e-3, "lora": 1e-3}),
    )
    stage = recipe.build()
    tower = stage.model.audio_tower.state_dict()
    assert all(
        torch.equal(value, tower[name])
        for name, value in WhisperTower.from_checkpoint(parts / "whisper").state_dict().items()
    )
    assert stage.model.config.adapter_attention_heads == 4
    assert train(stage, recipe.training, {})


def test_a_language_model_without_audio_gets_the_placeholder(parts):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from echox.training.stages.hearing.s2t import open_speech_encoder

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1, "Paris": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    config = LlamaConfig(vocab_size=3, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    language_model = LlamaForCausalLM(config)
    encoder = open_speech_encoder(S2TModel(str(parts / "whisper"), "lm"), tokenizer, language_model)
    assert tokenizer.convert_tokens_to_ids("<|audio|>") == encoder.config.blank_token_id == 3
    assert language_model.config.vocab_size == encoder.config.vocab_size == 4
