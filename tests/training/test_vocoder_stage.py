"""The vocoder stage: what it reads, that it learns, and that each side of the adversarial game moves only itself."""

import json
import math
import random

import numpy as np
import pytest
import torch
from transformers import AutoModel

from echox.audio import save_audio
from echox.config import load_recipe, to_dict
from echox.data.manifest import UnitUtterance, Utterance, write_unit_utterances, write_utterances
from echox.models.vocoder.configuration_vocoder import ISTFTVocoderConfig, LightVocoderConfig
from echox.models.vocoder.modeling_discriminators import discriminator_loss
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from echox.models.vocoder.modeling_istft_vocoder import ISTFTVocoder
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.training.loop import train
from echox.training.stages.voice.spoken_units import cut_frames, cut_units, vocoder_config
from tolerance import assert_equal_up_to_rounding

RECIPE = """
stage: vocoder
data: {{units: {folder}/units.jsonl, speech: {folder}/speech.jsonl, crop_s: 0.5, evaluate_items: 2, sample_items: 1}}
{more}
training: {{output_dir: {folder}/out, steps: {steps}, batch_size: 4, warmup_steps: 1, precision: fp32,
  learning_rates: {rates}, tensorboard: false, log_every_steps: 5, sample_every_steps: {steps}}}
"""
LIGHT = """
model: {kind: light, sizes: {duration_hidden_size: 16, duration_intermediate_size: 16, num_duration_layers: 1,
  hidden_size: 32, intermediate_size: 32, num_frame_layers: 1, num_fine_layers: 1}}
"""
HIFIGAN = """
model: {kind: code_hifigan, sizes: {embedding_size: 8, upsample_initial_channels: 32, duration_hidden_size: 8,
  resblock_kernel_sizes: [3], resblock_dilation_sizes: [[1, 3, 5]]}}
adversarial: {periods: [2, 3], period_channels: [4, 8], scales: 2, scale_channels: 16}
"""
ISTFT = LIGHT.replace("kind: light", "kind: istft")
JUDGED = """
model: {{kind: istft, start_from: {start}}}
adversarial: {{periods: [2, 3], period_channels: [4, 8], scales: 0, resolutions: [64, 256], resolution_channels: 4,
  judged_frames: 9, mel_weight: 5.0}}
"""
JUDGED_RATES = "{generator: 1e-3, discriminators: 2e-4}"
HIFIGAN_RATES = "{generator: 2e-3, durations: 1e-2, discriminators: 2e-4}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Twelve utterances in a language of four units: each is a vowel-like tone of its own colour."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = random.Random(0)
    speech, units = [], []
    for number in range(12):
        durations = tuple(rng.randint(2, 9) for _ in range(6))
        reduced = [rng.randrange(4)]
        while len(reduced) < len(durations):
            reduced.append((reduced[-1] + rng.randint(1, 3)) % 4)
        frames = sum(durations)
        time_s = np.arange(frames * 320) / 16000
        colour = np.repeat(np.repeat(reduced, durations), 320) + 1.0
        tone = sum(np.sin(2 * math.pi * 170 * n * time_s) * np.exp(-np.abs(n - 3 * colour)) for n in range(1, 20))
        save_audio(folder / f"{number}.wav", (0.2 * tone).astype(np.float32), 16000)
        split = "train" if number < 10 else "heldout"
        duration_s = len(tone) / 16000
        speech.append(Utterance(str(number), f"{number}.wav", "la", "tone", duration_s, split))
        units.append(UnitUtterance(str(number), "la", tuple(reduced), durations, (0,) * 6, split))
    write_utterances(folder / "speech.jsonl", speech)
    write_unit_utterances(folder / "units.jsonl", units)
    return folder


def load(corpus, folder, more, rates, steps=10):
    text = RECIPE.format(folder=corpus, more=more, rates=rates, steps=steps)
    (folder / "recipe.yaml").write_text(text)
    return load_recipe(folder / "recipe.yaml", [f"training.output_dir={folder}/out"])


