"""Errors give one clear line (expected, found, remedy) and a non-zero exit code, no traceback."""

import errno
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from echox import audio as audio_module
from echox.api import EchoX
from echox.audio import save_audio
from echox.cli.main import app
from tiny_echox import tiny_echox, tone


@pytest.fixture(scope="module")
def model() -> EchoX:
    return tiny_echox()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


def refuse(folder: Path, *arguments: object, expected: str, exit_code: int = 1) -> str:
    """Run ``echox reply``; it must fail with one line that holds `expected`."""
    result = CliRunner().invoke(app, ["reply", "--model", str(folder), *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert expected in lines[0]
    assert "Traceback" not in result.output
    return lines[0]


def wav(path: Path, waveform: np.ndarray) -> Path:
    save_audio(path, waveform, 16000)
    return path


def test_audio_that_is_none(folder, tmp_path):
    output = ["-o", tmp_path / "a.wav"]
    (tmp_path / "text.wav").write_text("this is not audio, whatever it is called" * 40)
    (tmp_path / "empty.wav").write_bytes(b"")
    refuse(folder, tmp_path / "text.wav", *output, expected="expected audio")
    refuse(folder, tmp_path / "empty.wav", *output, expected="empty file")
    refuse(folder, tmp_path / "nothing.wav", *output, expected="found nothing")
    refuse(folder, tmp_path, *output, expected="found a folder")
    refuse(folder, wav(tmp_path / "zero.wav", np.zeros(0, np.float32)), *output, expected="0 samples")
    refuse(folder, wav(tmp_path / "silent.wav", np.zeros(32000, np.float32)), *output, expected="no speech")
    assert not list(tmp_path.glob("a*")), "no half-written reply"


def test_audio_that_is_too_long_is_refused_and_not_cut(folder, tmp_path):
    line = refuse(folder, wav(tmp_path / "long.wav", tone(21.0)), "-o", tmp_path / "a.wav", expected="at most 20 s")
    assert "cut it or raise" in line


def test_samples_that_are_none(model):
    for samples, expected in [
        (np.zeros(0, np.float32), "found none"),
        (np.zeros((9, 100), np.float32), "at most 8 channels"),
        (np.zeros((1, 2, 100), np.float32), "at most 8 channels"),
        (np.zeros(100, np.complex64), "float or integer samples"),
        (np.zeros(16000, np.int16), "no speech"),
        (np.full(100, np.nan, np.float32), "finite"),
        (np.zeros(16000, np.float32), "no speech"),
        (tone(21.0), "at most 20 s"),
    ]:
        with pytest.raises(ValueError, match=expected):
            model.generate(samples)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([], "empty list"),
        ([{"role": "robot", "content": "Hi"}], "role"),
        ([{"content": "Hi"}], "'role' and 'content'"),
        ([{"role": "user", "content": "  "}], "empty message"),
        ([{"role": "user", "content": 3}], "string or a list"),
        ([{"role": "user", "content": [{"type": "video"}]}], "'type': 'text'"),
        ([{"role": "assistant", "content": "Hi"}], "last message"),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}, {"role": "user", "content": "c"}],
            "once",
        ),
        ([{"role": "system", "content": [{"type": "audio", "audio": tone(0.5)}]}], "user messages only"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_messages_that_are_none(model, messages, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        model.generate(messages)


def test_speech_that_cannot_be_heard(model, monkeypatch):
    hear = model.model.s2t.encode_and_transcribe
    monkeypatch.setattr(model.model.s2t, "encode_and_transcribe", lambda **inputs: (hear(**inputs)[0], [[]]))
    with pytest.raises(ValueError, match="only blanks for 1.0 s of audio that hold a voice.*undertrained"):
        model.generate(tone(1.0))


def test_settings_that_do_not_exist(model, folder, tmp_path):
    with pytest.raises(ValueError, match="unknown generation setting 'temprature'"):
        model.generate(tone(1.0), temprature=1.0)
    refuse(folder, "-t", "Hi", "--temperature", -1, "-o", tmp_path / "a.wav", expected="temperature")
    refuse(folder, "-o", tmp_path / "a.wav", expected="expected a question")
    refuse(folder, "-t", "Hi", "--device", "abacus", "-o", tmp_path / "a.wav", expected="abacus")


def damaged(folder: Path, target: Path, **changes: bytes | None) -> Path:
    """A copy of a model folder with files replaced or (None) left out."""
    target.mkdir()
    for path in folder.iterdir():
        content = changes.get(path.name.replace(".", "_"), path.read_bytes())
        if content is not None:
            (target / path.name).write_bytes(content)
    return target


def test_a_model_with_a_missing_or_damaged_part(folder, tmp_path):
    ask = ["-t", "Hi", "-o", tmp_path / "a.wav"]
    refuse(tmp_path / "nowhere", *ask, expected="found no such folder")
    (tmp_path / "bare").mkdir()
    refuse(tmp_path / "bare", *ask, expected="no config.json")
    for name in ("model_safetensors", "tokenizer_json", "unit_language_json"):
        part = "unit_language.json" if name.startswith("unit") else str(tmp_path / name)
        refuse(damaged(folder, tmp_path / name, **{name: None}), *ask, expected=part)
    weights = (folder / "model.safetensors").read_bytes()
    refuse(damaged(folder, tmp_path / "cut", model_safetensors=weights[: len(weights) // 2]), *ask, expected="cut")
    refuse(damaged(folder, tmp_path / "words", config_json=b"{"), *ask, expected="config.json")
    less = damaged(folder, tmp_path / "less")
    tensors = load_file(less / "model.safetensors")
    tensors.pop("denoising_adapter.up_proj.weight")
    save_file(tensors, less / "model.safetensors", metadata={"format": "pt"})
    refuse(less, *ask, expected="denoising_adapter.up_proj.weight")


def test_parts_that_do_not_belong_together(folder, tmp_path):
    language = json.loads((folder / "unit_language.json").read_text())
    language["words"], language["log_probs"] = language["words"][:-1], language["log_probs"][:-1]
    other = damaged(folder, tmp_path / "other", unit_language_json=json.dumps(language).encode())
    refuse(other, "-t", "Hi", "-o", tmp_path / "a.wav", expected="unit language: expected 14")


def test_weights_that_are_not_finite(folder, tmp_path):
    broken = damaged(folder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["s2t.language_model.lm_head.weight"][:] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    refuse(broken, "-t", "Hi", "-o", tmp_path / "a.wav", expected="not finite")
    assert not list(tmp_path.glob("*.wav"))


def test_output_that_cannot_be_written(folder, tmp_path, monkeypatch):
    refuse(folder, "-t", "Hi", "-o", tmp_path / "no" / "a.wav", expected="cannot write")
    refuse(folder, "-t", "Hi", "-o", tmp_path / "a.mp3", expected=".wav")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(audio_module, "_wav_header", full)
    line = refuse(folder, "-t", "Hi", "-o", tmp_path / "a.wav", expected="No space left")
    assert "free some space" in line
    assert not list(tmp_path.glob("a*.wav"))


def test_ctrl_c_ends_with_130_and_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("echox.streaming.batch.ReplyBatch._vocode", interrupted)
    refuse(folder, "-t", "Hi", "-o", tmp_path / "a.wav", expected="interrupted", exit_code=130)
    assert not list(tmp_path.glob("*.wav"))


def test_recipes_that_are_wrong(tmp_path):
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, ["run", *map(str, arguments)])
        assert result.exit_code == 1
        assert "Traceback" not in result.output
        return result.stderr.strip()

    assert "cannot read the recipe" in run(tmp_path / "nothing.yaml")
    (tmp_path / "odd.yaml").write_text("stage: poetry\n")
    assert "unknown stage 'poetry'" in run(tmp_path / "odd.yaml")
    (tmp_path / "lm.yaml").write_text("stage: lm\ntraning: {}\n")
    assert "did you mean 'training'" in run(tmp_path / "lm.yaml")


def test_debug_shows_the_traceback(folder, tmp_path):
    result = CliRunner().invoke(app, ["reply", str(tmp_path / "nothing.wav"), "--model", str(folder), "--debug"])
    assert isinstance(result.exception, ValueError)


def test_usage_errors_end_with_2():
    assert CliRunner().invoke(app, ["reply", "--no-such-option"]).exit_code == 2
    assert CliRunner().invoke(app, ["sing"]).exit_code == 2
