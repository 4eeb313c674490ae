"""What people type first: which model answers and why, on which device, named how; from folders named in any way."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from echox.api.loading import EMBEDDED_MODELS, embedded_folder, find_model
from echox.api.parts import read_parts
from echox.audio import save_audio
from echox.audio_decoding.pool import DecoderPool
from echox.cli.common.options import default_model
from echox.cli.main import app
from echox.files import folder_name
from paths import ROOT
from tiny_echox import tiny_echox, tone

PARTS = read_parts(embedded_folder("mini"))


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def installed(monkeypatch, request, tmp_path):
    """Only these packages of parts are installed."""
    monkeypatch.setattr(
        "echox.api.parts.installed_folder", lambda package: tmp_path if package in request.param else None
    )
    return request.param


@pytest.mark.parametrize("installed", [(), *[(part.package,) for part in PARTS]], indirect=True, ids=str)
def test_what_mini_lacks_is_said_where_nano_answers(installed, capsys):
    assert default_model() == "nano"
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("nano answers: mini")
    for part in PARTS:
        assert (part.requirement in said) == (part.package not in installed)


@pytest.mark.parametrize("installed", [tuple(part.package for part in PARTS)], indirect=True, ids=["all"])
def test_nothing_is_said_where_mini_answers(installed, capsys):
    assert default_model() == "mini"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("installed", [()], indirect=True, ids=["none"])
def test_doctor_describes_the_model_that_answers_and_lists_the_parts(installed, tmp_path, monkeypatch):
    monkeypatch.delenv("ECHOX_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)  # no configurations of larger models to describe as well
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert f"model         nano: {find_model('nano')}" in result.stdout
    for part in PARTS:
        assert f"\n{part.requirement.partition('==')[0]} " in result.stdout
    assert "\ndevice        " in result.stdout


def test_demo_takes_a_device_and_a_home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    tiny_echox().save_pretrained(home / "model")
    save_audio(home / "question.wav", tone(1.0), 16000)
    monkeypatch.setenv("HOME", str(home))
    told = ("demo", "~/question.wav", "--model", "~/model", "-o", tmp_path / "reply.wav")
    result = run(*told, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "reply.wav").is_file()
    result = run(*told, "--device", "cuda:9")
    assert result.exit_code == 1
    assert "expected a CUDA device for 'cuda:9'" in result.output


def test_make_hands_on_what_it_is_told(tmp_path):
    told = ["AUDIO=~/my question.wav", "MODEL=~/m", "DEVICE=cpu"]
    done = subprocess.run(["make", "-n", "demo", *told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'demo.py "~/my question.wav" --model "~/m" --device "cpu"' in done.stdout


NAMES = {".": "here", "": "here", "..": "above", "../here": "here", "./": "here", "owner/name": "name", "nano": "nano"}


@pytest.mark.parametrize(("folder", "name"), NAMES.items())
def test_a_folder_has_a_name_however_it_is_named(folder, name, tmp_path, monkeypatch):
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert folder_name(folder) == name


@pytest.mark.parametrize(("folder", "name"), [(".", "here"), ("..", "above"), ("/here", "here"), ("nano", "nano")])
def test_a_served_model_has_a_name(folder, name, tmp_path, monkeypatch):
    here = tmp_path / "above" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    served = []
    monkeypatch.setattr("echox.serving.launch.run_local", lambda options, host, port: served.append(options.name))
    assert run("serve", "--model", folder).exit_code == 0
    assert served == [name]


@pytest.mark.parametrize(
    "option",
    [["--media-host", "127.0.0.1"], ["--ice-server", "stun:a.example:3478"]],
    ids=lambda option: option[0],
)
def test_options_of_calls_are_refused_where_no_calls_can_be_taken(option, monkeypatch):
    served = []
    monkeypatch.setattr("echox.serving.launch.run_local", lambda *given: served.append(given))
    monkeypatch.setattr("echox.serving.webrtc.endpoints.is_installed", lambda: False)
    result = run("serve", "--model", "nano", *option)
    assert result.exit_code == 1
    assert f"{option[0]}: expected only where calls can be taken (pip install 'echox[webrtc]'" in result.output
    assert run("serve", "--model", "nano").exit_code == 0
    assert len(served) == 1


def test_the_card_of_a_saved_model_has_code_that_loads_it(tmp_path, monkeypatch):
    here = tmp_path / "mine"
    here.mkdir()
    monkeypatch.chdir(here)
    tiny_echox().save_pretrained(".")
    card = (here / "README.md").read_text(encoding="utf-8")
    assert "\n# mine\n" in card
    assert 'EchoX.from_pretrained("path/to/this/folder")' in card


@pytest.mark.parametrize("name", [name for name in EMBEDDED_MODELS if (embedded_folder(name) / "README.md").is_file()])
def test_the_card_of_an_embedded_model_is_the_one_that_packaging_writes(name):
    from echox.api.card import folder_card
    from echox.api.loading import training_record

    folder = embedded_folder(name)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"\n# {name}\n" in card
    assert f'EchoX.from_pretrained("{name}")' in card
    assert folder_card(name, training_record(folder), folder, {}) == card


def test_windows_is_told_where_audio_can_be_read(monkeypatch):
    pool = DecoderPool(1)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ValueError, match="expected Linux or macOS, .* found Windows; run EchoX in WSL2"):
        pool.decode(Path(os.devnull).read_bytes(), 16000, 1.0)
