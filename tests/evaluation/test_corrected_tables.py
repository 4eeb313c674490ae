"""A table that is corrected after its questions were asked: the next call scores as if it had always been so.

Nothing is asked or heard again for it: the model and the judge that continue would raise.
"""

import json

import pytest

from echox.audio import save_audio
from echox.evaluation.evidence.agreement import measure_agreement
from echox.evaluation.interop.export import export_run
from echox.evaluation.run import run_tasks, score_run
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.sets.tasks import open_tasks
from echox.files import write_lines
from echox.streaming.events import Reply
from tiny_echox import tone

ROWS = [
    {"id": "a", "audio": "0.wav", "question": "Is it valid?", "category": "logic", "subset": "s", "split": "t"},
    {"id": "b", "audio": "1.wav", "question": "Is it?", "category": "logic", "subset": "s", "split": "t"},
]
SAID = ["No.", "Yes."]


class Scripted:
    """Answers the same to the same question; ``silent``: it must not be asked."""

    name, key, folder = "scripted", "scripted", None

    def __init__(self, silent=False):
        self.silent = silent

    def answer(self, messages, speak=True):
        assert not self.silent, "asked again"
        name = messages[-1]["content"][0]["audio"].name
        return Reply(SAID[int(name[0])], tone(0.1, seed=int(name[0])), 16000, "", {})


class Listener:
    """A judge with a spelling of its own; ``deaf``: it must not listen."""

    sampling_rate = 16000

    def __init__(self, name="listener", deaf=False):
        self.name, self.deaf = name, deaf

    def as_heard(self, text):
        return text.lower().strip(".")

    def unknown_words(self, text):
        return 0

    def transcribe(self, waveforms, sampling_rate):
        assert not self.deaf, "heard again"
        return ["no" for _ in waveforms]


def write(folder, column, changes=()):
    rows = [{**row, column: "Yes"} for row in ROWS]
    for number, name, value in changes:
        rows[number][name] = value
    write_lines(folder / "items.jsonl", rows)
    return folder / "items.jsonl"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr("echox.evaluation.summary.draw_run", lambda *_: [])  # figures, not their pictures
    for number in range(2):
        save_audio(tmp_path / f"{number}.wav", tone(0.3, seed=number), 16000)
    return tmp_path


CORRECTED = {
    "answers": [(0, "", "No")],
    "list": [(0, "", ["Nope", "No"])],
    "words": [(0, "question", "Is it invalid?")],
    "category": [(1, "category", "navigation")],
    "all": [(0, "", "No"), (1, "", "No"), (1, "category", "navigation"), (0, "question", "Not?")],
}
TASKS = {
    "qa": "answers",
    "big-bench-audio": "official_answer",
    "uro-bench": "target_text",
    "uro-repeat": "target_text",
    "asr": "transcript",
    "translation": "translation",
    "consistency": "reference",
}


def figures(run, task):
    summary = json.loads((run / "summary.json").read_text())
    return summary["tasks"], read_lines(run / task / "items.jsonl")


@pytest.mark.parametrize(
    ("name", "correction"), [*(("qa", correction) for correction in CORRECTED), *((name, "all") for name in TASKS)]
)
def test_a_corrected_table_is_scored_as_if_it_had_always_been_so(data, name, correction):
    changes = [(number, column or TASKS[name], value) for number, column, value in CORRECTED[correction]]
    path = write(data, TASKS[name])
    run_tasks(open_tasks(name, path), Scripted(), Listener(), data / "run")
    before = figures(data / "run", name)
    path = write(data, TASKS[name], changes)
    run_tasks(open_tasks(name, path), Scripted(silent=True), Listener(deaf=True), data / "run")
    run_tasks(open_tasks(name, path), Scripted(), Listener(), data / "fresh")
    after = figures(data / "run", name)
    assert after == figures(data / "fresh", name)
    assert after[1] != before[1] or correction == "category"
    assert score_run(data / "run")["tasks"] == after[0]
    run_tasks(open_tasks(name, write(data, TASKS[name])), Scripted(silent=True), Listener(deaf=True), data / "run")
    assert figures(data / "run", name) == before  # and back


def test_exports_and_other_judges_take_the_corrected_columns(data):
    run_tasks(open_tasks("qa", write(data, "answers")), Scripted(), Listener(), data / "run")
    assert measure(data) == [0.0, 0.0]
    path = write(data, "answers", [(0, "answers", "No"), (1, "answers", ["No"]), (1, "subset", "other")])
    run_tasks(open_tasks("qa", path), Scripted(silent=True), Listener(deaf=True), data / "run")
    paths = export_run(data / "run", "voicebench", data / "export")
    assert [one.name for one in paths] == ["scripted-s-t-audio.jsonl", "scripted-other-t-audio.jsonl"]
    assert read_lines(paths[0])[0]["answers"] == "No"
    assert measure(data) == [1.0, 1.0]


def measure(data):
    judges = [Listener(), Listener("another")]
    found = measure_agreement(data / "run", judges)["tasks"]["qa"]["judges"]
    return [one["right"]["mean"] for one in found.values()]


def test_a_run_that_was_stopped_between_correcting_and_hearing_is_not_scored(data):
    run_tasks(open_tasks("qa", write(data, "answers")), Scripted(), Listener(), data / "run")
    heard = data / "run" / "qa" / "heard.jsonl"
    before = heard.read_bytes()
    path = write(data, "answers", [(0, "answers", "No")])
    run_tasks(open_tasks("qa", path), Scripted(silent=True), Listener(deaf=True), data / "run")
    heard.write_bytes(before)
    with pytest.raises(ValueError, match="finish the run first"):
        score_run(data / "run")


def test_a_run_of_before_is_scored_and_goes_on(data):
    """Runs of before 2026-11-30: what was asked stands in the replies, and nowhere else."""
    path = write(data, "answers")
    first = run_tasks(open_tasks("qa", path), Scripted(), Listener(), data / "run")
    questions, replies, heard = (data / "run" / "qa" / f"{name}.jsonl" for name in ("questions", "replies", "heard"))
    asked = {row["key"]: row for row in read_lines(questions)}
    write_lines(replies, [{**row, **asked[row["key"]]} for row in read_lines(replies)])
    write_lines(heard, [{name: row[name] for name in row if name != "references"} for row in read_lines(heard)])
    questions.unlink()
    assert score_run(data / "run") == first
    path = write(data, "answers", [(number, "answers", "No") for number in range(2)])
    run_tasks(open_tasks("qa", path), Scripted(silent=True), Listener(deaf=True), data / "run")
    assert json.loads((data / "run" / "summary.json").read_text())["tasks"]["qa"]["s2s"]["acc_strict"]["mean"] == 1.0


def test_two_tasks_of_one_name_are_refused(data):
    tasks = open_tasks("qa", write(data, "answers"))
    with pytest.raises(ValueError, match="expected every task once, found qa, qa"):
        run_tasks([*tasks, *tasks], Scripted(), None, data / "run")
