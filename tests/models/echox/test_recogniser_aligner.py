"""Aligner "recogniser": the language model reads what was recognised, and a residual that starts at 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from echox.api import EchoX
from echox.models.conversion.moonshine import moonshine_tokenizer
from echox.models.echox.configuration_echox import S2TConfig
from echox.models.text.retokenization import Retokenizer
from echox.models.text.tokenization_text import decode_text, render_chat
from echox.models.towers.base import finish
from echox.streaming.prompt import drafts
from echox.streaming.prompt.messages import Audio
from tiny_echox import TEXTS, tone
from tiny_recogniser import tiny_hearer, tiny_tokens
from tiny_tokenizers import TOKENIZERS
from tolerance import assert_equal_up_to_rounding

RATE = 16_000
SOUNDS = [tone(0.7, 1), tone(3.1, 2), tone(0.03, 3)]
"""The second is longer than two windows of the tiny tower, the third shorter than a frame."""


@pytest.fixture(scope="module")
def echox() -> EchoX:
    return tiny_hearer()


def heard(echox: EchoX, sounds: list[np.ndarray]) -> tuple[list[torch.Tensor], list[list[tuple[int, int, int]]]]:
    inputs = echox.processor.extract_features(sounds, RATE)
    return echox.model.s2t.encode_and_transcribe(**inputs, retokenizer=echox.processor.retokenizer)


def test_batch_equals_single_and_step_by_step(echox):
    embeds, transcripts = heard(echox, SOUNDS)
    assert len({tuple(row) for row in transcripts}) == 3
    for row, sound in enumerate(SOUNDS):
        (alone,), (tokens,) = heard(echox, [sound])
        assert tokens == transcripts[row]
        assert_equal_up_to_rounding(alone, embeds[row])
        inputs = echox.processor.extract_features([sound], RATE)
        steps = echox.model.s2t.encode_gradually(**inputs, retokenizer=echox.processor.retokenizer)
        gradual, again = finish(steps)
        assert again == tokens
        assert_equal_up_to_rounding(gradual, alone)


def test_audio_that_is_heard_again_costs_fewer_steps_and_says_the_same(echox, monkeypatch):
    """Again, with more at its end; and whether a draft was right does not matter."""
    monkeypatch.setattr(drafts, "SAME_S", 0.2)
    engine, recogniser = echox.engine, echox.model.s2t.aligner.recogniser
    step, steps = recogniser._step, []
    monkeypatch.setattr(recogniser, "_step", lambda block, *rest: steps.append(block.shape[1]) or step(block, *rest))

    def hear(waveform):
        steps.clear()
        audio = Audio(waveform, RATE)
        (encoded,) = engine.encode([audio])
        engine.forget([audio])
        return encoded, len(steps)

    whole = tone(0.6, 1)
    part = whole[: round(0.5 * RATE)]
    engine.clear_encoded()
    part_first, _ = hear(part)
    engine.clear_encoded()
    first, alone = hear(whole)
    assert alone > 4
    again, with_draft = hear(whole)
    assert with_draft <= 2
    part_again, _ = hear(part)
    grown, _ = hear(whole)
    for found, wanted in [(again, first), (part_again, part_first), (grown, first)]:
        assert (found.text, found.begins_s) == (wanted.text, wanted.begins_s)
        assert_equal_up_to_rounding(found.embeds, wanted.embeds)
    engine.clear_encoded()
    assert hear(whole)[1] == alone, "nothing is left of what was heard"


def test_few_drafts_are_kept_and_none_of_short_audio(monkeypatch):
    monkeypatch.setattr(drafts, "MAX_DRAFTS", 2)
    kept = drafts.Drafts()
    audios = [Audio(tone(drafts.SAME_S, seed), RATE) for seed in range(3)]
    for number, audio in enumerate(audios):
        kept.of(audio).token_ids = [number]
    assert [kept.of(audio).token_ids for audio in audios[::-1]] == [[2], [1], []]
    short = Audio(tone(drafts.SAME_S - 0.1), RATE)
    kept.of(short).token_ids = [9]
    assert kept.of(short).token_ids == []


def test_times_are_in_order_and_within_the_audio(echox):
    _, transcripts = heard(echox, SOUNDS)
    rate = echox.model.s2t.aligner.transcript_frames_per_s
    assert rate == pytest.approx(16000 / 384)
    for sound, tokens in zip(SOUNDS, transcripts, strict=True):
        assert all(first < end for _, first, end in tokens)
        assert [first for _, first, _ in tokens] == sorted(first for _, first, _ in tokens)
        assert tokens[-1][2] / rate <= max(len(sound) / RATE, 0.06)


def test_before_training_speech_is_read_as_its_transcript_would_be():
    """Every state of the language model, not only the reply: S2T starts as T2T of what was recognised."""
    echox = tiny_hearer(gate=0.0)
    s2t, tokenizer = echox.model.s2t, echox.engine.tokenizer
    (sound,) = [SOUNDS[0]]
    inputs = echox.processor.prepare([[{"role": "user", "content": [{"type": "audio", "audio": sound}]}]], RATE)
    with torch.inference_mode():
        spoken = s2t(**inputs, retokenizer=echox.processor.retokenizer)
    text = decode_text(tokenizer, spoken.transcripts[0])
    prompt = render_chat(tokenizer, [{"role": "user", "content": text}], add_generation_prompt=True)
    typed_ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        typed = s2t(typed_ids)
    assert_equal_up_to_rounding(spoken.last_hidden_state, typed.last_hidden_state)


def test_only_the_residual_learns(echox):
    s2t = echox.model.s2t
    s2t.requires_grad_(False)
    for part in s2t.aligner.trained_parts():
        part.requires_grad_(True)
    tokenizer = echox.engine.tokenizer
    prompt = echox.processor.prepare([[{"role": "user", "content": [{"type": "audio", "audio": SOUNDS[0]}]}]], RATE)
    reply = tokenizer(TEXTS[1], add_special_tokens=False, return_tensors="pt")["input_ids"]
    ids = torch.cat([prompt["input_ids"], reply], dim=1)
    labels = torch.cat([torch.full_like(prompt["input_ids"], -100), reply], dim=1)
    sound = {name: prompt[name] for name in ("input_features", "input_features_mask")}
    output = s2t(ids, None, **sound, labels=labels, ctc_labels=reply, retokenizer=echox.processor.retokenizer)
    assert output.ctc_loss is None
    assert output.loss is output.s2t_loss
    output.loss.backward()
    moved = {name for name, value in s2t.named_parameters() if value.grad is not None and bool(value.grad.any())}
    assert moved == {f"residual_adapter.{part}" for part in ("projection.weight", "projection.bias", "gate")} | {
        "residual_adapter.layer_norm.weight",
        "residual_adapter.layer_norm.bias",
    }


def test_save_equals_load(echox, tmp_path):
    echox.save_pretrained(tmp_path)
    loaded = EchoX.from_pretrained(tmp_path, device="cpu")
    assert loaded.model.s2t.config.aligner == "recogniser"
    question = tone(1.3, 4)
    first, second = (model.session().reply(question, speak=False, seed=2) for model in (echox, loaded))
    assert first.heard == second.heard != ""
    assert first.text == second.text


def test_a_folder_without_the_recognisers_tokenizer_says_so(echox, tmp_path):
    echox.save_pretrained(tmp_path)
    (tmp_path / "recogniser_tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"expected the recogniser's tokenizer .* copy recogniser_tokenizer\.json"):
        EchoX.from_pretrained(tmp_path, device="cpu").engine  # noqa: B018 - made on first use
    with pytest.raises(ValueError, match="pass retokenizer=processor.retokenizer"):
        echox.model.s2t.encode(torch.zeros(1, 9000))


def test_a_tower_without_recogniser_and_an_unknown_aligner_are_refused(echox):
    text = echox.model.s2t.config.text_config
    with pytest.raises(ValueError, match="aligner: expected ctc or recogniser, found 'soft'"):
        S2TConfig(text_config=text, aligner="soft")
    config = S2TConfig(text_config=text, aligner="recogniser", audio_token_id=1)  # a Whisper
    with pytest.raises(ValueError, match="expected a tower of moonshine, found 'whisper'; use aligner 'ctc'"):
        type(echox.model.s2t)(config)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_tokens_of_any_language_model_know_the_words_they_are_from(name):
    language_model: PreTrainedTokenizerBase = TOKENIZERS[name]
    recogniser = moonshine_tokenizer(tiny_tokens(beginnings=True))
    text = "what is the capital of b\u00e9e?"
    ids = recogniser(text, add_special_tokens=False)["input_ids"]
    cut = recogniser.convert_ids_to_tokens(ids).index("\u2581the")  # two windows
    written = Retokenizer(recogniser, language_model)([ids[:cut], ids[cut:]])
    assert written.text == text
    assert written.token_ids == language_model(text, add_special_tokens=False)["input_ids"]
    assert written.sources[0][0] == 0
    assert written.sources[-1][1] == len(ids)
    for (first, end), (later, later_end) in zip(written.sources, written.sources[1:], strict=False):
        assert first < end
        assert first <= later < later_end
    assert torch.allclose(written.mixture(len(ids)).sum(dim=1), torch.ones(len(written.token_ids)))
    nothing = Retokenizer(recogniser, language_model)([[2], []])
    assert (nothing.text, nothing.token_ids) == ("", [])


def test_nobody_speaks_a_special_token():
    language_model = TOKENIZERS["llama 3"]
    recogniser = moonshine_tokenizer(tiny_tokens())
    ids = recogniser("a<|end|>", add_special_tokens=False)["input_ids"]
    written = Retokenizer(recogniser, language_model)([ids])
    assert language_model.eos_token_id not in written.token_ids
    assert language_model.decode(written.token_ids) == "a<|end|>"
