"""Items from the tables of others: every name of a column, every kind of file, every mistake named."""

import csv
import json

import pytest

from echox.audio import encode_audio
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.items import read_items
from echox.evaluation.sets.nano import SPOKEN_SETS, TYPED
from echox.evaluation.sets.tasks import KINDS, WRITTEN, open_tasks
from tiny_echox import tone


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_columns_of_ultraeval_and_ours_are_one(tmp_path):
    (tmp_path / "0.wav").write_bytes(encode_audio(tone(0.2), 16000))
    theirs, ours = read_items(
        write(
            tmp_path / "a.jsonl",
            {"id": "x", "WavPath": "0.wav", "Questions": "Where?", "Answer": "Paris"},
            {"audio": "0.wav", "question": "Where?", "answers": ["Paris", "Lutetia"], "level": 2},
        )
    )
    assert theirs.audios == ours.audios == [tmp_path / "0.wav"]
    assert (theirs.answers, ours.answers) == (("Paris",), ("Paris", "Lutetia"))
    assert (theirs.id, ours.id) == ("x", "1")
    assert ours.columns["level"] == 2
    assert theirs.digest == ours.digest  # the same question


def test_text_and_instruction(tmp_path):
    (typed,) = read_items(write(tmp_path / "a.jsonl", {"question": "Where?"}), instruction="Translate.")
    (spoken,) = read_items(write(tmp_path / "b.jsonl", {"audio": "0.wav"}), instruction="Translate.")
    assert typed.messages == [{"role": "user", "content": "Where?"}]
    assert spoken.messages[0]["content"][1] == {"type": "text", "text": "Translate."}
    with pytest.raises(ValueError, match=r"0\.wav: expected the spoken question"):
        _ = spoken.digest


def test_csv_and_parquet(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["audio", "prompt", "reference"], ["0.wav", "Where?", "Paris"]])
    assert read_items(tmp_path / "a.csv")[0].answers == ("Paris",)
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    wav = encode_audio(tone(0.2), 16000)
    rows = [{"audio": {"bytes": wav, "path": None}, "question": "Where?", "answer": ["Paris", "Lutetia"]}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "test-0.parquet")
    (item,) = read_items(tmp_path)
    assert item.audios == [wav]
    assert item.answers == ("Paris", "Lutetia")
    assert "audio" not in item.columns


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"answers": ["a"]}], "expected a question"),
        ([{"question": "a", "answers": [7]}], "quote numbers"),
        ([{"question": "a", "answers": 7}], "quote numbers"),
        ([{"id": 1, "question": "a"}, {"id": 1, "question": "b"}], "found '1' twice"),
        ([{"audio": 3}], "expected audio as a path"),
        ([{"audio": "0.wav", "question": "a"}, {"question": "b"}], r"audio in every row or in none.*1 of 2.*'1'"),
        ([{"audio": "0.wav", "question": "a"}, {"audio": "", "question": "b"}], "audio in every row or in none"),
        ([{"wav_path": "a.WAV", "question": "a"}], "in a column of audio, .* found audio in 'wav_path'"),
        ([{"sound": {"bytes": None, "path": "a.mp3"}, "question": "a"}], "found audio in 'sound'"),
        ([{"sound": {"array": [0.0], "sampling_rate": 16000}, "question": "a"}], "found audio in 'sound'"),
        ([{"gold": "a", "asked ": "b"}], "found neither .* but the columns 'gold', 'asked '"),
        ([{"question": "a", "answers": "[Paris, Lyon]"}], "quote its texts"),
        ([{"question": "a", "answers": "['Paris' 'Lyon']"}], "quote its texts"),
        ([{"question": "a", "answers": "[1, 2]"}], "quote numbers"),
        ([["a"]], "expected a JSON object"),
        ([], "at least one item"),
    ],
)
def test_mistakes_are_named(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read_items(write(tmp_path / "a.jsonl", *rows))


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ('["Paris", "Lyon"]', ("Paris", "Lyon")),
        ("['Paris', \"St. John's\"]", ("Paris", "St. John's")),
        (' ["Paris"] ', ("Paris",)),
        ("Paris", ("Paris",)),
        ("Paris, Lyon", ("Paris, Lyon",)),
        ("[sic] Paris", ("[sic] Paris",)),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_cell_can_be_a_list(tmp_path, name, cell, answers):
    if name == "a.jsonl":
        write(tmp_path / name, {"question": "Where?", "answers": cell})
    else:
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, csv.excel if name == "a.csv" else csv.excel_tab).writerows(
                [["question", "answers"], ["Where?", cell]]
            )
    assert read_items(tmp_path / name)[0].answers == answers


NEED_NO_ANSWER = {"nano-questions", "uro-bench", "consistency", "voicebench"}
"""Tasks whose figures compare with nothing in the table, or that have their own questions."""
BY_NAME = sorted(set(KINDS) - set(WRITTEN) - set(SPOKEN_SETS) - NEED_NO_ANSWER)


@pytest.mark.parametrize("gold", ["", "gold"])
@pytest.mark.parametrize("name", BY_NAME)
def test_no_task_is_scored_against_nothing(tmp_path, name, gold):
    """Whatever a task compares with: a table in which it is empty, or called otherwise, is refused before asking."""
    row = {"id": "x", "audio": "0.wav", "category": "navigate", "number": 3, gold or KINDS[name].answer_columns[0]: ""}
    if gold:
        row[gold] = "Yes"
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(ValueError, match=r"a\.jsonl: 'x': expected .* found"):
        open_tasks(name, path)
    right = {**row, KINDS[name].answer_columns[0]: "Yes"}
    (task,) = open_tasks(name, write(tmp_path / "a.jsonl", right))
    assert task.items[0].answers == ("Yes",)
    with pytest.raises(ValueError, match=r"a\.jsonl: 'y': expected"):
        open_tasks(name, write(tmp_path / "a.jsonl", right, {**row, "id": "y"}))


def test_columns_that_were_found_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", {"id": "1", "question": "capital of France?", "gold": "Paris"})
    with pytest.raises(ValueError, match=r"a column of answers, .* among 'id', 'question', 'gold'; give the column"):
        open_tasks("qa", path)


def test_hearing_is_not_asked_in_writing(tmp_path):
    path = write(tmp_path / "a.jsonl", {"question": "Where?", "transcript": "where"})
    with pytest.raises(ValueError, match="expected its audio in a column of audio, .* 'question', 'transcript'"):
        open_tasks("asr", path)
    (task,) = open_tasks("asr", write(tmp_path / "a.jsonl", {"audio": "0.wav", "question": "Where?"}))
    assert task.items[0].question == "Where?"  # the words of the question are the reference


def test_files_that_are_none(tmp_path):
    for path, message in (("absent.jsonl", "found none"), ("a.txt", "expected .jsonl"), (".", "expected .parquet")):
        (tmp_path / "a.txt").write_text("")
        with pytest.raises(ValueError, match=message):
            read_items(tmp_path / path)
    with pytest.raises(ValueError, match="expected a task of nano, llama-questions"):
        open_tasks("llama", tmp_path)
    with pytest.raises(ValueError, match="--data"):
        open_tasks("qa", None)


def test_nano_needs_nothing():
    tasks = open_tasks("nano", None, limit=3)
    assert [task.name for task in tasks] == [TYPED, *SPOKEN_SETS]
    assert all(len(task.items) == 3 and all(item.digest for item in task.items) for task in tasks)
    assert {name for task in tasks for name in (task.kind,)} <= set(KINDS)
    size = sum(file.stat().st_size for file in embedded_heldout().rglob("*") if file.is_file())
    assert size < 2e6
