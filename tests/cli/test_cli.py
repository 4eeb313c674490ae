"""The command line: replies, conversations, JSON, help; quick to start; the demo is the same program."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from echox.audio import load_audio, save_audio
from echox.cli.main import app
from paths import ROOT
from tiny_echox import tiny_echox, tone


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_echox().save_pretrained(folder)
    return folder


@pytest.fixture
def question(tmp_path) -> Path:
    save_audio(tmp_path / "question.wav", tone(1.0), 16000)
    return tmp_path / "question.wav"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_reply_writes_text_and_speech(folder, question, tmp_path):
    output = tmp_path / "answer.wav"
    result = run("reply", question, "-o", output, "--model", folder, "--threads", 1)
    assert result.exit_code == 0, result.output
    assert re.search(r"heard +\S", result.stdout)
    assert re.search(r"reply +\S", result.stdout)
    assert re.search(r"ttfa \d+\.\d\d s +rtf \d+\.\d\d", result.stdout)
    assert result.stdout.rstrip().endswith(str(output))
    assert len(load_audio(output)) > 1600
    assert not list(tmp_path.glob("*.part.wav"))


def test_reply_as_json(folder, question, tmp_path):
    output = tmp_path / "answer.wav"
    result = run("reply", question, "-o", output, "--model", folder, "--json", "--seed", 3)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["text"]
    assert report["heard"]
    assert report["duration_s"] == pytest.approx(len(load_audio(output)) / 16000)
    assert report["rtf"] > 0


def test_typed_questions_need_no_audio(folder, tmp_path):
    result = run("reply", "--text", "What is the sea?", "-o", tmp_path / "answer.wav", "--model", folder, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["heard"] == ""


def test_talk_answers_every_file(folder, question, tmp_path):
    result = run("talk", question, question, "-o", tmp_path / "out", "--model", folder)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["reply-1.wav", "reply-2.wav"]
    assert result.stdout.count("reply ") == 2


def test_demo_is_the_same_program(folder, question, tmp_path, monkeypatch, capsys):
    output = tmp_path / "a.wav"
    monkeypatch.setattr(sys, "argv", ["demo.py", str(question), "-o", str(output), "--model", str(folder)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "demo.py"), run_name="__main__")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("question ")
    assert "ttfa" in shown
    assert output.is_file()


def test_every_command_has_help_and_starts_without_torch():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("reply", "talk", "run", "status", "eval", "data", "serve", "doctor", "demo"):
        assert command in result.stdout
        assert run(command, "--help").exit_code == 0
    check = "import sys, echox.cli.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_doctor(folder):
    result = run("doctor", "--model", folder)
    assert result.exit_code == 0, result.output
    assert "torch" in result.stdout
    assert re.search(r"8-bit weights multiplied as (integers|floats) \(this CPU", result.stdout)
    assert re.search(r"torch build +(CPU|CUDA|ROCm).*, [\d,]+ MB on disk", result.stdout)
    assert str(folder) in result.stdout
