"""A reply is never written over a recording that is asked, whatever the command and the spelling of the path."""

import os

import pytest
from typer.testing import CliRunner

from echox.audio import load_audio, save_audio
from echox.cli.main import app
from tiny_echox import tiny_echox, tone

NAMES = ("reply.wav", "reply-1.wav", "reply-2.wav")
ASKED = "the recording"
COMMANDS = {  # arguments, and the name of the recording that the reply would replace
    "reply": (("reply", ASKED), "reply.wav"),
    "reply to a file": (("reply", ASKED, "-o", "reply-2.wav"), "reply-2.wav"),
    "reply beside text": (("reply", ASKED, "--text", "And this?"), "reply.wav"),
    "talk, the same turn": (("talk", ASKED, "question.wav"), "reply-1.wav"),
    "talk, a later turn": (("talk", "question.wav", ASKED), "reply-1.wav"),
    "talk, an earlier turn": (("talk", ASKED, "question.wav"), "reply-2.wav"),
    "talk into a folder": (("talk", "question.wav", ASKED, "-o", "folder/.."), "reply-1.wav"),
    "demo": (("demo", ASKED), "reply.wav"),
    "demo to a file": (("demo", ASKED, "-o", "reply-1.wav"), "reply-1.wav"),
}


@pytest.fixture
def recordings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for number, name in enumerate((*NAMES, "question.wav"), start=1):
        save_audio(tmp_path / name, tone(0.2 * number), 16000)
    return tmp_path


def plain(path):
    return path.name


def by_symbolic_link(path):
    (path.parent / "link.wav").symlink_to(path)
    return "link.wav"


def by_hard_link(path):
    os.link(path, path.parent / "link.wav")
    return "link.wav"


def by_way_of_a_folder(path):
    return f"folder/../{path.name}"


SPELLINGS = [plain, str, by_symbolic_link, by_hard_link, by_way_of_a_folder]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_reply_is_not_written_over_a_question(command, spelling, recordings, monkeypatch):
    monkeypatch.setattr("echox.cli.main.load_model", lambda *_: pytest.fail("the model was loaded first"))
    words, name = COMMANDS[command]
    refused([spelling(recordings / name) if word == ASKED else word for word in words], recordings)


@pytest.mark.parametrize(
    "arguments", [("reply", "reply.part.wav"), ("talk", "reply-1.part.wav"), ("demo", "missing.wav")]
)
def test_files_while_they_grow_and_those_that_are_not_there_yet(arguments, recordings):
    if arguments[0] == "demo":
        arguments = (*arguments, "-o", "folder/../missing.wav")
    else:
        save_audio(recordings / arguments[1], tone(0.5), 16000)
    refused(arguments, recordings)


def refused(arguments, folder):
    before = {path: path.read_bytes() for path in folder.glob("*.wav")}
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 1, result.output
    assert "expected a file for the reply that is none of the questions" in result.stderr
    assert {path: path.read_bytes() for path in folder.glob("*.wav")} == before


def test_an_older_reply_that_is_not_asked_is_replaced(recordings):
    tiny_echox().save_pretrained(recordings / "model")
    result = CliRunner().invoke(app, ["reply", "question.wav", "--model", str(recordings / "model")])
    assert result.exit_code == 0, result.output
    assert len(load_audio(recordings / "reply.wav")) != 3200
