"""All forms of a question that docs/python.md names, through the public API: all get the same answer."""

import io

import numpy as np
import pytest
import torch

from echox import EchoX
from echox.api.loading import bundled_questions
from echox.audio import encode_audio, load_audio
from echox.errors import NoSpeech
from echox.streaming.prompt.samples import mono_samples


@pytest.fixture(scope="module")
def nano() -> EchoX:
    return EchoX.from_pretrained("nano", device="cpu")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    (path,) = [path for path in bundled_questions() if "capital" in path.name]
    return load_audio(path, 16000)


@pytest.fixture(scope="module")
def wav(samples) -> bytes:
    return encode_audio(samples, 16000)


def said(model: EchoX, question: object, **options: object) -> str:
    return model.generate(question, speak=False, **options).text


BRAZIL = "The capital of Brazil is Brasilia."


def forms(samples: np.ndarray, wav: bytes) -> dict[str, object]:
    pcm16 = np.rint(samples * 32767)
    stereo = np.stack([samples, samples])
    return {
        "samples": samples,
        "float64": samples.astype(np.float64),
        "float16": samples.astype(np.float16),
        "int16": pcm16.astype(np.int16),
        "int16 values as floats": pcm16.astype(np.float32),
        "int16 values as int64": pcm16.astype(np.int64),
        "int32": (samples * 2**31 * 0.99).astype(np.int32),
        "(1, n)": samples[None],
        "(n, 1)": samples[:, None],
        "(2, n)": stereo,
        "(n, 2)": stereo.T,
        "one channel of two": np.stack([samples, np.zeros_like(samples)]),
        "opposite phase": np.stack([samples, -samples]),
        "tensor": torch.from_numpy(samples),
        "tensor (1, n)": torch.from_numpy(samples)[None],
        "tensor that requires grad": torch.from_numpy(samples).clone().requires_grad_(),
        "bfloat16": torch.from_numpy(samples).to(torch.bfloat16),
        "half": torch.from_numpy(samples).half(),
        "int16 tensor": torch.from_numpy(pcm16.astype(np.int16)),
        "bytes": wav,
        "bytearray": bytearray(wav),
        "BytesIO": io.BytesIO(wav),
        "datasets": {"path": None, "array": samples, "sampling_rate": 16000},
        "datasets, a list": {"array": samples.tolist(), "sampling_rate": 16000},
        "datasets, not decoded": {"path": "q.wav", "bytes": wav},
        "message": {"role": "user", "content": [{"type": "audio", "audio": samples, "sampling_rate": 16000}]},
        "datasets in a message": {
            "role": "user",
            "content": [{"type": "audio", "audio": {"array": samples, "sampling_rate": 16000}}],
        },
    }


@pytest.mark.parametrize("name", list(forms(np.zeros(4, np.float32), b"")))
def test_every_documented_form_is_answered(nano, samples, wav, name):
    assert said(nano, forms(samples, wav)[name]) == BRAZIL


def test_an_open_file_is_read_from_where_it_stands_and_stays_open(nano, wav, tmp_path):
    (tmp_path / "q.wav").write_bytes(b"header" + wav)
    with (tmp_path / "q.wav").open("rb") as file:
        file.seek(6)
        assert said(nano, file) == BRAZIL
        assert not file.closed
        assert file.tell() == 6 + len(wav)  # the end; reading it again takes a seek
        file.seek(0)
        assert file.read(6) == b"header"
    buffer = io.BytesIO(wav)
    assert said(nano, buffer) == BRAZIL
    assert not buffer.closed
    assert buffer.tell() == len(wav)


def test_other_rates_are_resampled(nano, samples):
    import soxr

    slow = soxr.resample(samples, 16000, 8000)
    assert said(nano, slow, sampling_rate=8000) == BRAZIL
    assert said(nano, {"array": slow, "sampling_rate": 8000}) == BRAZIL
    with pytest.raises(ValueError, match="found 8000 and 16000 Hz"):
        nano.generate({"array": slow, "sampling_rate": 8000}, sampling_rate=16000)
    with pytest.raises(ValueError, match="'sampling_rate' beside 'array'"):
        nano.generate({"array": slow})
    with pytest.raises(ValueError, match="'bytes' or 'path'"):
        nano.generate({"bytes": None, "path": None})


def test_what_is_said_after_three_seconds_of_silence_is_the_same(nano, samples):
    silence = np.zeros(3 * 16000, np.float32)
    hiss = (0.001 * np.random.default_rng(0).standard_normal(3 * 16000)).astype(np.float32)
    for around in (silence, hiss):
        for gain in (1.0, 0.02):
            assert said(nano, np.concatenate([around, gain * samples, around])) == BRAZIL


def test_sound_without_speech_is_not_answered(nano):
    for sound in (np.zeros(32000, np.float32), 0.05 * np.random.default_rng(0).standard_normal(32000)):
        with pytest.raises(NoSpeech, match="no speech found in 2.0 s"):
            nano.generate(sound.astype(np.float32))


def test_scales_of_samples():
    assert mono_samples(np.array([-32768, 0, 16384], np.int16)).tolist() == [-1.0, 0.0, 0.5]
    assert mono_samples(np.array([0, 128, 192], np.uint8)).tolist() == [-1.0, 0.0, 0.5]
    assert mono_samples(np.array([0.5, -2.0])).tolist() == [0.25, -1.0]
    assert mono_samples(np.array([[0.5, -0.25]])).tolist() == [0.5, -0.25]
    assert mono_samples(torch.tensor([0.5, -0.25], dtype=torch.bfloat16)).tolist() == [0.5, -0.25]
