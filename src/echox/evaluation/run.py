"""A run of the evaluation, in three stages that can be resumed: generate, transcribe, score.

    run.json                     which model, judge and tasks
    <task>/questions.jsonl       the items as their data set has them now: words, answers, columns
    <task>/replies.jsonl         one record for each reply, on the disk as soon as it is made; speech in <task>/audio/
    <task>/heard.jsonl           the judge's transcript of it
    <task>/control.jsonl         the same texts by another voice, and the judge's transcript of that, if asked for
    <task>/items.jsonl           the scores of each item
    summary.json                 all figures; summary.md and plots/ show them

A record is valid for one item, one question and one state of the model. So a run that was killed continues, a changed
question is asked again, and two models never mix. Answers and columns that were corrected count at once, and nothing is
asked again for them. Scoring reads records alone: it needs no model and no judge.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import echox
from echox.audio import load_audio, save_audio
from echox.data.engines.engine import Voice
from echox.errors import one_line
from echox.evaluation.control import control_scores, speak_control
from echox.evaluation.judges.asr import Judge, recordings_wer
from echox.evaluation.run_files import (
    HEARD,
    ITEMS,
    QUESTIONS,
    REPLIES,
    RUN_FILE,
    SUMMARY_FILE,
    VERSION,
    RecordedReply,
    heard_key,
    raters_of,
    read_rows,
    read_run,
    recorded_replies,
    references_key,
    short_key,
    write_run,
)
from echox.evaluation.scoring.records import read_lines, recorded
from echox.evaluation.scoring.schema import AskedItem, JsonObject, Row, RunFile
from echox.evaluation.scoring.scores import counts, not_measured, ratio_of
from echox.evaluation.sets.items import EvalItem
from echox.evaluation.sets.nano import METRICS_FILE, SPOKEN_SETS, metrics_of
from echox.evaluation.sets.tasks import AVERAGED, KINDS, TYPED_SUFFIX, Task
from echox.evaluation.subjects.subject import Subject
from echox.files import write_lines, write_text
from echox.training.control.lock import output_lock

T = TypeVar("T")


class ShowProgress(Protocol):
    """Passes items through and shows how many of them are done."""

    def __call__(self, items: Iterable[T], title: str, total: int) -> Iterable[T]:
        """The items, of which there are ``total``."""
        ...


def show_nothing(items: Iterable[T], title: str, total: int) -> Iterable[T]:
    """The items; the default of `ShowProgress`."""
    return items


def run_tasks(
    tasks: list[Task],
    subject: Subject,
    judge: Judge | None,
    output: Path,
    *,
    workers: int = 1,
    unjudged: str = "no judge was asked for",
    recordings: Path | None = None,
    limit: int | None = None,
    control: Voice | None = None,
    progress: ShowProgress = show_nothing,
) -> JsonObject:
    """Ask, transcribe, score; what is already recorded is not repeated.

    Args:
        tasks: test sets.
        subject: the model under evaluation.
        judge: recogniser of the spoken replies; None: spoken figures are not measured.
        output: the run's folder.
        workers: concurrent requests to a server.
        unjudged: why there is no judge.
        recordings: folder of the nano corpus; the judge's own errors are measured on its recordings.
        limit: number of those recordings.
        control: voice that also speaks the replies' texts, for the same judge; None: none.
        progress: shows how many replies and transcripts are made.

    Returns:
        The content of ``summary.json``.

    Raises:
        ValueError: a question's audio is missing, two tasks of one name, or another run writes to the folder.
    """
    names = [task.name for task in tasks]
    if len(set(names)) != len(names):
        raise ValueError(f"expected every task once, found {', '.join(names)}; name each one once")
    with output_lock(output):
        before = json.loads((output / RUN_FILE).read_text(encoding="utf-8")) if (output / RUN_FILE).is_file() else {}
        run: RunFile = {
            "version": VERSION,
            "echox": echox.__version__,
            "subject": {"name": subject.name, "key": subject.key, "folder": subject.folder},
            "judge": _judge(judge, unjudged, recordings, limit, before.get("judge", {})),
            "tasks": [
                {
                    "name": task.name,
                    "kind": task.kind,
                    "source": task.source,
                    "ids": [item.id for item in task.items],
                    "keys": [_key(subject, item) for item in task.items],
                }
                for task in tasks
            ],
        }
        if control is not None:
            run["control"] = control.speaker
        if "raters" in before:
            run["raters"] = before["raters"]
        for task in tasks:
            (output / task.name).mkdir(parents=True, exist_ok=True)
            write_lines(output / task.name / QUESTIONS, [_asked(subject, item) for item in task.items])
        write_run(output, run)
        for task in tasks:
            replies = generate(task, subject, output / task.name, workers)
            for _ in progress(replies, f"{task.name}: ask", len(task.items)):
                pass
        for task in tasks:
            if task.speaks and judge is not None:
                transcripts = transcribe(output / task.name, judge, [_key(subject, item) for item in task.items])
                for _ in progress(transcripts, f"{task.name}: transcribe", len(task.items)):
                    pass
                if control is not None:
                    keys = [_key(subject, item) for item in task.items]
                    spoken = speak_control(output / task.name, control, judge, keys, subject.spoken_language)
                    for _ in progress(spoken, f"{task.name}: control", len(task.items)):
                        pass
        return score_run(output)


def generate(task: Task, subject: Subject, folder: Path, workers: int = 1) -> Iterator[JsonObject]:
    """Stage one: the reply to every item, in order; items that failed before are tried again."""

    def ask(item: EvalItem) -> JsonObject:
        no_reply: JsonObject = {
            "text": "",
            "heard": "",
            "audio": None,
            "reply_s": 0.0,
            "timings": {},
            "failures": [],
            "stopped": None,
        }
        try:
            reply = subject.answer(item.messages, task.speaks)
        except (ValueError, RuntimeError, OSError) as error:  # of this item: recorded, and the run continues
            return no_reply | {"error": one_line(error)}
        audio = None
        if len(reply.waveform):
            audio = f"audio/{short_key(_key(subject, item))}/{item.id}.flac"
            (folder / audio).parent.mkdir(parents=True, exist_ok=True)
            save_audio(folder / audio, reply.waveform, reply.sampling_rate)
        return {
            "text": reply.text,
            "heard": reply.heard,
            "audio": audio,
            "reply_s": reply.duration_s,
            "timings": dict(reply.timings),
            "failures": [failure.reason for failure in reply.failures],
            "stopped": reply.stopped,
            "error": None,
        }

    return recorded(
        task.items,
        folder / REPLIES,
        lambda item: _key(subject, item),
        ask,
        workers,
        retry=lambda record: bool(record["error"]),
    )


def transcribe(folder: Path, judge: Judge, keys: list[str]) -> Iterator[JsonObject]:
    """Stage two: the judge's transcript of every reply; without speech, it is empty.

    Where answers were corrected, what was heard is kept: only their spelling is renewed.
    """
    replies = [RecordedReply(record) for record in recorded_replies(folder, keys)]
    references = {heard_key(reply.record, judge.name): references_key(reply.record) for reply in replies}
    before = {record["key"]: record for record in read_lines(folder / HEARD) if not record["error"]}

    def transcript_of(reply: RecordedReply) -> JsonObject:
        record = reply.record
        known = before.get(heard_key(record, judge.name))
        said, error = known["said"] if known else "", None
        if record["audio"] and not known:
            try:
                rate = judge.sampling_rate
                said = judge.transcribe([load_audio(folder / record["audio"], rate)], rate)[0]
            except (ValueError, RuntimeError, OSError) as problem:
                error = one_line(problem)
        reference = record["columns"].get("reference")
        return {
            "said": said,
            "references": references_key(record),
            "as_heard": {
                "reply": judge.as_heard(record["text"]),
                "answers": [judge.as_heard(answer) for answer in record["answers"]],
                "reference": judge.as_heard(reference) if isinstance(reference, str) else None,
            },
            "unknown_words": judge.unknown_words(record["text"]),
            "error": error,
        }

    return recorded(
        replies,
        folder / HEARD,
        lambda reply: heard_key(reply.record, judge.name),
        transcript_of,
        retry=lambda record: bool(record["error"]) or record.get("references") != references[record["key"]],
    )


def score_run(output: Path) -> JsonObject:
    """Stage three: all figures from the records, without model or judge; writes the summary and its plots.

    Raises:
        ValueError: no run there, or an incomplete one.
    """
    from echox.evaluation.judges.naturalness import ratings_of
    from echox.evaluation.summary import write_summary

    run = read_run(output)
    tasks: dict[str, JsonObject] = {}
    scored: dict[str, list[Row]] = {}
    for task in run["tasks"]:
        rows = read_rows(output, run, task)
        tasks[task["name"]] = {
            "kind": task["kind"],
            "source": task["source"],
            **counts(rows),
            **KINDS[task["kind"]].score(rows),
        }
        scored[task["name"]] = rows
        if rows[0]["speaks"] and task["name"] not in SPOKEN_SETS:
            tasks[task["name"]] |= {name: not_measured("no model file was named") for name in ("utmos", "dnsmos")}
        if rows[0]["speaks"] and "control" in run and run["judge"].get("name"):
            tasks[task["name"]] |= control_scores(
                output / task["name"], rows, run["judge"]["name"], run["control"], raters_of(run)
            )
        tasks[task["name"]] |= ratings_of(output / task["name"], task["keys"], raters_of(run))
        kept = (
            "id",
            "question",
            "answers",
            "text",
            "said",
            "error",
            "judge_error",
            "s2t",
            "s2s",
            "t2t",
            "reply_wer",
            "compression",
            "audio",
        )
        columns: list[Mapping[str, object]] = [*rows]
        lines = [json.dumps({name: row[name] for name in kept if name in row}, ensure_ascii=False) for row in columns]
        write_text(output / task["name"] / ITEMS, "\n".join(lines) + "\n")
    for name, rows in scored.items():
        typed = scored.get(name + TYPED_SUFFIX)
        if typed is not None:
            tasks[name] |= _against_typed(rows, typed, tasks[name + TYPED_SUFFIX])
    summary: JsonObject = {
        "version": run["version"],
        "echox": run["echox"],
        "subject": run["subject"],
        "judge": run["judge"],
        "tasks": tasks,
    }
    if "raters" in run:
        summary["raters"] = run["raters"]
    averages = _averages(tasks)
    if averages:
        summary["average"] = averages
    card = metrics_of(summary)
    if card is not None:
        write_text(output / METRICS_FILE, json.dumps(card, indent=1) + "\n")
    write_text(output / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    write_summary(output, summary)
    return summary


def _key(subject: Subject, item: EvalItem) -> str:
    return f"{subject.key} {item.id} {item.digest}"


def _asked(subject: Subject, item: EvalItem) -> AskedItem:
    audio = item.audios[-1] if len(item.audios) == 1 else None
    return {
        "id": item.id,
        "key": _key(subject, item),
        "question": item.question,
        "answers": list(item.answers),
        "columns": _plain(item.columns),
        "question_audio": str(audio.resolve()) if isinstance(audio, Path) else None,
    }


def _judge(judge: Judge | None, unjudged: str, data: Path | None, limit: int | None, known: JsonObject) -> JsonObject:
    """The judge's name, and its own errors if there are recordings to measure them on (once in a run)."""
    if judge is None:
        return {"unjudged": unjudged}
    if data is None:
        return {"name": judge.name}
    wanted = {"name": judge.name, "data": str(data), "limit": limit}
    if known.get("measured_on") == wanted:
        return known
    return {"name": judge.name, "measured_on": wanted, "recordings": recordings_wer(judge, data, limit)}


