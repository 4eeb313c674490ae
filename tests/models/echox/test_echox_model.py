"""The whole model: parts, denoising, one folder."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_echox import DenoisingAdapter, EchoXForConditionalGeneration
from echox.models.t2c.modeling_unit_decoder import UnitDecoder
from tiny_speaker import tiny_echox, tiny_echox_config


def segment():
    torch.manual_seed(1)
    states = torch.randn(2, 4, 32)
    return states, torch.tensor([[7, 8, 9, -1], [10, 11, 12, 13]]), torch.tensor([[0, 0, 1, -1], [0, 1, 2, 2]])


@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("form", ["word_synchronous", "prefix"])
def test_save_equals_load(fuse, form, tmp_path):
    """One folder holds S2T, denoising adapter, echo decoder and vocoder, and speaks the same when it is read back."""
    model = tiny_echox(form=form, fuse_text_embeddings=fuse)
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, EchoXConfig)
    assert config.echo_decoder_config.form == form
    assert type(config.vocoder_config) is type(model.config.vocoder_config)
    loaded = AutoModel.from_pretrained(tmp_path).eval()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], value, msg=name)
    states, tokens, words = segment()
    said = model.generate_unit_words(states, tokens, words)
    assert said == loaded.generate_unit_words(states, tokens, words)
    units = torch.tensor([[unit % 12 for unit in said[0].unit_words]])
    torch.testing.assert_close(model.vocoder(units).waveform, loaded.vocoder(units).waveform)


def test_segments_together_equal_segments_alone():
    model = tiny_echox(fuse_text_embeddings=True)
    states, tokens, words = segment()
    together = model.generate_unit_words(states, tokens, words)
    assert model.generate_unit_words(states[:1, :3], tokens[:1, :3], words[:1, :3]) == together[:1]
    assert model.generate_unit_words(states[1:], tokens[1:], words[1:]) == together[1:]


def test_fusion_depends_on_the_tokens():
    model = tiny_echox(fuse_text_embeddings=True)
    states, tokens, _ = segment()
    assert not torch.allclose(model.denoise(states, tokens), model.denoise(states, tokens + 20))
    with pytest.raises(ValueError, match="fuse_text_embeddings is on"):
        model.denoise(states)
    plain = tiny_echox()
    assert torch.equal(plain.denoise(states, tokens), plain.denoise(states))


def test_text_embeddings_are_the_language_models_and_frozen():
    model = tiny_echox()
    tokens = torch.tensor([[3, -1]])
    embedded = model.text_embeddings(tokens)
    assert torch.equal(embedded[0, 0], model.s2t.language_model.get_input_embeddings().weight[3])
    assert not embedded.requires_grad


def test_denoising_adapter_is_linear_relu_linear():
    adapter = DenoisingAdapter(6, 10, dropout=0.5).eval()
    states = torch.randn(2, 3, 6)
    by_hand = adapter.down_proj(adapter.up_proj(states).clamp(min=0))
    assert torch.equal(adapter(states), by_hand)


def test_parts_must_fit():
    config = tiny_echox_config()
    config.echo_decoder_config.text_hidden_size = 48
    with pytest.raises(ValueError, match="expected the language model's width 32, found 48"):
        EchoXForConditionalGeneration(config)


def test_without_vocoder_in_training(tmp_path):
    model = tiny_echox(vocoder=False)
    assert model.vocoder is None
    assert isinstance(model.echo_decoder, UnitDecoder)
    model.save_pretrained(tmp_path)
    assert EchoXForConditionalGeneration.from_pretrained(tmp_path).vocoder is None


def test_forward_is_the_text_side():
    model = tiny_echox()
    ids = torch.tensor([[1, 8, 9, 10]])
    torch.testing.assert_close(model(input_ids=ids).logits, model.s2t(input_ids=ids).logits)
