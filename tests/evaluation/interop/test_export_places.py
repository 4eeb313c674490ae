"""Exports: each file belongs to one task, those in writing are no speech, and a refused export changes nothing."""

import pytest

from echox.audio import save_audio
from echox.evaluation.interop.export import EXPORTS, LLM_JUDGE, export_run
from echox.evaluation.run import run_tasks
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.sets.tasks import open_tasks, typed_task
from echox.files import write_lines
from echox.streaming.events import Reply
from tiny_echox import tone

ROWS = [
    {"id": f"q{number}", "audio": f"{number}.wav", "question": "Where?", "target_text": "Paris", "subset": "s"}
    for number in range(3)
]


class Writer:
    """Says how it was asked."""

    name, key, folder = "writer", "writer", None

    def answer(self, messages, speak=True):
        asked = "typed" if isinstance(messages[-1]["content"], str) else "spoken"
        return Reply(asked, tone(0.1), 16000, "", {})


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.setattr("echox.evaluation.summary.draw_run", lambda *_: [])
    for number in range(3):
        save_audio(tmp_path / f"{number}.wav", tone(0.3, seed=number), 16000)
    write_lines(tmp_path / "items.jsonl", ROWS)
    return tmp_path / "items.jsonl"


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", EXPORTS)
def test_questions_in_writing_are_left_out_where_speech_is_scored(table, tmp_path, kind):
    (task,) = open_tasks("qa", table)
    run_tasks([task], Writer(), None, tmp_path / "spoken")
    run_tasks([task, typed_task(task)], Writer(), None, tmp_path / "both")
    one, both = (
        [path.relative_to(tmp_path) for path in export_run(tmp_path / run, kind, tmp_path)]
        for run in ("spoken", "both")
    )
    assert one == both
    said = [line.get("response") for path in both for line in read_lines(tmp_path / path) if "response" in line]
    assert said == (["spoken"] * 3 if kind == "voicebench" else [])
    run_tasks([typed_task(task)], Writer(), None, tmp_path / "typed")
    with pytest.raises(ValueError, match=f"spoken questions for {kind}, found qa-typed"):
        export_run(tmp_path / "typed", kind, tmp_path / "none")
    assert [path.name for path in export_run(tmp_path / "both", LLM_JUDGE, tmp_path)] == [
        "qa-written.jsonl",
        "qa-typed-written.jsonl",
    ]


@pytest.mark.parametrize("kind", ["voicebench", "uro-bench"])
def test_two_tasks_with_one_place_are_refused(table, tmp_path, kind):
    tasks = [task for name in ("qa", "uro-bench") for task in open_tasks(name, table)]
    tasks = [task if kind == "voicebench" else in_track(task) for task in tasks]
    run_tasks(tasks[:1], Writer(), None, tmp_path / "one")
    export_run(tmp_path / "one", kind, tmp_path / "export")
    before = content(tmp_path / "export")
    run_tasks(tasks, Writer(), None, tmp_path / "two")
    with pytest.raises(ValueError, match=r"expected one task for .*, found qa and uro-bench; export runs of one"):
        export_run(tmp_path / "two", kind, tmp_path / "export")
    assert content(tmp_path / "export") == before


def in_track(task):
    return type(task)(task.name, task.kind, task.items, "data/basic/Set/test.jsonl")


@pytest.mark.parametrize("kind", EXPORTS)
@pytest.mark.parametrize("broken", ["last question", "last reply"])
def test_an_export_that_fails_changes_nothing(table, tmp_path, kind, broken):
    (task,) = open_tasks("qa", table)
    run_tasks([task], Writer(), None, tmp_path / "run")
    export_run(tmp_path / "run", kind, tmp_path / "export")
    before = content(tmp_path / "export")
    if broken == "last question":
        (tmp_path / "2.wav").write_text("no audio")
    else:
        next((tmp_path / "run" / "qa" / "audio").rglob("q2.flac")).write_text("no audio")
    fails = {"ultraeval": "last question", "uro-bench": "last reply"}.get(kind) == broken
    if fails:
        for place in ("export", "new"):
            with pytest.raises(ValueError, match="audio"):
                export_run(tmp_path / "run", kind, tmp_path / place)
        assert content(tmp_path / "new") == {}
    else:
        export_run(tmp_path / "run", kind, tmp_path / "export")
    assert content(tmp_path / "export") == before


def test_speech_of_an_earlier_export_goes_and_other_files_stay(table, tmp_path):
    (task,) = open_tasks("uro-bench", table)
    run_tasks([task], Writer(), None, tmp_path / "run")
    place = tmp_path / "export" / "eval" / "uro-bench" / "audio"
    place.mkdir(parents=True)
    (place / "0007.wav").write_text("of a longer set")
    (place / "notes.txt").write_text("mine")
    export_run(tmp_path / "run", "uro-bench", tmp_path / "export")
    assert sorted(path.name for path in place.iterdir()) == ["0000.wav", "0001.wav", "0002.wav", "notes.txt"]


def test_names_of_a_data_set_are_no_paths(table, tmp_path):
    write_lines(table, [{**row, "subset": "../../s"} for row in ROWS])
    run_tasks(open_tasks("qa", table), Writer(), None, tmp_path / "run")
    with pytest.raises(ValueError, match="expected names in subset and split"):
        export_run(tmp_path / "run", "voicebench", tmp_path / "a" / "export")
