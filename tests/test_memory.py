"""Memory that is estimated from sizes: what real modules take, and what autograd really keeps."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from typer.testing import CliRunner

from echox.cli import app
from echox.memory import (
    STAGES,
    Workload,
    build_on_meta,
    cache_bytes,
    language_model_saved,
    training_bytes,
    weight_bytes,
)
from echox.models.configuration_echox import EchoXConfig
from echox.models.int8_linear import Int8Linear
from echox.streaming import EchoX

SMALL = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
                    num_key_value_heads=2)  # fmt: skip


@pytest.fixture(scope="module")
def nano():
    return EchoX.from_pretrained("nano", device="cpu")


def in_memory(model: torch.nn.Module) -> int:
    tensors = {id(value): value.nbytes for value in [*model.parameters(), *model.buffers()]}
    return sum(tensors.values()) + sum(part.memory_bytes for part in model.modules() if isinstance(part, Int8Linear))


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_of_nano_are_what_it_takes(nano, dtype):
    model = nano if dtype == "float32" else EchoX.from_pretrained("nano", device="cpu", dtype=torch.int8)
    estimated = weight_bytes(build_on_meta(nano.model.config), dtype)
    assert sum(estimated.values()) == pytest.approx(in_memory(model.model), rel=0.02)


def test_key_value_memory_is_what_the_cache_takes(nano):
    ids = torch.ones(1, 50, dtype=torch.long)
    with torch.inference_mode():
        cache = nano.model.s2t.language_model(ids, use_cache=True).past_key_values
    taken = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert cache_bytes(nano.model.config, 50)["language_model"] == taken


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_activations_are_what_autograd_keeps(precision, lora_rank):
    """Two fake layers tell of five real ones, to the byte or nearly."""
    from echox.training.lora import LoRASettings, add_lora

    work = Workload(batch_size=3, tokens=20, precision=precision)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(SMALL)
    if lora_rank:
        model.requires_grad_(False)
        holder = torch.nn.Module()
        holder.language_model = model
        for value in add_lora(holder, LoRASettings(r=lora_rank)):
            value.requires_grad_(True)
    model.train()
    own = {value.untyped_storage().data_ptr() for value in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        if value.untyped_storage().data_ptr() not in own:
            kept[value.untyped_storage().data_ptr()] = value.untyped_storage()
        return value

    states = torch.randn(3, 20, 32, requires_grad=True)
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[0, 15:] = 0
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        model.base_model(inputs_embeds=states, attention_mask=mask, use_cache=False)
    real = sum(storage.nbytes() for storage in kept.values())
    assert language_model_saved(SMALL, work, lora_rank) == pytest.approx(real, rel=0.03)


def test_checkpointing_keeps_less_and_batches_keep_more():
    work = Workload(batch_size=2, tokens=64)
    plain = language_model_saved(SMALL, work)
    assert language_model_saved(SMALL, Workload(batch_size=4, tokens=64)) == pytest.approx(2 * plain, rel=0.2)
    assert language_model_saved(SMALL, Workload(batch_size=2, tokens=64, gradient_checkpointing=True)) < 0.5 * plain


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_of_nano_and_3b_has_an_estimate(nano, stage):
    small = training_bytes(nano.model.config, stage, Workload())
    large = training_bytes(EchoXConfig.from_pretrained("recipes/3b"), stage, Workload())
    assert small["optimizer"] == 2 * small["gradients"] == 2 * small["trained weights"]
    assert sum(large.values()) > 4 * sum(small.values())


def test_what_cannot_be_is_refused(nano):
    with pytest.raises(ValueError, match="dtype: expected one of float32"):
        weight_bytes(build_on_meta(nano.model.config), "int3")
    with pytest.raises(ValueError, match="stage: expected one of lm"):
        training_bytes(nano.model.config, "sing", Workload())
    with pytest.raises(ValueError, match="tokens: expected a positive number"):
        Workload(tokens=0)


def test_commands():
    run = CliRunner().invoke
    result = run(app, ["estimate-memory", "recipes/3b/s2t.yaml", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["stage"] == "s2t"
    assert found["bytes"]["frozen weights"] == pytest.approx(2 * (3.2127e9 + 0.637e9), rel=0.01)
    result = run(app, ["estimate-memory", "nano"])
    assert "s2t.language_model" in result.stdout
    assert "this machine" in result.stdout
    assert "fits" in result.stdout
    result = run(app, ["estimate-memory", "absent.yaml"])
    assert result.exit_code == 1
    assert "expected a recipe, found none" in result.output
    result = run(app, ["doctor"])
    assert result.exit_code == 0
    assert "GB free" in result.stdout
    assert "needs         nano" in result.stdout
