"""Rows of a key-value memory: each equals its conversation alone, whatever the other rows do."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Starcoder2Config,
)

from echox.models.decoding.lean_llama import LeanSteps, LeanWeights
from echox.models.decoding.row_cache import DecoderRows, RowCache, longest_row
from echox.models.decoding.static_llama import StaticSteps, compiled_step
from tolerance import assert_equal_up_to_rounding

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    # All layers look back at a window, and no configuration says so layer by layer.
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=3),
    "phi3": lambda: Phi3Config(**SIZES, sliding_window=3),
    "mixtral": lambda: MixtralConfig(**SIZES, sliding_window=3, num_local_experts=2),
    "qwen3_moe": lambda: Qwen3MoeConfig(**SIZES, **EXPERTS, sliding_window=3, use_sliding_window=True),
    "starcoder2": lambda: Starcoder2Config(**SIZES, sliding_window=3),
    # The same numbers, and no window.
    "mistral, all": lambda: MistralConfig(**SIZES, sliding_window=None),
    "qwen3_moe, all": lambda: Qwen3MoeConfig(**SIZES, **EXPERTS, sliding_window=3, use_sliding_window=False),
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", list(CONFIGS))
@torch.inference_mode()
def test_rows_equal_the_model_alone(name, attention):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention).eval().base_model
    inputs = torch.randn(3, 12, 32)
    want = model(inputs_embeds=inputs, use_cache=False).last_hidden_state

    def close(found, expected):
        assert_equal_up_to_rounding(found, expected)

    cache = DecoderRows(model)
    cache.capacity = 4  # grows
    assert [cache.join(), cache.join()] == [0, 1]
    first = cache.advance(inputs[:2, :5], [5, 2])
    close(first[0], want[0, :5])
    close(first[1, :2], want[1, :2])
    assert cache.join() == 2
    close(cache.advance(inputs[2:, :3], first_row=2)[0], want[2, :3])
    second = cache.advance(torch.stack([inputs[0, 5:7], inputs[1, 2:4], inputs[2, 3:5]]), [1, 2, 0])
    close(second[0, :1], want[0, 5:6])
    close(second[1], want[1, 2:4])
    cache.truncate(0, 4)
    assert cache.lengths == [4, 4, 3]
    close(cache.advance(inputs[:1, 4:8])[0], want[0, 4:8])
    saved = cache.save(0)
    assert cache.leave(0) == 2  # row 2 is row 0 now
    third = cache.advance(torch.stack([inputs[2, 3:5], inputs[1, 4:6]]))
    close(third[0], want[2, 3:5])
    close(third[1], want[1, 4:6])
    row = cache.join(saved)  # the next turn continues where the last one ended
    close(cache.advance(inputs[:1, 8:], first_row=row)[0], want[0, 8:])


def longrope():
    factors = {"short_factor": [1.0] * 4, "long_factor": [8.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    return Phi3Config(**SIZES, max_position_embeddings=64, original_max_position_embeddings=8, rope_parameters=rope)


@torch.inference_mode()
def test_rows_stay_where_they_change_no_other_row():
    """Beyond the original length, rotary positions of "longrope" are others, for all rows of a step."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(longrope()).eval().base_model
    assert longest_row(model.config) == 8
    assert longest_row(CONFIGS["llama"]()) == LlamaConfig().max_position_embeddings
    inputs = torch.randn(2, 10, 32)
    memory = DecoderRows(model)
    memory.join(), memory.join()
    memory.advance(inputs[:, :7], [7, 2])
    last = memory.advance(torch.stack([inputs[0, 7:8], inputs[1, 2:3]]))
    for row, place in ((0, 7), (1, 2)):
        want = model(inputs_embeds=inputs[row : row + 1, : place + 1], use_cache=False).last_hidden_state[:, -1:]
        assert_equal_up_to_rounding(last[row : row + 1], want)


def test_room_is_used_again():
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"]()).base_model
    cache = DecoderRows(model)
    sizes = []
    for _ in range(5):
        cache.join()
        with torch.inference_mode():
            cache.advance(torch.randn(1, 300, 32))
        cache.leave(0)
        sizes.append(cache.num_bytes)
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("make", [DecoderRows, LeanSteps, lambda model: StaticSteps(LeanWeights(model), rows=2)])
@torch.inference_mode()
def test_what_is_not_finite_leaves_with_its_row(make):
    """A mask gives it the weight 0, and 0 times not-a-number is not a number."""
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(**SIZES)).eval()
    memory, inputs = make(model), torch.randn(2, 9, 32)
    row = memory.join()
    memory.advance(inputs[:1] * float("nan"))
    memory.clear(row)
    memory.leave(row)
    memory.join()
    memory.join()
    memory.advance(inputs[:1, :2])
    memory.advance(inputs[1:, :8], first_row=1)
    found = memory.advance(torch.stack([inputs[0, 2:3], inputs[1, 8:]]))
    want = model(inputs_embeds=inputs[:1, :3], use_cache=False).last_hidden_state[:, 2:]
    assert_equal_up_to_rounding(found[:1], want)


def test_layers_without_positions_are_refused():
    config = LlamaConfig(**SIZES)
    config.layer_types = ["linear_attention", "full_attention"]
    with pytest.raises(ValueError, match="linear_attention"):
        RowCache(config)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_static_steps_equal_lean_steps(compiled):
    """Joining, parking, leaving, growing: the same states, whatever else is in the rows."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    weights = LeanWeights(LlamaModel(config).eval())
    step = compiled_step(weights) if compiled else None
    lean, static = LeanSteps(weights), StaticSteps(weights, rows=3, capacity=8, step=step)
    close = assert_equal_up_to_rounding
    with torch.inference_mode():
        prompts = torch.randn(2, 4, 32)
        for steps in (lean, static):
            assert [steps.join(), steps.join()] == [0, 1]
            steps.advance(prompts, [4, 2])
        for number in range(8):  # beyond the capacity
            inputs = torch.randn(2, 1, 32)
            counts = [1, number % 2]
            found, want = static.advance(inputs, counts), lean.advance(inputs, counts)
            close(found[0], want[0])
            close(found[1], want[1])
        assert static.lengths == lean.lengths
        saved = lean.save(0)
        for steps in (lean, static):
            assert steps.leave(0) == 1
            assert steps.join(saved) == 1
        inputs = torch.randn(1, 1, 32)
        close(static.advance(inputs, first_row=1), lean.advance(inputs, first_row=1))
        static.join()
        with pytest.raises(ValueError, match="at most 3 rows"):
            static.join()