def test_light_stage_learns_and_saves(corpus, tmp_path):
    recipe = load(corpus, tmp_path, LIGHT, "{vocoder: 1e-2}", steps=40)
    stage = recipe.build()
    with torch.inference_mode():
        before = stage.evaluate()
    after = train(stage, recipe.training, to_dict(recipe))
    assert after["heldout_mel_loss"] < 0.7 * before["heldout_mel_loss"]
    assert after["mel_error_db"] < before["mel_error_db"]
    assert after["f0_error_hz"] < 5
    assert {"duration_error_frames", "duration_ratio", "mel_error_of_units_predicted_durations_db"} <= set(after)
    vocoder = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(vocoder, LightVocoder)
    assert vocoder.config.num_units == 4
    assert json.loads((tmp_path / "out" / "training_record.json").read_text())["metrics"] == pytest.approx(after)
    samples = {path.name for path in (tmp_path / "out" / "samples").rglob("*.wav")}
    assert samples == {f"10.{kind}.wav" for kind in ("original", "true_durations", "predicted_durations")}


def test_light_batches(corpus, tmp_path):
    stage = load(corpus, tmp_path, LIGHT, "{vocoder: 1e-2}").build()
    items = stage.dataset()
    assert len(items) == 10
    assert max(stage.lengths()) <= 25
    batch = stage.collate(items[:4], random.Random(1))
    frames = int(batch["durations_frames"].sum(1).max())
    assert batch["log_mel"].shape == (4, 2 * frames, 80)
    assert batch["voiced"].shape == (4, 2 * frames)
    again = stage.collate(items[:4], random.Random(1))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    stage.objective(batch)["loss"].backward()
    assert all(parameter.grad is not None for parameter in stage.model.parameters())


def test_adversarial_stage_runs_and_saves(corpus, tmp_path):
    recipe = load(corpus, tmp_path, HIFIGAN, HIFIGAN_RATES, steps=4)
    stage = recipe.build()
    metrics = train(stage, recipe.training, to_dict(recipe))
    assert metrics["log_spectral_distance_db"] > 0
    vocoder = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(vocoder, CodeHiFiGAN)
    assert not vocoder.config.weight_norm
    assert stage.model.config.weight_norm  # saving did not touch the model in training
    units = torch.tensor([[1, 2, 0]])
    with torch.inference_mode():
        assert_equal_up_to_rounding(vocoder(units).waveform, stage.model(units).waveform)


@pytest.fixture(scope="module")
def featured(corpus, tmp_path_factory):
    """An iSTFT vocoder whose features are learned."""
    folder = tmp_path_factory.mktemp("featured")
    recipe = load(corpus, folder, ISTFT, "{vocoder: 1e-2}", steps=40)
    train(recipe.build(), recipe.training, to_dict(recipe))
    return folder / "out"


def test_istft_stage_continues_from_features_against_discriminators(corpus, featured, tmp_path):
    recipe = load(corpus, tmp_path, JUDGED.format(start=featured), JUDGED_RATES, steps=6)
    stage = recipe.build()
    with torch.inference_mode():
        before = stage.evaluate()
    after = train(stage, recipe.training, to_dict(recipe))
    assert before["f0_error_hz"] < 5
    assert after["heldout_mel_loss"] < 1.2 * before["heldout_mel_loss"]
    vocoder = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(vocoder, ISTFTVocoder)
    assert vocoder.config.num_units == 4
    assert vocoder.feature_head.weight[: vocoder.band_channels].abs().max() > 0


def test_a_judged_stretch_sounds_as_in_the_whole(corpus, featured, tmp_path):
    stage = load(corpus, tmp_path, JUDGED.format(start=featured), JUDGED_RATES).build()
    torch.nn.init.normal_(stage.model.feature_head.weight[: stage.model.band_channels], std=0.3)
    batch = stage.collate(stage.dataset()[:3], random.Random(2))
    # The phase of the pulses counts from the beginning of a stretch: without them both are equal.
    batch["voiced"] = torch.zeros_like(batch["voiced"])
    with torch.inference_mode():
        said = stage.model.features(batch["units"], batch["durations_frames"])
        stretch = stage.objective._speak(said, batch)
        whole = stage.model.speak(said, batch["f0_hz"], batch["voiced"].float())
    hop = stage.geometry.hop_samples
    for row, first in enumerate(batch["judged_from"].tolist()):
        expected = whole[row, first * hop : first * hop + stretch.shape[1]]
        torch.testing.assert_close(stretch[row, : len(expected)], expected, atol=1e-3, rtol=0)


