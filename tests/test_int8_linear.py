"""Linear layers in 8 bits on a CPU: close to the floats, exact to what is stored, saved and loaded as row_int8."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from echox.models.int8_linear import Int8Linear, to_int8_linears
from echox.models.row_int8 import from_row_int8, to_row_int8


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 7, 64), (40, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_close_to_the_floats(bias, shape, dtype):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).to(dtype)
    inputs = torch.randn(shape).to(dtype)
    output, expected = Int8Linear(linear)(inputs), linear(inputs)
    assert output.dtype == dtype
    assert output.shape == expected.shape
    assert (output - expected).float().norm() / expected.float().norm() < 0.02


def test_a_loud_token_does_not_drown_a_quiet_one():
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=False)
    quiet = torch.randn(1, 64)
    layer = Int8Linear(linear)
    together = layer(torch.cat([quiet, 1e4 * torch.randn(1, 64)]))[0]
    torch.testing.assert_close(together, layer(quiet)[0], atol=2e-2, rtol=0)
    assert layer(torch.zeros(2, 64)).abs().max() == 0


def test_state_dict_is_what_row_int8_stores():
    linear = nn.Linear(16, 8)
    state = Int8Linear(linear).state_dict()
    stored = to_row_int8({"weight": linear.weight.detach()})
    assert torch.equal(state["weight"], stored["weight"])
    torch.testing.assert_close(state["weight.row_scale"], stored["weight.row_scale"])
    assert torch.equal(from_row_int8(state)["bias"], linear.bias)
    assert torch.equal(from_row_int8(state)["weight"], Int8Linear(linear).weight)


def test_a_language_model_writes_nearly_the_same():
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=50, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, initializer_range=0.2)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 50, (8, 40))
    with torch.inference_mode():
        expected = model(ids).logits.log_softmax(-1)
        assert to_int8_linears(model, keep=model.lm_head) == 14
        found = model(ids).logits.log_softmax(-1)
    assert isinstance(model.lm_head, nn.Linear)
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() > 0.85  # of random weights, whose choices are close
    divergence = (expected.exp() * (expected - found)).sum(-1).mean()
    assert divergence < 0.01


def test_weights_that_are_not_finite_are_refused():
    linear = nn.Linear(4, 4)
    with torch.no_grad():
        linear.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="expected finite weights"):
        Int8Linear(linear)
    with pytest.raises(ValueError, match="expected weights on the CPU, found them on meta"):
        Int8Linear(nn.Linear(4, 4, device="meta"))
