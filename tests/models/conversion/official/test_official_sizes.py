"""The 3B and 8B configurations build (without memory) and have the sizes of the published models."""

import inspect

import pytest
import torch
from torch import nn

from echox.config import load_recipe
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration

# Published totals: https://huggingface.co/meta-llama/Llama-3.2-3B, Llama-3.1-8B (safetensors totals, V = 128,256);
# ours have one row more (two where the head is not tied), for the audio placeholder.
LLAMA = {"3b": 3_212_749_824 + 3072, "8b": 8_030_261_248 + 2 * 4096}
# The official releases: transformer part of the official T2C, millions.
T2C_TRANSFORMER = {"3b": 25.2, "8b": 56.6}
# The official releases: shards of the official releases in float16, without Whisper, GB.
OFFICIAL_GB = {"3b": 8.59, "8b": 19.22}


def count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.fixture(scope="module", params=["3b", "8b"])
def built(request):
    config = EchoXConfig.from_pretrained(f"recipes/{request.param}")
    with torch.device("meta"):
        return request.param, EchoXForConditionalGeneration(config)


def test_language_model_is_llama(built):
    size, model = built
    assert count(model.s2t.language_model) == LLAMA[size]


def test_audio_tower_is_whisper_large_v3(built):
    _, model = built
    d, ff, layers, mels, positions = 1280, 5120, 32, 128, 1500
    convolutions = 3 * mels * d + d + 3 * d * d + d
    attention = 4 * d * d + 3 * d  # keys have no bias
    layer = attention + 2 * d * ff + d + ff + 2 * 2 * d
    assert count(model.s2t.audio_tower) == convolutions + positions * d + layers * layer + 2 * d


def test_adapters_by_formula(built):
    _, model = built
    config = model.config.s2t_config
    h, v, d = config.hidden_size, config.vocab_size, config.audio_config.d_model
    attention = 4 * h * h + 4 * h
    layer = attention + 2 * h * (2 * h) + 3 * h + 2 * 2 * h
    assert count(model.s2t.alignment_adapter) == 2 * d * h + h + layer + 2 * h
    assert count(model.s2t.shrinking_adapter) == attention + 2 * h
    assert count(model.s2t.ctc_head) == v * h
    ff = config.text_config.intermediate_size
    assert count(model.denoising_adapter) == 2 * h * ff + ff + h


def test_echo_decoder_by_formula(built):
    size, model = built
    config = model.config.echo_decoder_config
    h, d, ff, words = config.text_hidden_size, config.hidden_size, config.intermediate_size, config.num_unit_words
    layers = config.num_hidden_layers * (4 * d * d + 3 * d * ff + 2 * d)
    assert round(layers / 1e6, 1) == T2C_TRANSFORMER[size]
    tables = 2 * (words + 1) * d + 14 * d
    assert count(model.echo_decoder) == layers + d + tables + h * d + d
    with torch.device("meta"):
        t2c = T2CForUnitGeneration(config)
    assert count(t2c.decoder) == count(model.echo_decoder)
    assert t2c.text_embedding.weight.shape == (config.text_vocab_size, h)


def test_official_checkpoint_would_be_as_large_as_published(built):
    """With the tables that we share or leave out, the parts add up to the published file sizes (within 0.2 %).

    The official T2C holds its own copy of the text embedding, keeps unit words at the language model's width, and
    its head also scores text tokens (golden/FORMAT.md 2); its state dict leaves Whisper out.
    """
    size, model = built
    config = model.config.echo_decoder_config
    v, h, d, words = config.text_vocab_size, config.text_hidden_size, config.hidden_size, config.num_unit_words
    ours = count(model.s2t) - count(model.s2t.audio_tower) + count(model.denoising_adapter) + count(model.echo_decoder)
    official = ours - 2 * (words + 1) * d - 14 * d + (v + words) * d + words * h + v * h
    assert official * 2 / 1e9 == pytest.approx(OFFICIAL_GB[size], rel=2e-3)


def test_recipes_and_configuration_agree(built):
    size, model = built
    config = model.config.echo_decoder_config
    values = ["data.units=u", "data.unit_language=l", "data.language_model=m", "training.output_dir=o"]
    recipe = load_recipe(f"recipes/{size}/t2c.yaml", values)
    found = recipe.model.configuration(config.text_hidden_size, config.text_vocab_size, config.num_unit_words)
    for name in inspect.signature(UnitDecoderConfig).parameters:
        if name != "kwargs":
            assert getattr(found, name) == getattr(config, name), name
