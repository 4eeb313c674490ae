"""docs/own-data.md: every command, in its order, on a tiny set of real recordings, to a model that is served."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import time
import urllib.request
from pathlib import Path

import pytest

import forked
from echox.audio import load_audio
from echox.data.corpora.table import Table
from echox.data.manifest import Utterance, audio_path, read_dialogues, read_utterances, write_utterances
from echox.evaluation.sets.heldout import embedded_heldout
from echox.preparation.prepare import PrepareDataRecipe, prepare
from echox.preparation.settings import Filter, Input, Voices
from markdown_commands import ROOT, command_lines, fenced_blocks

DOCUMENT = ROOT / "docs" / "own-data.md"
FEW = [
    "training.steps=2",
    "training.warmup_steps=1",
    "training.save_every_steps=0",
    "training.evaluate_every_steps=0",
    "training.sample_every_steps=0",
]
SMALL = {
    "lm": [
        *FEW,
        "tokenizer.vocab_size=300",
        "model.hidden_size=32",
        "model.intermediate_size=32",
        "training.batch_size=4",
    ],
    "encoder": [
        *FEW,
        "data.vocab_size=300",
        "model.d_model=32",
        "model.encoder_ffn_dim=32",
        "model.hidden_size=32",
        "training.batch_size=1200",
        "model.encoder_layers=4",
    ],
    "units": [
        *FEW,
        "clusters.num_units=16",
        "model.d_model=32",
        "model.encoder_ffn_dim=32",
        "training.batch_size=1200",
    ],
    "unit_language": ["model.vocabulary_size=24", "model.min_count=1"],
    "vocoder": [*FEW, "training.batch_size=200", "data.evaluate_items=2", "data.sample_items=1"],
    "s2t": [*FEW, "training.batch_size=4", "data.evaluation_items=2"],
    "t2c": [
        *FEW,
        "training.batch_size=4",
        "model.hidden_size=32",
        "model.intermediate_size=32",
        "model.options={max_unit_words_per_word: 6}",
    ],
    "echo": [*FEW, "training.batch_size=4", "data.evaluation_items=2", "data.samples=1", "targets.allow_silence=true"],
}
"""What makes a stage small. Nothing else of the document's commands is changed."""


