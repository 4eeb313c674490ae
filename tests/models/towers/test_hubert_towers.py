"""Towers of the HuBERT family: as in transformers, and padding, batches and steps change nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    HubertConfig,
    HubertForCTC,
    HubertModel,
    LlamaConfig,
    LlamaForCausalLM,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from echox.models.echox.configuration_echox import SpeechEncoderConfig
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.towers.auto import AutoAudioTower
from echox.models.towers.base import finish
from echox.models.towers.features import tower_inputs
from tolerance import assert_equal_up_to_rounding

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 4, 4),
    "conv_stride": (5, 8, 8),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "initializer_range": 0.3,
    "layerdrop": 0.0,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
WINDOW_FRAMES = 50
FAMILIES = {
    "hubert": (HubertModel, HubertConfig, {}),
    "hubert large": (HubertModel, HubertConfig, STABLE),
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config, {}),
    "wavlm": (WavLMModel, WavLMConfig, {}),
}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    kind, config, more = FAMILIES[request.param]
    torch.manual_seed(0)
    model = kind(config(**SIZES, **more, window_frames=WINDOW_FRAMES)).eval()
    model.save_pretrained(tmp_path)
    return model, AutoAudioTower.from_checkpoint(tmp_path)


def sounds(*lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), max(lengths)).masked_fill(~mask, 7.0), mask


@torch.inference_mode()
def test_states_are_those_of_transformers(family):
    model, tower = family
    samples, _ = sounds(9000)
    expected = model(samples, output_hidden_states=True)
    found = tower(samples, output_hidden_states=True)
    assert_equal_up_to_rounding(found.last_hidden_state, expected.last_hidden_state)
    assert len(found.hidden_states) == tower.spec.num_layers + 1
    for ours, theirs in zip(found.hidden_states[:-1], expected.hidden_states[:-1], strict=True):
        assert_equal_up_to_rounding(ours, theirs)  # the last is before the final norm
    assert tower.spec.frames_per_s == 50
    assert tower.spec.num_mel_bins is None


@torch.inference_mode()
def test_batch_equals_single_and_step_by_step(family):
    _, tower = family
    lengths = (9000, 300, 40_000, 16_500)  # shorter than a frame; three windows; a little more than one
    samples, mask = sounds(*lengths)
    together = tower(samples, mask)
    for row, length in enumerate(lengths):
        single = samples[row : row + 1, :length]
        alone = tower(single)
        count = int(together.mask[row].sum())
        assert alone.last_hidden_state.shape[1] == count
        assert_equal_up_to_rounding(together.last_hidden_state[row, :count], alone.last_hidden_state[0])
        gradual = finish(tower.encode_gradually(single, torch.ones_like(single)))
        assert_equal_up_to_rounding(gradual.last_hidden_state, alone.last_hidden_state)


def test_a_checkpoint_with_a_head_and_one_without_all_weights(tmp_path):
    whole = HubertForCTC(HubertConfig(**SIZES, vocab_size=12)).eval()
    whole.save_pretrained(tmp_path / "ctc")
    tower = AutoAudioTower.from_checkpoint(tmp_path / "ctc")
    samples, _ = sounds(5000)
    with torch.inference_mode():
        assert_equal_up_to_rounding(tower(samples).last_hidden_state, whole.hubert(samples).last_hidden_state)
    broken = HubertModel(HubertConfig(**SIZES))
    state = {name: value for name, value in broken.state_dict().items() if "layers.1.final_layer_norm" not in name}
    broken.save_pretrained(tmp_path / "broken", state_dict=state)
    with pytest.raises(ValueError, match="expected all weights of a hubert encoder"):
        AutoAudioTower.from_checkpoint(tmp_path / "broken")


def test_it_hears_for_s2t_with_the_ctc_aligner_and_is_saved(tmp_path):
    HubertModel(HubertConfig(**SIZES)).save_pretrained(tmp_path / "hubert")
    torch.manual_seed(0)
    encoder = SpeechEncoderForCTC.from_tower(
        tmp_path / "hubert", hidden_size=16, vocab_size=24, blank_token_id=6, adapter_attention_heads=2
    )
    assert isinstance(encoder.config, SpeechEncoderConfig)
    text = LlamaConfig(vocab_size=24, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    s2t = S2TForConditionalGeneration.from_parts(encoder, LlamaForCausalLM(text)).eval()
    s2t.save_pretrained(tmp_path / "s2t")
    loaded = S2TForConditionalGeneration.from_pretrained(tmp_path / "s2t").eval()
    extractor = AutoAudioTower.feature_extractor(loaded.config.audio_config)
    features, mask = tower_inputs(extractor, [sounds(9000)[0][0].numpy(), sounds(6000)[0][0].numpy()])
    (first, second), transcripts = s2t.encode_and_transcribe(features, mask)
    (again, _), _ = loaded.encode_and_transcribe(features, mask)
    assert_equal_up_to_rounding(again, first)
    assert s2t.aligner.transcript_frames_per_s == 25
    (alone,), (tokens,) = s2t.encode_and_transcribe(features[1:, :6000])
    assert_equal_up_to_rounding(alone, second)
    assert tokens == transcripts[1]