def _against_typed(rows: list[Row], typed: list[Row], task: JsonObject) -> JsonObject:
    """T2T beside S2T, and their ratio over the questions that both have."""
    written = {row["id"]: row["t2t"] for row in typed}
    shared = [row for row in rows if row["id"] in written]
    return {
        "t2t": task["t2t"],
        "s2t_over_t2t": ratio_of([row["s2t"] for row in shared], [written[row["id"]] for row in shared]),
    }


def _averages(tasks: dict[str, JsonObject]) -> dict[str, float]:
    """Means over the paper's three sets, if all three have the figure."""
    found: dict[str, float] = {}
    if not all(name in tasks for name in AVERAGED):
        return found
    for side in ("s2t", "s2s"):
        parts = [tasks[name][side] for name in AVERAGED]
        if not any("not_measured" in part for part in parts):
            found[f"{side}_acc_strict"] = sum(part["acc_strict"]["mean"] for part in parts) / len(parts)
            found[f"{side}_acc_ultraeval"] = sum(part["acc_ultraeval"] or 0.0 for part in parts) / len(parts)
    return found


def _plain(columns: Mapping[str, object]) -> JsonObject:
    """Columns as JSON holds them: bytes (of other audio) are left out, dates become text."""
    kept = {name: value for name, value in columns.items() if not isinstance(value, bytes)}
    return json.loads(json.dumps(kept, default=str))