def tables(folder: Path, dialogues: int = 14, recordings: int = 20) -> None:
    """The two tables of the document, from recordings that come with the package."""
    speech = next(embedded_heldout().rglob("replies.jsonl")).parent
    asked = [item for item in read_dialogues(speech / "dialogues.jsonl") if len(item.turns) == 2]
    rows = []
    for name in ("dialogues", "voice"):
        (folder / "my" / name / "wav").mkdir(parents=True)
    for number, item in enumerate(asked[:: len(asked) // dialogues][:dialogues]):
        user, reply = item.turns
        audio = f"wav/{number}.opus"
        shutil.copy(audio_path(speech / "dialogues.jsonl", str(user.audio)), folder / "my" / "dialogues" / audio)
        rows.append({"question": user.text, "question_audio": audio, "answer": reply.text, "speaker": user.speaker})
    write_rows(folder / "my" / "dialogues" / "rows.jsonl", rows)
    rows = []
    for number, said in enumerate(read_utterances(speech / "replies.jsonl")[:recordings]):
        shutil.copy(audio_path(speech / "replies.jsonl", said.audio), folder / "my" / "voice" / f"wav/{number}.opus")
        rows.append({"text": said.text, "audio": f"wav/{number}.opus", "speaker": "reader"})
    write_rows(folder / "my" / "voice" / "rows.jsonl", rows)


def write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def small(words: list[str]) -> list[str]:
    """The command with its recipe made small."""
    recipe = next((Path(word).stem for word in words if word.startswith("recipes/own/")), "")
    return [*words, *SMALL.get(recipe, [])]


def run(words: list[str], folder: Path) -> str:
    done = forked.run(words, folder)
    printed = done.stdout.decode()
    assert done.returncode == 0, f"{shlex.join(words)}\n{printed[-1500:]}\n{done.stderr.decode()[-3000:]}"
    return printed


def lines_of_document() -> list[list[str]]:
    return [
        shlex.split(line, comments=True) for block in fenced_blocks(DOCUMENT, "bash") for line in command_lines(block)
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_command_of_the_document_on_a_tiny_set(tmp_path):
    tables(tmp_path)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    shutil.copy(next((tmp_path / "my" / "dialogues" / "wav").iterdir()), tmp_path / "question.wav")
    commands = lines_of_document()
    assert len(commands) > 12
    for words in commands:
        assert words[0] == "echox"
        if words[1] != "serve":
            run(small(words), tmp_path)
    data = tmp_path / "out" / "own" / "data"
    assert {item.speaker for item in read_utterances(data / "reply_voice.jsonl")} == {"reader"}
    assert "reader" not in {item.speaker for item in read_utterances(data / "users.jsonl")}
    assert len(load_audio(tmp_path / "answer.wav", 16000)) > 0
    served(next(words for words in commands if words[1] == "serve"), tmp_path)


def served(words: list[str], folder: Path) -> None:
    """The document's server answers a request."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = forked.start([*words, "--port", port], folder, folder / "server.log")
    try:
        deadline_s = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5) as answer:
                    assert json.load(answer)["data"]
                return
            except OSError:
                assert server.is_alive(), (folder / "server.log").read_text()
                assert time.monotonic() < deadline_s, (folder / "server.log").read_text()
                time.sleep(0.5)
    finally:
        server.terminate()
        server.join(timeout=60)


@pytest.mark.slow
def test_the_documents_tables_are_imported_and_told_apart(tmp_path):
    """The first two steps, which need no training: what they write is what the recipes of the others read."""
    tables(tmp_path, dialogues=11, recordings=11)
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    for words in lines_of_document()[:4]:
        run(words, tmp_path)
    data = tmp_path / "out" / "own" / "data"
    voice, users = (read_utterances(data / f"{name}.jsonl") for name in ("reply_voice", "users"))
    assert (len(voice), len(users)) == (11, 11)
    assert {item.split for item in voice} == {item.split for item in users} == {"train", "heldout"}
    found = read_dialogues(data / "dialogues.jsonl")
    assert all(item.heard_turns == (0,) and item.turns[1].audio is None for item in found), "no reply was synthesised"
    assert all(audio_path(data / "users.jsonl", item.audio).is_file() for item in [*voice, *users])
    letters = json.loads((data / "phones.json").read_text(encoding="utf-8"))
    assert set(letters["phones"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789")


def test_recorded_replies_join_the_voice_and_two_speakers_are_told(tmp_path, capsys):
    speech = next(embedded_heldout().rglob("replies.jsonl")).parent
    asked = next(item for item in read_dialogues(speech / "dialogues.jsonl") if len(item.turns) == 2)
    replies = read_utterances(speech / "replies.jsonl")
    user, _ = asked.turns
    question = str(audio_path(speech / "dialogues.jsonl", str(user.audio)))
    rows = []
    for number, said in enumerate(replies[:2]):
        answer = str(audio_path(speech / "replies.jsonl", said.audio))
        turns = [
            {"role": "user", "content": user.text, "audio": question},
            {"role": "assistant", "content": said.text, "audio": answer},
        ]
        rows.append({"conversations": turns, "speaker": f"user{number}"})
    (tmp_path / "my").mkdir()
    write_rows(tmp_path / "my" / "rows.jsonl", rows)
    Table().prepare(tmp_path / "my", tmp_path / "imported")
    shutil.copy(audio_path(speech / "replies.jsonl", replies[3].audio), tmp_path / "other.opus")
    other = Utterance("o", "other.opus", replies[3].text, "somebody", replies[3].duration_s)
    write_utterances(tmp_path / "voice.jsonl", [other])
    settings = PrepareDataRecipe(
        "prepare_data",
        [
            Input(dialogues=str(tmp_path / "imported" / "dialogues.jsonl")),
            Input(utterances=str(tmp_path / "voice.jsonl"), role="assistant"),
        ],
        str(tmp_path / "out"),
        voices=Voices(user=[], assistant=None),
        filter=Filter(max_wer=None),
    )
    prepare(settings)
    voice = read_utterances(tmp_path / "out" / "reply_voice.jsonl")
    assert sorted(item.text for item in voice) == sorted(said.text for said in [*replies[:2], replies[3]])
    assert len(read_utterances(tmp_path / "out" / "users.jsonl")) == 2
    assert "expected one speaker as reply voice, found 2" in capsys.readouterr().err
