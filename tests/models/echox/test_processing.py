"""The processor: true-length features equal to the training features, chat template, one folder for everything."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from transformers import AutoConfig, ProcessorMixin, WhisperFeatureExtractor

from echox.audio import save_audio
from echox.data.features.corpus_features import FeatureStore, feature_store, log_mel, pad_features
from echox.models.echox import processing_echox
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.models.towers.auto import TOWERS, AutoAudioTower
from echox.models.unit_language import tokenization_auto
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from tolerance import assert_equal_up_to_rounding

RATE = 16000


def processor(unit_language: UnitLanguage | None = None) -> EchoXProcessor:
    tokenizer = train_text_tokenizer(["What is the capital of France?", "Paris."], 300)
    return EchoXProcessor(WhisperFeatureExtractor(feature_size=80), tokenizer, unit_language)


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def language() -> UnitLanguage:
    return UnitLanguage([(0,), (1,), (0, 1)], [-1.0, -1.0, -1.2])


@pytest.mark.parametrize("samples", [1, 100, 319, 1600, 16003])
def test_features_are_those_of_training(samples):
    inputs = processor().extract_features([noise(samples)], RATE)
    mels = log_mel(noise(samples), RATE)
    assert inputs["input_features"].shape == (1, 80, max(2, -(-samples // 160)))
    torch.testing.assert_close(inputs["input_features"][0], mels, atol=1e-4, rtol=1e-4)


def test_whole_hops_are_whisper_features():
    waveform = noise(4800)
    extractor = WhisperFeatureExtractor(feature_size=80)
    reference = extractor(waveform, sampling_rate=RATE, padding="longest", truncation=False, return_tensors="pt")
    assert_equal_up_to_rounding(log_mel(waveform, RATE), reference["input_features"][0])


def test_batch_equals_single():
    waves = [noise(5000, 1), noise(1234, 2)]
    both = processor().extract_features(waves, RATE)
    for row, wave in enumerate(waves):
        alone = processor().extract_features([wave], RATE)["input_features"][0]
        assert int(both["input_features_mask"][row].sum()) == alone.shape[1]
        assert torch.equal(both["input_features"][row, :, : alone.shape[1]], alone)


def test_conversation_with_two_audios_and_text():
    made = processor()
    audio = {"type": "audio", "audio": noise(800)}
    inputs = made.prepare(
        [
            [
                {"role": "system", "content": "Paris."},
                {"role": "user", "content": [audio, {"type": "text", "text": "is"}]},
            ],
            [{"role": "user", "content": [audio]}],
        ],
        RATE,
    )
    audio_id = made.tokenizer.convert_tokens_to_ids("<|audio|>")
    assert (inputs["input_ids"] == audio_id).sum(dim=1).tolist() == [1, 1]
    assert inputs["input_features"].shape[0] == 2
    text = made.tokenizer.decode(inputs["input_ids"][1][inputs["attention_mask"][1].bool()])
    assert text == "<|bos|><|user|><|audio|><|end|><|assistant|>"
    assert inputs["attention_mask"][1, 0] == 0, "generation pads on the left"


def test_the_chat_template_makes_the_same_inputs_as_prepare():
    made = processor()
    audio = {"type": "audio", "audio": noise(800)}
    turns = [{"role": "user", "content": [audio, {"type": "text", "text": "is"}]}]
    for conversation, batch in ((turns, [turns]), ([turns, turns], [turns, turns])):
        found = made.apply_chat_template(conversation, add_generation_prompt=True, tokenize=True, return_dict=True)
        wanted = made.prepare(batch, RATE)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_return_tensors_are_those_asked_for():
    made = processor()
    wanted = made("<|audio|>", noise(800), RATE)
    for kind, of in (("pt", torch.Tensor), ("np", np.ndarray)):
        found = made(text="<|audio|>", audio=[noise(800)], sampling_rate=RATE, return_tensors=kind, padding=True)
        assert all(isinstance(value, of) for value in found.values())
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    for setting in ({"images": [1]}, {"padding": False}, {"max_length": 3}):
        with pytest.raises(ValueError, match=f"{next(iter(setting))}: expected"):
            made("Paris.", **setting)


@pytest.mark.parametrize("subfolder", ["", "inner"])
@pytest.mark.parametrize("with_language", [False, True])
def test_a_subfolder_has_all_parts(tmp_path, subfolder, with_language):
    processor(language() if with_language else None).save_pretrained(tmp_path / subfolder)
    again = EchoXProcessor.from_pretrained(tmp_path, subfolder=subfolder)
    assert (again.unit_language is not None) == with_language


def test_every_part_is_read_with_the_same_options_and_a_lost_network_is_an_error(tmp_path, monkeypatch):
    processor(language()).save_pretrained(tmp_path)
    options = {"revision": "v1", "token": "t", "cache_dir": "c", "local_files_only": True, "force_download": True}
    asked = {}

    def cached(name, file, **others):
        asked[file] = {key: others[key] for key in options if key in others}
        if file == lost:
            raise OSError("no network")
        return str(tmp_path / file) if (tmp_path / file).is_file() else None

    loaded = processor()
    monkeypatch.setattr(ProcessorMixin, "from_pretrained", classmethod(lambda cls, name, **_: loaded))
    for module in (processing_echox, tokenization_auto):
        monkeypatch.setattr(module, "cached_file", cached)
    lost = None
    assert EchoXProcessor.from_pretrained("some/model", **options).unit_language is not None
    assert len(asked) == 2
    assert all(found == options for found in asked.values())
    for name in list(asked):
        lost = name
        with pytest.raises(OSError, match="no network"):
            EchoXProcessor.from_pretrained("some/model", **options)


@pytest.mark.parametrize("tower", [AutoAudioTower, *TOWERS.values()])
def test_configuration_and_weights_of_a_tower_are_of_one_revision(tower, monkeypatch):
    options = {"revision": "v1", "token": "t", "cache_dir": "c", "local_files_only": True, "subfolder": "s"}
    asked = []

    def configuration(name, **found):
        asked.append(found)
        raise OSError("enough")

    monkeypatch.setattr(AutoConfig, "from_pretrained", configuration)
    with pytest.raises(OSError, match="enough"):
        tower.from_checkpoint("some/tower", dtype=torch.float32, **options)
    assert asked == [options]


@pytest.mark.parametrize("with_language", [False, True])
def test_save_and_load(tmp_path, with_language):
    made = processor(language() if with_language else None)
    made.save_pretrained(tmp_path)
    loaded = EchoXProcessor.from_pretrained(tmp_path)
    assert loaded.chat_template == made.chat_template == loaded.tokenizer.chat_template
    assert loaded.tokenizer.get_vocab() == made.tokenizer.get_vocab()
    assert loaded.feature_extractor.feature_size == 80
    if with_language:
        assert loaded.decode_units([2, 0]) == [0, 1, 0]
        assert made.unit_language is not None
    else:
        with pytest.raises(ValueError, match="unit language"):
            loaded.decode_units([0])


@pytest.mark.parametrize(
    ("wave", "rate"), [(noise(10), 8000), (noise(0), RATE), (noise(10).reshape(2, 5), RATE), (noise(9), None)]
)
def test_bad_audio_is_refused(wave, rate):
    with pytest.raises(ValueError, match=r"sampling_rate|samples"):
        processor().extract_features([wave], rate)


def test_feature_store_is_computed_once(tmp_path):
    files = []
    for index, samples in enumerate((1600, 3200)):
        files.append(tmp_path / f"{index}.wav")
        save_audio(files[-1], noise(samples, index), RATE)
    cache = tmp_path / "cache" / "mels.npy"
    first = feature_store(files, cache)
    written = cache.stat().st_mtime_ns
    again = feature_store(files, cache)
    assert isinstance(again, FeatureStore)
    assert cache.stat().st_mtime_ns == written
    assert [again.frames(i) for i in range(2)] == [10, 20]
    np.testing.assert_array_equal(first[1], again[1])
    expected = log_mel(noise(3200, 1), RATE).T.numpy()
    assert np.abs(again[1] - expected).max() < 0.05  # 16-bit samples, half precision
    save_audio(files[0], noise(4800), RATE)
    assert feature_store(files, cache).frames(0) == 30, "a changed file is noticed"


def test_an_interrupted_feature_store_continues(tmp_path, monkeypatch):
    files = []
    for number in range(150):
        files.append(tmp_path / f"{number}.wav")
        save_audio(files[-1], noise(1600 + 160 * (number % 7), number), RATE)
    whole = feature_store(files, tmp_path / "whole" / "log_mel.npy")
    done = []

    def stop(count, total):
        done.append(count)
        if count == 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        feature_store(files, tmp_path / "parts" / "log_mel.npy", progress=stop)
    with (tmp_path / "parts" / "log_mel.partial.log").open("a") as log:
        log.write("1")  # a line cut by a kill
    with (tmp_path / "parts" / "log_mel.partial").open("ab") as data:
        data.write(b"half a file's features")
    store = feature_store(files, tmp_path / "parts" / "log_mel.npy", progress=lambda count, _: done.append(count))
    assert done[100:] == list(range(65, 151)), "64 of the 100 were noted, the rest is made again"
    assert np.array_equal(store.offsets, whole.offsets)
    assert np.array_equal(store.data, whole.data)
    assert sorted(path.suffix for path in (tmp_path / "parts").iterdir()) == [".json", ".lock", ".npy", ".npy"]


def test_processes_that_ask_at_once_make_one_store(tmp_path):
    files = [tmp_path / f"{number}.wav" for number in range(6)]
    for path in files:
        save_audio(path, noise(1600), RATE)
    made = []
    with ThreadPoolExecutor(4) as pool:  # a lock of a file is one of its opening: threads stand for processes
        cache, note = tmp_path / "c" / "log_mel.npy", lambda *count: made.append(count)
        stores = list(pool.map(lambda _: feature_store(files, cache, progress=note), range(4)))
    assert len(made) == len(files)
    assert all(np.array_equal(store.data, stores[0].data) for store in stores)


def test_pad_features():
    features, mask = pad_features([torch.ones(3, 4), torch.ones(1, 4)])
    assert features.shape == (2, 4, 3)
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert features[1].sum() == 4
