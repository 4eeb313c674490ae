"""Linear layers in 8 bits on a CPU: close to the floats, exact to what is stored, saved and loaded as row_int8."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from echox import EchoX
from echox.data.manifest import read_dialogues
from echox.evaluation.sets.heldout import embedded_heldout
from echox.models.quantization.int8_linear import Int8Linear, best_kernel, to_int8_linears
from echox.models.quantization.row_int8 import from_row_int8, to_row_int8

needs_exact_sums = pytest.mark.skipif(
    best_kernel() != "integer", reason="this CPU's sums of 8-bit products overflow; the other kernel is tested"
)
KERNELS = [pytest.param("integer", marks=needs_exact_sums), "weight_only"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 64), (3, 7, 64), (40, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_close_to_the_floats(kernel, bias, shape, dtype):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).to(dtype)
    inputs = torch.randn(shape).to(dtype)
    output, expected = Int8Linear(linear, kernel)(inputs), linear(inputs)
    assert output.dtype == dtype
    assert output.shape == expected.shape
    assert (output - expected).float().norm() / expected.float().norm() < 0.02


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_large_token_does_not_hide_a_small_one(kernel):
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=False)
    quiet = torch.randn(1, 64)
    layer = Int8Linear(linear, kernel)
    together = layer(torch.cat([quiet, 1e4 * torch.randn(1, 64)]))[0]
    torch.testing.assert_close(together, layer(quiet)[0], atol=2e-2, rtol=0)
    assert layer(torch.zeros(2, 64)).abs().max() == 0


def test_large_channels_do_not_hide_the_others_without_integer_sums():
    """What whole models have and single random layers have not: a few channels far louder than the rest."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=False)
    inputs = torch.randn(6, 64)
    inputs[:, 5] *= 100.0
    quiet = inputs.clone()
    quiet[:, 5] = 0.0
    with torch.no_grad():
        linear.weight[:, 5] = 0.0  # the loud channel adds nothing itself
    expected = linear(quiet)
    found = Int8Linear(linear, "weight_only")(inputs)
    assert (found - expected).norm() / expected.norm() < 0.01


@pytest.mark.parametrize("kernel", KERNELS)
def test_state_dict_is_what_row_int8_stores(kernel):
    linear = nn.Linear(16, 8)
    state = Int8Linear(linear, kernel).state_dict()
    stored = to_row_int8({"weight": linear.weight.detach()})
    assert torch.equal(state["weight"], stored["weight"])
    torch.testing.assert_close(state["weight.row_scale"], stored["weight.row_scale"])
    assert torch.equal(from_row_int8(state)["bias"], linear.bias)
    assert torch.equal(from_row_int8(state)["weight"], Int8Linear(linear, kernel).weight)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_language_model_writes_nearly_the_same(kernel):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 50, (8, 40))
    with torch.inference_mode():
        expected = model(ids).logits.log_softmax(-1)
        assert to_int8_linears(model, model.lm_head, kernel) == 14
        found = model(ids).logits.log_softmax(-1)
    assert isinstance(model.lm_head, nn.Linear)
    assert (expected.argmax(-1) == found.argmax(-1)).float().mean() > 0.85  # of random weights, whose choices are close
    divergence = (expected.exp() * (expected - found)).sum(-1).mean()
    assert divergence < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_nano_answers_as_in_float32(kernel):
    questions = [item.turns[0].text for item in read_dialogues(embedded_heldout() / "text" / "dialogues.jsonl")][:200]
    assert len(questions) > 190  # the sealed ones are left out
    plain, small = EchoX.from_pretrained(device="cpu"), EchoX.from_pretrained(device="cpu")
    language_model = small.model.s2t.language_model
    assert to_int8_linears(language_model, language_model.get_output_embeddings(), kernel) > 0
    same = 0
    for question in questions:
        asked = [{"role": "user", "content": question}]
        replies = [model.generate(asked, temperature=0.0, speak=False).text for model in (plain, small)]
        same += replies[0] == replies[1]
    assert same >= 0.97 * len(questions)


def test_weights_that_are_not_finite_are_refused():
    linear = nn.Linear(4, 4)
    with torch.no_grad():
        linear.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="expected finite weights"):
        Int8Linear(linear)
    with pytest.raises(ValueError, match="expected weights on the CPU, found them on meta"):
        Int8Linear(nn.Linear(4, 4, device="meta"))
