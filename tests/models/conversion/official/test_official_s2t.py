"""Speech to text with official weights computes what the reference computed: fixtures A of ../shared/golden."""

import pytest
import torch
import torch.nn.functional as F

from official_files import close, golden_json, golden_tensors, needs_golden, release_weights, released_model

needs_golden()
CASES = golden_json("A_s2t")["cases"]
PERIOD_ID = 13  # "." of Llama 3, whose row of the head scores the ends of segments


@pytest.fixture(scope="module")
def models():
    """The S2T without and with ends of turns hidden (where the reference's padding token is the end of a turn)."""
    weights = release_weights()
    return [
        released_model(weights, masked_token_id=hidden).s2t for hidden in (None, golden_json("config")["eos_token_id"])
    ]


def features(names):
    """(A, mels, T) log-mel of the fixtures' audios."""
    if not names:
        return None
    scale = golden_json("A_s2t")["mel_scale"]
    return torch.stack([golden_tensors("A_s2t")[f"mel{name}_i8"].float() * scale for name in names])


def states_of(s2t, input_ids, heard, tokens):
    """Last hidden states that predict each of the tokens and one more: (n + 1, H); and those of the prompt (L, H)."""
    embeds, mask, _ = s2t.splice(input_ids, audio_embeds=heard)
    more = s2t.get_input_embeddings()(torch.tensor([tokens], dtype=torch.long))
    mask = torch.cat([mask, mask.new_ones(1, len(tokens))], 1)
    states = s2t._run(torch.cat([embeds, more], 1), mask)[0]
    return states[embeds.shape[1] - 1 :], states[: embeds.shape[1]], mask[0, : embeds.shape[1]]


def check_outputs(s2t, states, prefix, name):
    """Hidden states and logits of every step against the fixture, and the similarities that cut segments."""
    case, stored = CASES[name], golden_tensors("A_s2t")
    close(states, stored[f"{name}.{prefix}step_hidden"])
    logits = s2t.get_output_embeddings()(states)
    close(logits[:, golden_json("A_s2t")["used_ids"]], stored[f"{name}.{prefix}step_logits_usedcols"])
    period = s2t.get_output_embeddings().weight[PERIOD_ID]
    close(F.cosine_similarity(states, period, dim=-1), torch.tensor(case[f"{prefix}sims"]))
    return logits.argmax(-1).tolist()


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_case(models, name):
    case, stored, meta = CASES[name], golden_tensors("A_s2t"), golden_json("A_s2t")
    s2t = models[bool(case["mask_false_positions"])]
    input_ids = stored[f"{name}.input_ids"].long()
    audio = features(case["audios"])
    heard = None if audio is None else s2t.encode_audio(audio)
    if heard is not None and f"{name}.ctc_tokens" in stored:
        check_hearing(s2t, audio, heard, name)
    embeds = heard.embeds if heard is not None else None
    states, prompt, mask = states_of(s2t, input_ids, embeds, case["tokens"][:-1])
    assert len(prompt) == case["expanded_len"]
    assert torch.equal(mask.bool(), stored[f"{name}.mask_row_after"])
    assert (mask == 0).nonzero().flatten().tolist() == case["mask_false_positions"]
    close(prompt, stored[f"{name}.prefill_hidden"])
    head = s2t.get_output_embeddings()
    close(head(prompt[-8:])[:, meta["used_ids"]], stored[f"{name}.prefill_logits_last8_usedcols"])
    assert check_outputs(s2t, states, "", name) == case["tokens"]
    forced, _, _ = states_of(s2t, input_ids, embeds, case["forced_tokens"])
    assert check_outputs(s2t, forced, "forced_", name) == case["forced_argmax"]
    written = s2t.generate(
        input_ids, input_features=audio, max_new_tokens=len(case["tokens"]), do_sample=False, eos_token_id=None
    )
    assert written[0].tolist() == case["tokens"]


def check_hearing(s2t, audio, heard, name):
    """Every stage between the log-mel and the look-back."""
    stored, meta = golden_tensors("A_s2t"), golden_json("A_s2t")
    encoded = s2t.audio_tower(audio)
    close(encoded.last_hidden_state[:, ::25], stored[f"{name}.enc_every25"])
    adapter = s2t.alignment_adapter
    frames, _ = adapter(encoded.last_hidden_state, encoded.mask)
    pairs = encoded.last_hidden_state.reshape(len(audio), frames.shape[1], -1)
    projected = adapter.projection(pairs)
    close(projected[:, ::25], stored[f"{name}.proj_every25"])
    close(
        adapter.layer(projected.reshape(-1, 1, projected.shape[2])).view_as(frames)[:, ::25],
        stored[f"{name}.asr_every25"],
    )
    expected = stored[f"{name}.audio_features"]
    close(frames[:, :: frames.shape[1] // expected.shape[1]], expected)
    close(s2t.ctc_head(frames)[:, ::5, meta["ctc_ids"]], stored[f"{name}.ctc_logits_usedcols"])
    assert torch.equal(heard.labels, stored[f"{name}.ctc_tokens"].long())
    assert torch.equal(s2t.ctc_head(frames).argmax(-1), heard.labels), "in chunks or at once"
    for number, (embeds, length) in enumerate(zip(heard.embeds, CASES[name]["shrunk_lengths"], strict=True)):
        assert len(embeds) == length == int(stored[f"{name}.shrink_mask"][number].sum())
        close(embeds, stored[f"{name}.lookback{number}"])


@torch.inference_mode()
def test_turns_that_attend_to_each_other(models):
    """Case 2b: the audios of one dialogue side by side, as in the reference's training."""
    case, stored, s2t = CASES["case2_two_turn"], golden_tensors("A_s2t"), models[0]
    audio = features(case["audios"])
    encoded = s2t.audio_tower(audio)
    frames, _ = s2t.alignment_adapter(encoded.last_hidden_state, encoded.mask, len(audio))
    close(frames[:, ::5], stored["case2b_layout_1xturns.audio_features_every5"])
    heard = s2t.encode_audio(audio, audios_together=len(audio)).embeds
    tokens = golden_json("A_s2t")["case2b_tokens"]
    states, _, _ = states_of(s2t, stored["case2_two_turn.input_ids"].long(), heard, tokens[:-1])
    close(states, stored["case2b_layout_1xturns.step_hidden"])
    assert s2t.get_output_embeddings()(states).argmax(-1).tolist() == tokens


@torch.inference_mode()
def test_calls_are_independent(models):
    """The reference keeps a mask on the module: what was asked before could change an answer. Here it cannot."""
    s2t = models[1]
    inputs = {"input_ids": golden_tensors("A_s2t")["case3_text_only_fresh.input_ids"].long()}
    before = s2t(**inputs).logits[:, -1]
    ids = golden_tensors("A_s2t")["case4_single_pad_is_eot.input_ids"].long()
    s2t(ids, input_features=features(CASES["case4_single_pad_is_eot"]["audios"]))
    assert torch.equal(s2t(**inputs).logits[:, -1], before)
