"""A language model that is split over two processes writes and speaks what one process writes and speaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

import forked
from echox.models.tensor_parallel import split_language_model
from tiny_echox import tiny_echox

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


def llama(**changes: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, **HEADS, **changes})).eval()


def qwen() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(head_dim=8, **SIZES, **HEADS)).eval()


def states_and_gradient(model: PreTrainedModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states of two rows, and the gradient of what was read: what a speech encoder in front learns by."""
    embeds = torch.randn(2, 7, SIZES["hidden_size"], generator=torch.Generator().manual_seed(1)).requires_grad_()
    output = model(inputs_embeds=embeds, output_hidden_states=True)
    output.logits.square().mean().backward()
    return output.hidden_states[-1].detach(), embeds.grad


def alone_and_split(folder: str) -> None:
    dist.init_process_group("gloo")
    for kind in (qwen, llama):
        whole, split = kind(), kind()
        split_language_model(split, init_device_mesh("cpu", (2,)))
        assert any(isinstance(value, DTensor) for value in split.parameters())
        for expected, found in zip(states_and_gradient(whole), states_and_gradient(split), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    held = sum(value.to_local().numel() for value in split.parameters() if hasattr(value, "to_local"))
    layers = [name for name, _ in whole.named_parameters() if "_proj" in name]
    assert 2 * held == sum(whole.get_parameter(name).numel() for name in layers)
    with pytest.raises(ValueError, match="num_key_value_heads: expected a multiple of 2 processes, found 1"):
        split_language_model(llama(num_key_value_heads=1), init_device_mesh("cpu", (2,)))
    question = {"role": "user", "content": "Tell me about the sea."}
    expected = tiny_echox().generate(question, seed=3)
    model = tiny_echox().split_language_model()
    found = model.generate(question, seed=3)
    assert found.text == expected.text
    torch.testing.assert_close(
        torch.as_tensor(found.waveform), torch.as_tensor(expected.waveform), rtol=1e-3, atol=1e-4
    )
    Path(folder, f"done_{dist.get_rank()}").touch()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_say_what_one_says(tmp_path):
    forked.two(alone_and_split, str(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=20)), "plan in transformers"),
        (lambda: Phi3ForCausalLM(Phi3Config(pad_token_id=0, **SIZES, **HEADS)), "expected linear layers"),
    ],
    ids=["no plan", "another style"],
)
def test_what_cannot_be_split_is_refused(model, message):
    with pytest.raises(ValueError, match=message):
        split_language_model(model(), None)


def test_one_process_alone_is_refused():
    with pytest.raises(ValueError, match="torchrun --nproc-per-node"):
        tiny_echox().split_language_model()