def test_sides_of_the_istft_game_get_their_own_gradient(corpus, featured, tmp_path):
    stage = load(corpus, tmp_path, JUDGED.format(start=featured), JUDGED_RATES).build()
    objective = stage.objective
    batch = stage.collate(stage.dataset()[:3], random.Random(0))
    objective(batch)["loss"].backward()
    theirs = {name: value.grad.clone() for name, value in objective.discriminators.named_parameters()}
    assert all(torch.isfinite(value.grad).all() for value in stage.model.parameters())
    objective.zero_grad()
    with torch.no_grad():
        made = objective._speak(stage.model.features(batch["units"], batch["durations_frames"]), batch)
    discriminator_loss(objective.discriminators(batch["waveform"]), objective.discriminators(made)).backward()
    for name, value in objective.discriminators.named_parameters():
        assert_equal_up_to_rounding(theirs[name], value.grad)


def test_each_side_gets_its_own_gradient(corpus, tmp_path):
    stage = load(corpus, tmp_path, HIFIGAN, HIFIGAN_RATES).build()
    objective = stage.objective.eval()  # no dropout, and spectral norms that stand still
    batch = stage.collate(stage.dataset()[:3], random.Random(0))
    assert batch["waveform"].shape[1] == int(batch["cut_durations_frames"].sum(1)[0]) * 320
    objective(batch)["loss"].backward()
    theirs = {name: value.grad.clone() for name, value in objective.discriminators.named_parameters()}
    ours = {name: value.grad.clone() for name, value in objective.generator.named_parameters()}
    objective.zero_grad()
    made = objective.generator.vocode(batch["cut_units"], batch["cut_durations_frames"]).detach()
    discriminator_loss(objective.discriminators(batch["waveform"]), objective.discriminators(made)).backward()
    for name, value in objective.discriminators.named_parameters():
        assert_equal_up_to_rounding(theirs[name], value.grad)
    assert all(value.abs().sum() > 0 for value in ours.values())


def test_cuts():
    row = UnitUtterance("a", "la", (1, 2, 3, 1), (4, 2, 5, 3), (0, 0, 0, 0))
    assert cut_frames(row, 3, 5) == ([1, 2, 3], [1, 2, 2])
    assert cut_frames(row, 0, 14) == ([1, 2, 3, 1], [4, 2, 5, 3])
    rng = random.Random(0)
    starts = set()
    for _ in range(50):
        units, durations, start = cut_units(row, 8, rng)
        assert 0 < sum(durations) <= 8
        assert cut_frames(row, start, sum(durations)) == (list(units), list(durations))
        starts.add(start)
    assert len(starts) > 1
    assert cut_units(row, 14, rng) == (row.units, row.durations_frames, 0)
    assert cut_units(row, 1, rng)[1][0] >= 2  # a unit longer than the cut stays whole


def test_bad_recipes_are_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="adversarial: expected this section for model.kind: code_hifigan"):
        load(corpus, tmp_path, "model: {kind: code_hifigan}", HIFIGAN_RATES).build()
    with pytest.raises(ValueError, match=r"model.start_from: expected model.kind: istft, found light"):
        load(corpus, tmp_path, "model: {kind: light, start_from: x}", HIFIGAN_RATES).build()
    with pytest.raises(ValueError, match="model.sizes.hiden_size"):
        vocoder_config(LightVocoderConfig, {"hiden_size": 3})
    with pytest.raises(ValueError, match="model.sizes.kernel"):
        vocoder_config(ISTFTVocoderConfig, {"hidden_size": 32, "kernel": 3})
    write_utterances(tmp_path / "other.jsonl", [Utterance("x", "x.wav", "la", "tone", 1.0)])
    recipe = load(corpus, tmp_path, LIGHT, "{vocoder: 1e-2}")
    recipe.data.speech = str(tmp_path / "other.jsonl")
    with pytest.raises(ValueError, match="found '0' and 11 more"):
        recipe.build()
