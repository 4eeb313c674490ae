"""Packed rows: fewer positions, and the states, losses and gradients of padded ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.packing import PackedRows, check_packing, padding_shares, rows_of, run
from echox.models.t2c.modeling_t2c import build_unit_decoder
from echox.models.t2c.modeling_unit_decoder import IGNORED
from tiny_decoder import tiny_decoder
from tiny_speaker import tiny_echox_config
from tolerance import assert_equal_up_to_rounding

SIZES = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
MODELS = {"llama": {}, "qwen3": {"head_dim": 8}, "mistral": {"sliding_window": 3}, "smollm3": {}}


def backbone(kind: str, kernel: str = "sdpa", **more: object):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, "initializer_range": 0.3, **MODELS.get(kind, {}), **more})
    return AutoModel.from_config(config, attn_implementation=kernel)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def assert_same_gradients(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert sum(bool(value.any()) for value in expected.values()) > 0.7 * len(expected)
    for name, value in expected.items():
        assert_equal_up_to_rounding(found[name], value)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=30))
def test_every_sequence_has_one_row_and_none_is_longer_than_the_longest(lengths):
    rows = rows_of(lengths)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    used = [sum(lengths[number] for number in row) for row in rows]
    assert max(used) <= max(lengths)
    assert all(one + other > max(lengths) for one, other in zip(used, used[1:], strict=False)), "neighbours do not fit"
    mask = torch.arange(max(lengths)) >= (max(lengths) - torch.tensor(lengths))[:, None]  # padded on the left
    packed = PackedRows.of(mask)
    values = torch.randn(*mask.shape, 3)
    assert torch.equal(packed.unpack(packed.pack(values), mask.shape), values * mask[:, :, None])


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_states_and_gradients_are_those_of_each_sequence_alone(kind, kernel, side):
    model = backbone(kind, kernel)
    check_packing(model, "language model")
    lengths = [9, 2, 4, 3, 7, 1]
    places = torch.arange(9)
    mask = torch.stack([places < n if side == "right" else places >= 9 - n for n in lengths])
    vectors = torch.randn(6, 9, 16, requires_grad=True)
    weights = torch.randn(6, 9, 16) * mask[:, :, None]
    (run(model, vectors, mask) * weights).sum().backward()
    packed, inputs = gradients(model), vectors.grad
    model.zero_grad()
    vectors.grad = None
    for row, real in enumerate(mask):
        alone = model(inputs_embeds=vectors[row : row + 1, real], use_cache=False).last_hidden_state
        (alone * weights[row : row + 1, real]).sum().backward()
    assert_same_gradients(packed, gradients(model))
    assert_equal_up_to_rounding(inputs, vectors.grad)
    assert PackedRows.of(mask).position_ids.shape == (3, 9), "26 positions in 27, not in 54"


def test_padding_is_told_before_and_after():
    mask = torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 0]])
    assert {name: float(value) for name, value in padding_shares(mask, True).items()} == pytest.approx(
        {"padding_share": 1 - 11 / 12, "unpacked_padding_share": 1 - 11 / 18}
    )
    assert float(padding_shares(mask, False, "unit_padding_share")["unit_padding_share"]) == pytest.approx(1 - 11 / 18)


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_models_that_mix_packed_sequences_are_refused(kind):
    more = {"bloom": {"n_layer": 2, "n_head": 2}, "mamba": {"state_size": 4}}[kind]
    with pytest.raises(
        ValueError, match=r"training\.packing: expected the same states.*does not keep packed sequences"
    ):
        check_packing(backbone(kind, "eager", **more), "language model")


def test_kernels_that_take_one_row_only_are_refused():
    model = backbone("llama")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"expected an attention kernel of eager, sdpa in the echo decoder"):
        check_packing(model, "echo decoder")


def test_spoken_and_written_dialogues_are_read_alike():
    torch.manual_seed(0)
    model = S2TForConditionalGeneration(tiny_echox_config().s2t_config).train()
    ids = torch.randint(7, 340, (4, 30))
    ids[0, 3] = ids[2, 1] = ids[2, 8] = model.audio_token_id
    mask = (torch.arange(30) < torch.tensor([[30], [12], [15], [9]])).long()
    labels = torch.where((torch.arange(30) > 8) & mask.bool(), ids, -100)
    labels[0, 3] = labels[2, 8] = -100
    labels[3, 5:9] = ids[3, 5:9]
    heard = {"input_features": torch.randn(3, 8, 160), "ctc_labels": torch.randint(7, 340, (3, 4))}
    found = {}
    for packed in (False, True):
        torch.manual_seed(1)  # the same dropout in the speech encoder
        model.zero_grad()
        output = model(ids, mask, labels=labels, packed=packed, **heard)
        output.loss.backward()
        found[packed] = output, gradients(model)
    (padded, expected), (output, packed_gradients) = found[False], found[True]
    assert_equal_up_to_rounding(output.loss, padded.loss)
    real = padded.attention_mask.bool()
    assert_equal_up_to_rounding(output.last_hidden_state[real], padded.last_hidden_state[real])
    assert_same_gradients(packed_gradients, expected)
    shares = padding_shares(real, True)
    assert float(shares["padding_share"]) < float(shares["unpacked_padding_share"])


@pytest.mark.parametrize(
    ("form", "more"),
    [
        ("prefix", {"num_prefix_vectors": 2}),
        ("word_synchronous", {}),
        ("word_synchronous", {"max_word_letters": 5}),
        ("text_prefix", {"prompt_prefix_ids": [3, 4], "prompt_suffix_ids": [5], "end_token_id": 2}),
    ],
)
def test_unit_decoders_learn_alike_with_dropout_and_noise(form, more):
    torch.manual_seed(0)
    config = tiny_decoder(form, dropout=0.1, unit_noise=0.2, **more)
    decoder = build_unit_decoder(config).train()
    check_packing(decoder.backbone, "unit decoder")
    states = torch.randn(4, 7, 24)
    word_ids = torch.tensor(
        [[0, 0, 1, 2, 3, 4, 5], [0, 1, 1, -1, -1, -1, -1], [-1, 2, 3, 3, 4, -1, -1], [0, -1, -1, -1, -1, -1, -1]]
    )
    counts, words = (18, 5, 9, 3), ([0, 1, 2, 3, 4, 5], [0, 1], [2, 3, 4], [0])
    unit_words, unit_word_of = torch.full((4, 18), IGNORED), torch.full((4, 18), -1)
    for row, (count, names) in enumerate(zip(counts, words, strict=True)):
        unit_words[row, :count] = torch.randint(0, 20, (count,))
        unit_word_of[row, :count] = torch.tensor([names[place * len(names) // count] for place in range(count)])
    letters = None
    if more.get("max_word_letters"):  # of as many words as a row has
        exists = torch.arange(6) < torch.tensor([[len(names)] for names in words])
        letters = torch.randint(0, 30, (4, 6, 5)).masked_fill(~exists[:, :, None], -1)
    found = {}
    for packed in (False, True):
        torch.manual_seed(1)  # the same dropout and noise
        decoder.zero_grad()
        output = decoder(states, word_ids, unit_words, unit_word_of, letters, packed)
        output.loss.backward()
        found[packed] = output, gradients(decoder)
    assert_equal_up_to_rounding(found[True][0].loss, found[False][0].loss)
    assert_same_gradients(found[True][1], found[False][1])
    mask = found[False][0].input_mask
    assert len(rows_of(mask.sum(1).tolist())) < 4
