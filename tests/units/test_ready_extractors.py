"""Published encoders and centroids as unit extractors: the numbers of transformers, alone or in a batch."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMModel,
)

from echox.config import load_recipe
from echox.data.manifest import Utterance, read_unit_utterances, write_utterances
from echox.models.towers.waveform_encoder import waveform_states
from echox.units.extract import UnitExtractor
from tolerance import assert_equal_up_to_rounding

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": (8,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}  # kernels and strides are the published ones: 400 samples a frame, 320 apart
FORMS = {
    "base": {"feat_extract_norm": "group", "do_stable_layer_norm": False},  # HuBERT and mHuBERT base
    "large": {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
}
KINDS = {
    "hubert": (HubertConfig, HubertModel),
    "wav2vec2": (Wav2Vec2Config, Wav2Vec2Model),
    "wavlm": (WavLMConfig, WavLMModel),
}


def encoder(kind: str = "hubert", form: str = "base"):
    config, model = KINDS[kind]
    torch.manual_seed(0)
    made = model(config(**SIZES, **FORMS[form])).eval()
    with torch.no_grad():
        for value in made.parameters():  # far from the initial zeros and ones, so that every part shows
            value.add_(0.1 * torch.randn_like(value))
    return made


def noise(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(length).astype(np.float32) for length in lengths]


@pytest.fixture
def folder(tmp_path):
    encoder().save_pretrained(tmp_path / "hubert")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(tmp_path / "hubert")
    save_file({"centroids": torch.randn(6, 16, generator=torch.Generator().manual_seed(1))}, tmp_path / "k.safetensors")
    return tmp_path


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_of_a_batch_is_what_transformers_gives_each_alone(kind, form):
    model, waveforms = encoder(kind, form), noise(8000, 16000, 400, 5123)
    with torch.no_grad():
        expected = [model(torch.from_numpy(row)[None], output_hidden_states=True).hidden_states for row in waveforms]
        for layer in range(SIZES["num_hidden_layers"] + 1):
            states, mask = waveform_states(model, [torch.from_numpy(row) for row in waveforms], layer)
            assert mask.sum(1).tolist() == [(len(row) - 400) // 320 + 1 for row in waveforms]
            for row, length, alone in zip(states, mask.sum(1).tolist(), expected):
                assert_equal_up_to_rounding(row[:length], alone[layer][0])


def test_units_are_the_nearest_published_centroids(folder):
    extractor = UnitExtractor.from_parts(folder / "hubert", folder / "k.safetensors", layer=2)
    waveforms = noise(16000, 4000)
    assert extractor.frame_rate_hz == 50
    for waveform, units in zip(waveforms, extractor.extract_batch(waveforms)):
        inputs = extractor.feature_extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_values"]
        with torch.no_grad():
            states = extractor.encoder(inputs, output_hidden_states=True).hidden_states[2][0]
        nearest = torch.cdist(states, extractor.centroids).argmin(-1)
        assert np.array_equal(units, nearest.numpy())
        assert np.array_equal(units, extractor(waveform))


def test_saved_extractor_is_self_contained(folder):
    extractor = UnitExtractor.from_parts(folder / "hubert", folder / "k.safetensors", layer=1, switch_penalty=2.0)
    extractor.save_pretrained(folder / "saved")
    again, waveforms = UnitExtractor.from_pretrained(folder / "saved"), noise(6000, 3000)
    for one, other in zip(extractor.extract_batch(waveforms), again.extract_batch(waveforms)):
        assert np.array_equal(one, other)


def test_recipe_takes_published_parts(folder):
    from echox.audio import save_audio

    rows = []
    for number, waveform in enumerate(noise(8000, 12000)):
        save_audio(folder / f"{number}.wav", 0.1 * waveform, 16000)
        duration_s = len(waveform) / 16000
        rows.append(
            Utterance(
                id=str(number),
                audio=f"{number}.wav",
                duration_s=duration_s,
                text="yes",
                speaker="a",
                word_ends_s=[duration_s],
            )
        )
    write_utterances(folder / "speech.jsonl", rows)
    recipe = folder / "units.yaml"
    recipe.write_text(
        f"stage: extract_units\nutterances: {folder}/speech.jsonl\noutput: {folder}/units.jsonl\n"
        f"encoder: {folder}/hubert\ncentroids: {folder}/k.safetensors\nlayer: 2\ndevice: cpu\n"
    )
    metrics = load_recipe(recipe).run()
    units = read_unit_utterances(folder / "units.jsonl")
    assert metrics["utterances"] == len(units) == 2
    frames = [sum(item.durations_frames) for item in units]
    assert sorted(frames) == [(8000 - 400) // 320 + 1, (12000 - 400) // 320 + 1]
    with pytest.raises(ValueError, match=r"expected an extractor folder, or encoder, centroids and layer"):
        load_recipe(recipe, ["layer=null"]).run()


def test_parts_that_do_not_fit_are_refused(folder):
    make = UnitExtractor.from_parts
    with pytest.raises(ValueError, match="layer from 0 to 3, found 4"):
        make(folder / "hubert", folder / "k.safetensors", layer=4)
    np.save(folder / "wide.npy", np.zeros((4, 768)))
    with pytest.raises(ValueError, match=r"\(units, 16\), found \(4, 768\)"):
        make(folder / "hubert", folder / "wide.npy", layer=1)
    with pytest.raises(ValueError, match="expected the encoder's 50, found 25"):
        make(folder / "hubert", folder / "k.safetensors", layer=1, frame_rate_hz=25)
    with pytest.raises(ValueError, match="expected an encoder with its feature extractor"):
        make(folder, folder / "k.safetensors", layer=1)
    with pytest.raises(ValueError, match="at least one frame of audio"):
        make(folder / "hubert", folder / "k.safetensors", layer=1)(noise(399)[0])
    (folder / "bad.pkl").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match=r"found a call of builtins\.print"):
        make(folder / "hubert", folder / "bad.pkl", layer=1)


def test_an_encoder_without_all_its_weights_is_refused(folder):
    from safetensors.torch import load_file

    file = folder / "hubert" / "model.safetensors"
    state = load_file(file)
    state.pop("encoder.layers.1.attention.q_proj.weight")
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"none for encoder\.layers\.1\.attention\.q_proj\.weight"):
        UnitExtractor.from_parts(folder / "hubert", folder / "k.safetensors", layer=1)
