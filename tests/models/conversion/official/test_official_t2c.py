"""Denoising adapter and unit decoder of every official size compute what the reference computed: fixtures B."""

import pytest
import torch

from echox.models.unit_language.tokenization_unit_pieces import parse_unit_text
from official_files import (
    close,
    golden_json,
    golden_tensors,
    needs_golden,
    procedural,
    release_weights,
    released_model,
)

needs_golden()
VARIANTS = golden_json("B_t2c")["variants"]
ROWS = {
    "unit_translator.model.embed_tokens.weight": "unit_translator.model.embed_tokens.weight::rows",
    "unit_translator.lm_head.weight": "unit_translator.lm_head.weight::rows",
}


def weights_of(variant):
    """The release with this variant's unit decoder; all but "large" are made by formula (FORMAT.md 9)."""
    weights = release_weights()
    if not variant["config_overrides"]:
        return weights
    stored = golden_tensors("echox_weights")
    weights = {name: value for name, value in weights.items() if not name.startswith("unit_translator.")}
    for name, shape in variant["shapes"].items():
        rows = stored[ROWS[name]].long().tolist() if name in ROWS else None
        weights[name] = procedural(name, shape, rows)
        total, size = variant["checksums"][name]
        assert float(weights[name].double().sum()) == pytest.approx(total, abs=1e-2 + 1e-6 * size), name
        assert float(weights[name].double().abs().sum()) == pytest.approx(size, rel=1e-5), name
    return weights


@pytest.fixture(scope="module", params=VARIANTS)
def built(request):
    variant = VARIANTS[request.param]
    return request.param, released_model(weights_of(variant), **variant["config_overrides"])


def test_sizes(built):
    name, model = built
    expected, backbone = VARIANTS[name]["t2u"], model.echo_decoder.backbone.config
    for field in (
        "num_hidden_layers",
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "head_dim",
        "rms_norm_eps",
    ):
        assert getattr(backbone, field) == expected[field], field
    assert model.echo_decoder.unit_head.weight.shape[0] == expected["vocab_size"]
    assert backbone.rope_parameters == expected["rope_scaling"] | {"rope_theta": expected["rope_theta"]}


@torch.inference_mode()
def test_segments(built):
    name, model = built
    decoder, stored, meta = model.echo_decoder, golden_tensors("B_t2c"), golden_json("B_t2c")
    first_unit, rows = decoder.config.text_vocab_size, meta["unit_row_ids"]
    for segment, case in VARIANTS[name]["cases"].items():
        key = f"{name}.{segment}"
        states = stored[f"{segment}.hidden_in"]
        denoised = model.denoise(states)
        close(denoised, stored[f"{key}.aligner_out"])
        words = torch.zeros(states.shape[:2], dtype=torch.long)
        prompt, mask = decoder.prompt(denoised, words)
        assert bool(mask.all())
        close(prompt, stored[f"{key}.adapted_embeds"])
        if f"{key}.pre_adapter_embeds" in stored:
            around = stored[f"{key}.pre_adapter_embeds"]
            close(decoder.embed(torch.tensor(decoder.prefix_ids))[None], around[:, : len(decoder.prefix_ids)])
        for outputs, logits, hidden in (
            (case["token_ids"][:-1], "step_logits_unitrows", "step_hidden_first"),
            (case["forced_ids"], "forced_logits_unitrows", None),
        ):
            states_said = said_states(decoder, prompt, outputs)
            close(decoder.output_logits(states_said)[:, rows], stored[f"{key}.{logits}"])
            firsts = [name for name in stored if hidden and name.startswith(f"{key}.{hidden}")]
            for first in firsts:
                close(states_said[: len(stored[first])], stored[first])
        # Free, through the interface that streaming uses; text tokens among the outputs are no unit words.
        limit = len(case["token_ids"])
        sequence = decoder.generate(denoised, words, max_unit_words=limit)[0]
        expected = [output - first_unit for output in case["token_ids"] if output >= first_unit]
        assert sequence.unit_words[: len(expected)] == expected
        # As the reference read them: the fixtures' tokenizer writes [id] for text.
        decoded = "".join(
            f"<|unit_{output - first_unit}|>" if output >= first_unit else f"[{output}]" for output in case["token_ids"]
        )
        assert parse_unit_text(decoded) == [int(unit) for unit in case["units_string"].split()]


def said_states(decoder, prompt, outputs):
    """(n + 1, D) states that predict each of the outputs, and the one after them."""
    inputs = torch.cat([prompt, decoder.embed_outputs(torch.tensor([outputs]))], 1)
    hidden = decoder.backbone(inputs_embeds=inputs, use_cache=False).last_hidden_state
    return hidden[0, prompt.shape[1] - 1 :]


@torch.inference_mode()
def test_end(built):
    """Generation stops at the end token, whichever it is (the fixtures name one that was said)."""
    name, model = built
    decoder = model.echo_decoder
    before = decoder.config.end_token_id
    for segment, case in VARIANTS[name]["cases"].items():
        states = golden_tensors("B_t2c")[f"{segment}.hidden_in"]
        words = torch.zeros(states.shape[:2], dtype=torch.long)
        decoder.config.end_token_id = case["eos_rerun"]["eos_token_id"]
        sequence = decoder.generate(model.denoise(states), words)[0]
        decoder.config.end_token_id = before
        first_unit = decoder.config.text_vocab_size
        said = [output - first_unit for output in case["eos_rerun"]["token_ids"][:-1] if output >= first_unit]
        assert sequence.finished
        assert sequence.unit_words == said


@torch.inference_mode()
def test_segments_of_different_lengths_at_once(built):
    """A batch says what each segment says alone (the reference knows no batches)."""
    name, model = built
    if name != next(iter(VARIANTS)):
        pytest.skip("once is enough: the sizes make no difference")
    decoder, stored = model.echo_decoder, golden_tensors("B_t2c")
    states = [stored[name][0] for name in sorted(stored) if name.endswith(".hidden_in")]
    padded = torch.nn.utils.rnn.pad_sequence(states, batch_first=True)
    tokens = torch.nn.utils.rnn.pad_sequence(
        [torch.zeros(len(one), dtype=torch.long) for one in states], batch_first=True, padding_value=-1
    )
    silent = torch.full_like(tokens, -1)  # states of tokens that are not spoken are inputs too
    together = model.generate_unit_words(padded, tokens, silent, max_unit_words=10)
    for row, one in zip(together, states, strict=True):
        words = torch.zeros(1, len(one), dtype=torch.long)
        alone = decoder.generate(model.denoise(one[None]), words, max_unit_words=10)[0]
        assert row.unit_words[:8] == alone.unit_words[:8]


@torch.inference_mode()
def test_teacher_forcing_is_the_same_mathematics(built):
    name, model = built
    decoder = model.echo_decoder
    segment, case = next(iter(VARIANTS[name]["cases"].items()))
    first_unit = decoder.config.text_vocab_size
    units = torch.tensor([[output - first_unit for output in case["forced_ids"] if output >= first_unit]])
    denoised = model.denoise(golden_tensors("B_t2c")[f"{segment}.hidden_in"])
    words = torch.zeros(denoised.shape[:2], dtype=torch.long)
    output = decoder(denoised, words, units, torch.zeros_like(units))
    prompt, _ = decoder.prompt(denoised, words)
    expected = decoder.output_logits(said_states(decoder, prompt, (units[0] + first_unit).tolist()))
    close(output.logits[0], expected)
    assert output.targets[0].tolist() == [*(units[0] + first_unit).tolist(), decoder.end_id]
