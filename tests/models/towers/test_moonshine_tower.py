"""Moonshine as tower and recogniser: equals transformers, padding changes nothing, long audio is cut in pauses."""

from __future__ import annotations

import pytest
import torch

from echox.models.towers.auto import AutoAudioTower, AutoRecogniser
from echox.models.towers.base import finish
from echox.models.towers.monotonic import token_frames
from echox.models.towers.moonshine import FRAME_SAMPLES, RECEPTIVE_SAMPLES, MoonshineTower
from echox.models.towers.windows import cut_windows
from tiny_recogniser import WINDOW_FRAMES, tiny_moonshine
from tolerance import assert_equal_up_to_rounding


def parts(folder):
    model, _ = tiny_moonshine()
    model.save_pretrained(folder)
    tower = AutoAudioTower.from_checkpoint(folder)
    recogniser = AutoRecogniser.from_config(tower.config).eval()
    recogniser.load_state_dict(model.model.decoder.state_dict())
    return model, tower, recogniser


def noise(*lengths: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return (torch.randn(len(lengths), max(lengths)) * 0.3).masked_fill(~mask, 9.0), mask


@torch.inference_mode()
def test_frames_and_transcripts_are_those_of_transformers(tmp_path):
    model, tower, recogniser = parts(tmp_path)
    samples, _ = noise(20_000)
    expected = model.model.encoder(samples).last_hidden_state
    windows = tower.encode_windows(samples, None)
    assert_equal_up_to_rounding(windows.states, expected)
    (heard,) = finish(recogniser.transcribe_gradually(windows, [12]))
    ids = model.generate(samples, max_new_tokens=12, do_sample=False)[0, 1:].tolist()
    assert heard.token_ids == [token for token in ids if token != 2]
    assert len(heard.token_ids) > 2
    begin = torch.tensor([[1, *heard.token_ids]])
    states = model.model.decoder(begin, encoder_hidden_states=expected).last_hidden_state[0, :-1]
    assert_equal_up_to_rounding(heard.states, states)
    between = tower(samples, output_hidden_states=True).hidden_states
    assert len(between) == tower.spec.num_layers + 1
    assert_equal_up_to_rounding(tower.layer_norm(between[-1]), expected)


@torch.inference_mode()
def test_batch_equals_single_under_padding(tmp_path):
    _, tower, recogniser = parts(tmp_path)
    lengths = (21_000, 30_000, 900, 400, 70_000)  # too short for a frame, and longer than two windows
    samples, mask = noise(*lengths)
    samples[:, ::3000] = 0.0
    together = tower(samples, mask, output_hidden_states=True)
    windows = tower.encode_windows(samples, mask)
    heard = finish(recogniser.transcribe_gradually(windows, [9] * len(windows.audio_of)))
    for row, length in enumerate(lengths):
        single = samples[row : row + 1, :length]
        alone = tower(single, output_hidden_states=True)
        count = int(together.mask[row].sum())
        assert bool(together.mask[row, :count].all())
        assert bool(alone.mask.all())
        assert_equal_up_to_rounding(together.last_hidden_state[row, :count], alone.last_hidden_state[0])
        for layer, own in zip(together.hidden_states, alone.hidden_states, strict=True):
            assert_equal_up_to_rounding(layer[row, :count], own[0])
        gradual = finish(tower.encode_gradually(single, torch.ones_like(single)))
        assert_equal_up_to_rounding(gradual.last_hidden_state, alone.last_hidden_state)
        own_windows = tower.encode_windows(single, None)
        mine = [index for index, audio in enumerate(windows.audio_of) if audio == row]
        assert own_windows.first_frame == [windows.first_frame[index] for index in mine]
        alone_heard = finish(recogniser.transcribe_gradually(own_windows, [9] * len(mine)))
        assert [one.token_ids for one in alone_heard] == [heard[index].token_ids for index in mine]
        assert [one.frames for one in alone_heard] == [heard[index].frames for index in mine]


def counted(steps):
    """The result of a computation in steps, and their number."""
    number = 0
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value, number
        number += 1


@torch.inference_mode()
def test_a_draft_changes_nothing_but_the_steps(tmp_path):
    _, tower, recogniser = parts(tmp_path)
    windows = tower.encode_windows(noise(20_000)[0], None)
    (wanted,) = finish(recogniser.transcribe_gradually(windows, [12]))
    ids = wanted.token_ids
    assert len(ids) > 4
    other = (ids[2] + 1) % len(recogniser.embed_tokens.weight)
    steps = {}
    for name, draft in {
        "none": [],
        "all": ids,
        "beginning": ids[:3],
        "wrong at once": [other, *ids],
        "wrong later": [*ids[:2], other, *ids[3:]],
        "longer": [*ids, other, other],
        "longer than the limit": ids * 4,
    }.items():
        (heard,), steps[name] = counted(recogniser.transcribe_gradually(windows, [12], draft))
        assert heard.token_ids == ids, name
        assert heard.frames == wanted.frames, name
        assert_equal_up_to_rounding(heard.states, wanted.states)
    assert steps["wrong at once"] == steps["none"]
    assert steps["beginning"] == steps["none"] - 3
    assert steps["wrong later"] == steps["none"] - 2
    assert steps["all"] <= 2
    several = tower.encode_windows(*noise(20_000, 21_000))
    one, other_window = finish(recogniser.transcribe_gradually(several, [12, 12], ids))
    assert one.token_ids == finish(recogniser.transcribe_gradually(several, [12, 12]))[0].token_ids
    assert other_window.token_ids


def test_long_audio_is_cut_in_its_pauses_and_loses_no_frame(tmp_path):
    _, tower, _ = parts(tmp_path)
    samples, mask = noise(4 * WINDOW_FRAMES * FRAME_SAMPLES + 1000)
    pauses = [45, 92, 140, 185]
    for pause in pauses:
        samples[:, (pause - 5) * FRAME_SAMPLES : (pause + 5) * FRAME_SAMPLES] *= 0.01
    windows = cut_windows(samples, mask, WINDOW_FRAMES, FRAME_SAMPLES)
    assert [abs(window.first_frame - pause) <= 3 for window, pause in zip(windows[1:], pauses, strict=True)] == [
        True
    ] * 4
    assert all(window.num_frames <= WINDOW_FRAMES for window in windows)
    with torch.inference_mode():
        frames = int(tower(samples).mask.sum())
    assert frames == (samples.shape[1] - RECEPTIVE_SAMPLES) // FRAME_SAMPLES + 1, "as if it had not been cut"


def test_half_precision_keeps_its_type(tmp_path):
    _, tower, recogniser = parts(tmp_path)
    samples, mask = noise(9000, 5000)
    with torch.inference_mode():
        windows = tower.to(torch.bfloat16).encode_windows(samples, mask)
        heard = finish(recogniser.to(torch.bfloat16).transcribe_gradually(windows, [5, 0]))
    assert windows.states.dtype == heard[0].states.dtype == torch.bfloat16
    assert heard[1].token_ids == []


def test_wrong_inputs_say_what_was_expected(tmp_path):
    _, tower, _ = parts(tmp_path)
    with pytest.raises(ValueError, match=r"expected \(audios, samples\), found \(1, 80, 30\)"):
        tower(torch.zeros(1, 80, 30))
    with pytest.raises(ValueError, match="found an empty audio"):
        tower(torch.zeros(2, 900), torch.tensor([[1] * 900, [0] * 900]))
    config = tower.config.__class__()
    config.model_type = "vocals"
    with pytest.raises(ValueError, match="expected model_type whisper, moonshine"):
        AutoAudioTower.spec(config)


def test_a_new_model_saves_where_it_cuts(tmp_path):
    model, _ = tiny_moonshine()
    MoonshineTower(model.config).save_pretrained(tmp_path)
    assert (
        AutoAudioTower.spec(type(model.config).from_pretrained(tmp_path)).window_inputs == WINDOW_FRAMES * FRAME_SAMPLES
    )


def test_tokens_get_frames_in_order_by_what_they_attend_to():
    weights = torch.full((3, 12), 0.01)
    weights[0, 1:3], weights[1, 5], weights[2, 9:11] = 0.5, 0.9, 0.4
    weights[:, 0] = 0.8  # all attend to it, so it says nothing
    found = token_frames(weights.numpy())
    assert found == [(0, 3), (5, 6), (9, 11)]
    assert all(one[1] <= other[0] for one, other in zip(found, found[1:], strict=False))
    assert found[1][0] <= 5 < found[1][1]
    assert found[2][0] <= 9 < found[2][1]
    assert token_frames(torch.rand(5, 2).numpy())[-1][1] >= 2
    assert token_frames(torch.rand(0, 2).numpy()) == []
