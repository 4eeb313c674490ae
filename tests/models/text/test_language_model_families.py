"""All documented families of language models: scale of the CTC bridge, and logits by the head alone."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    LlamaConfig,
    Qwen3Config,
    SmolLM3Config,
    WhisperConfig,
)

from echox.models.echox.configuration_echox import S2TConfig
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.modeling_shrinking import CTCBridge
from echox.models.text.text_embeddings import embedding_scale, text_embedding_table

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
}
FAMILIES = {"llama": LlamaConfig, "qwen3": Qwen3Config, "gemma3": Gemma3TextConfig, "smollm3": SmolLM3Config}


def language_model(config):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config(**SIZES)).eval()


def s2t_config(text_config):
    tower = WhisperConfig(d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=32, num_mel_bins=80)
    return S2TConfig(audio_config=tower, text_config=text_config, audio_token_id=3)


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_bridge_has_the_scale_of_the_models_inputs(name):
    model = language_model(FAMILIES[name])
    table = model.get_input_embeddings()
    ids = torch.tensor([[5, 9, 31]])
    read = []
    model.base_model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: read.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    model(input_ids=ids)
    certain = torch.full((1, 3, 50), -40.0).scatter(2, ids[..., None], 40.0)
    written = CTCBridge(32)(certain, torch.zeros(1, 3, 32), table.weight, 0, embedding_scale(table))
    torch.testing.assert_close(written, read[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(text_embedding_table(table)[ids], read[0], rtol=1e-4, atol=1e-6)
    if name == "gemma3":
        assert embedding_scale(table) == pytest.approx(32**0.5, rel=1e-2), "the case that needs it"


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_the_head_alone_gives_the_logits(name):
    model = language_model(FAMILIES[name])
    s2t = S2TForConditionalGeneration(s2t_config(model.config)).eval()
    s2t.language_model.load_state_dict(model.state_dict())
    ids = torch.tensor([[5, 9, 31, 7]])
    ours, theirs = s2t(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize(
    ("config", "changed"),
    [
        (lambda **sizes: GraniteConfig(logits_scaling=8.0, **sizes), "logits_scaling"),
        (lambda **sizes: CohereConfig(logit_scale=0.0625, **sizes), "logit_scale"),
        (Gemma2Config, "final_logit_softcapping"),
    ],
)
def test_what_changes_logits_after_the_head_is_refused(config, changed):
    with pytest.raises(ValueError, match=f"found {changed}=") as refused:
        S2TForConditionalGeneration(s2t_config(config(**SIZES)))
    assert "expected logits that are the output of the head alone" in str(refused.value)


@torch.no_grad()
def test_granite_with_neutral_logits_is_accepted():
    settings = {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.1}
    model = language_model(lambda **sizes: GraniteConfig(logits_scaling=1.0, **settings, **sizes))
    s2t = S2TForConditionalGeneration(s2t_config(model.config)).eval()
    s2t.language_model.load_state_dict(model.state_dict())
    ids = torch.tensor([[5, 9, 31, 7]])
    torch.testing.assert_close(s2t(input_ids=ids).logits, model(input_ids=ids).logits, rtol=1e-4, atol=1e-5)
