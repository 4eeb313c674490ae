"""Linear layers in 4 bits: exact to what is stored, joined = apart, with a sum of low rank, in a language model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from echox.models.decoding.lean_llama import LeanSteps, LeanWeights, is_plain
from echox.models.decoding.row_cache import DecoderRows
from echox.models.quantization.group_int4 import GroupInt4, from_group_int4, to_group_int4
from echox.models.quantization.int4_linear import Int4Linear, int4_kernel, to_int4_linears
from echox.models.quantization.shortlist_head import ShortlistHead


def in_4_bits(rows: int, columns: int, bias: bool = False) -> nn.Linear:
    """A layer whose weights 4 bits hold exactly, as those of a published file."""
    linear = nn.Linear(columns, rows, bias=bias).requires_grad_(False)
    linear.weight.copy_(to_group_int4(torch.randn(rows, columns)).floats())
    return linear


def test_codes_of_what_was_in_4_bits_are_the_same_again():
    torch.manual_seed(0)
    stored = to_group_int4(torch.randn(48, 96))
    again = to_group_int4(stored.floats())
    for name in ("codes", "scale", "minimum"):
        assert torch.equal(getattr(stored, name), getattr(again, name))
    assert stored.codes.shape == (48, 48)
    constant = to_group_int4(torch.full((2, 32), 0.5)).floats()
    assert torch.equal(constant, torch.full((2, 32), 0.5))


@pytest.mark.parametrize("bad", [torch.full((2, 32), torch.nan), torch.full((2, 32), torch.inf)])
def test_weights_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="expected finite weights"):
        to_group_int4(bad)
    with pytest.raises(ValueError, match=r"multiple of 32 columns, found shape \(2, 40\)"):
        to_group_int4(torch.zeros(2, 40))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 7, 64), (200, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_product_is_that_of_the_stored_weights(bias, shape, dtype):
    torch.manual_seed(0)
    linear = in_4_bits(56, 64, bias)  # no multiple of 16, which the kernel needs
    inputs = torch.randn(shape).to(dtype)
    output, expected = Int4Linear.of(linear)(inputs), linear(inputs.float())
    assert output.dtype == dtype
    assert output.shape == expected.shape
    assert (output.float() - expected).norm() / expected.norm() < 0.005  # inputs and outputs in bfloat16
    assert torch.equal(Int4Linear.of(linear).weight, linear.weight)


def with_low_rank(layer: Int4Linear, rank: int) -> Int4Linear:
    layer.weight_low_rank_down = torch.randn(rank, layer.in_features) / 8
    layer.weight_low_rank_up = torch.randn(layer.out_features, rank)
    return layer


def test_joined_layers_give_what_they_give_apart():
    torch.manual_seed(0)
    layers = [Int4Linear.of(in_4_bits(rows, 64, bias)) for rows, bias in ((48, True), (16, False), (24, True))]
    layers[1] = with_low_rank(layers[1], 3)
    inputs = torch.randn(5, 64)
    together = Int4Linear.joined(layers)
    apart = torch.cat([layer(inputs) for layer in layers], -1)
    torch.testing.assert_close(together(inputs), apart, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.weight, torch.cat([layer.weight for layer in layers]))


def test_low_rank_is_added_in_floats_and_state_dicts_hold_all():
    torch.manual_seed(0)
    linear = in_4_bits(32, 64, bias=True)
    layer = with_low_rank(Int4Linear.of(linear), 4)
    inputs = torch.randn(2, 64)
    delta = layer.weight_low_rank_up @ layer.weight_low_rank_down
    expected = linear(inputs) + inputs @ delta.T
    assert (layer(inputs) - expected).norm() / expected.norm() < 0.005
    again = Int4Linear(64, 32, bias=True, rank=4)
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(inputs), layer(inputs))
    plain = from_group_int4(layer.state_dict())
    assert sorted(plain) == ["bias", "weight"]
    torch.testing.assert_close(plain["weight"], linear.weight + delta)


def llama(**sizes: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
        **sizes,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@torch.inference_mode()
def test_a_llama_keeps_its_states_and_its_fast_steps():
    model = llama()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.copy_(to_group_int4(layer.weight).floats())
    inputs = torch.randn(3, 9, 64)
    expected = model.model(inputs_embeds=inputs).last_hidden_state
    assert to_int4_linears(model, keep=model.lm_head) == 14
    assert type(model.lm_head) is nn.Linear
    assert is_plain(model.model)
    batched = LeanSteps(LeanWeights(model.model), 3).advance(inputs)
    assert (batched - expected).norm() / expected.norm() < 0.02  # two layers of bfloat16
    memory = LeanSteps(LeanWeights(model.model), 1)
    steps = torch.cat([memory.advance(inputs[1:2, n : n + 1]) for n in range(9)], 1)
    torch.testing.assert_close(steps[0], batched[1], atol=0.1, rtol=0.1)


@torch.inference_mode()
def test_other_kinds_of_models_work_too():
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=80,  # no multiple of 32: the layer that reads it stays as it is
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(config).eval()
    inputs = torch.randn(1, 5, 64)
    expected = model.model(inputs_embeds=inputs).last_hidden_state
    assert to_int4_linears(model, keep=model.lm_head) == 12
    memory = DecoderRows(model.model)
    memory.join()
    found = memory.advance(inputs)
    assert (found - expected).norm() / expected.norm() < 0.2


@torch.inference_mode()
def test_the_shortlist_chooses_what_the_head_chooses():
    torch.manual_seed(0)
    head = nn.Linear(64, 5000, bias=True)
    states = torch.randn(7, 64)
    expected, found = head(states), ShortlistHead(head)(states)
    assert torch.equal(found.argmax(-1), expected.argmax(-1))
    best = expected.topk(8).indices
    torch.testing.assert_close(found.gather(-1, best), expected.gather(-1, best))
    assert (found.softmax(-1) - expected.softmax(-1)).abs().sum(-1).max() < 0.05


def test_without_a_kernel_the_weights_are_expanded(monkeypatch):
    torch.manual_seed(0)
    linear = in_4_bits(16, 32)
    inputs = torch.randn(2, 32)
    monkeypatch.setattr("echox.models.quantization.int4_linear.int4_kernel", lambda: False)
    torch.testing.assert_close(Int4Linear.of(linear)(inputs), linear(inputs))
    assert isinstance(int4_kernel(), bool)
    assert isinstance(Int4Linear.of(linear).stored, GroupInt4)
