"""A run of the evaluation, in stages that each resume: generate, transcribe, score.

    run.json                     what was examined, by which judge, on which tasks
    <task>/replies.jsonl         one record a reply, durable as soon as it is made; speech in <task>/audio/
    <task>/heard.jsonl           what the judge heard of it
    <task>/items.jsonl           what each item scored
    summary.json                 all figures; summary.md and plots/ show them

A record holds for one item, one question and one state of the examined model, so a run that was killed goes on, a
changed question is asked again, and two models never mix. Scoring reads records alone: no model, no judge.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import echox
from echox.audio import load_audio, save_audio
from echox.errors import one_line
from echox.evaluation.judges.asr import Judge, recordings_wer
from echox.evaluation.run_files import (
    HEARD,
    ITEMS,
    REPLIES,
    RUN_FILE,
    SUMMARY_FILE,
    VERSION,
    _of_keys,
    _Reply,
    read_rows,
    read_run,
)
from echox.evaluation.scoring.records import recorded
from echox.evaluation.scoring.scores import counts, not_measured
from echox.evaluation.sets.items import Item
from echox.evaluation.sets.nano import METRICS_FILE, SPOKEN_SETS, metrics_of
from echox.evaluation.sets.tasks import AVERAGED, KINDS, Task
from echox.evaluation.subjects.subjects import Subject
from echox.files import write_text
from echox.training.lock import output_lock

Part = TypeVar("Part")
Progress = Callable[[Iterable[Part], str, int], Iterable[Part]]
"""Passes items on and shows how far it is: (items, what is done with them, how many there are)."""


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
    progress: Progress[Any] | None = None,
) -> dict[str, Any]:
    """Ask, listen, score; everything that is already recorded is left as it is.

    Args:
        tasks: what is asked.
        subject: who is asked.
        judge: who listens; None: spoken figures are not measured.
        output: the run's folder.
        workers: replies that are asked for at once (of a server).
        unjudged: why there is no judge.
        recordings: folder of the nano corpus on whose recordings the judge's own errors are measured.
        limit: of those recordings.
        progress: shown while it runs.

    Returns:
        The content of ``summary.json``.

    Raises:
        ValueError: a question's audio is missing, or another run writes to the folder.
    """
    show: Progress[Any] = progress or (lambda items, title, total: items)
    with output_lock(output):
        own = _judge(judge, unjudged, recordings, limit, output)
        run = {
            "version": VERSION,
            "echox": echox.__version__,
            "subject": {"name": subject.name, "key": subject.key, "folder": subject.folder},
            "judge": own,
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
        write_text(output / RUN_FILE, json.dumps(run, indent=1) + "\n")
        for task in tasks:
            replies = generate(task, subject, output / task.name, workers)
            for _ in show(replies, f"{task.name}: ask", len(task.items)):
                pass
        for task in tasks if judge is not None else ():
            if task.speaks:
                heard = transcribe(output / task.name, judge, [_key(subject, item) for item in task.items])  # type: ignore[arg-type]
                for _ in show(heard, f"{task.name}: listen", len(task.items)):
                    pass
        return score_run(output)


def generate(task: Task, subject: Subject, folder: Path, workers: int = 1) -> Iterator[dict[str, Any]]:
    """Stage one: the reply to every item, in order; those that failed are tried again."""

    def ask(item: Item) -> dict[str, Any]:
        audio_in = item.audios[-1] if len(item.audios) == 1 else None
        asked = {
            "question": item.question,
            "answers": list(item.answers),
            "columns": _plain(item.columns),
            "question_audio": str(audio_in.resolve()) if isinstance(audio_in, Path) else None,
        }
        silent: dict[str, Any] = {
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
        except (ValueError, RuntimeError, OSError) as error:  # of this item: the run goes on, and tells
            return asked | silent | {"error": one_line(error)}
        audio = None
        if len(reply.waveform):
            audio = f"audio/{_short(_key(subject, item))}/{item.id}.flac"
            (folder / audio).parent.mkdir(parents=True, exist_ok=True)
            save_audio(folder / audio, reply.waveform, reply.sampling_rate)
        return asked | {
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
        lambda record: bool(record["error"]),
    )


def transcribe(folder: Path, judge: Judge, keys: list[str]) -> Iterator[dict[str, Any]]:
    """Stage two: what the judge heard of every reply; one without speech is an empty transcript."""
    replies = [_Reply(record) for record in _of_keys(folder / REPLIES, keys)]

    def listen(reply: _Reply) -> dict[str, Any]:
        record = reply.record
        said, error = "", None
        if record["audio"]:
            try:
                rate = judge.sampling_rate
                said = judge.transcribe([load_audio(folder / record["audio"], rate)], rate)[0]
            except (ValueError, RuntimeError, OSError) as problem:
                error = one_line(problem)
        reference = record["columns"].get("reference")
        return {
            "said": said,
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
        lambda reply: f"{reply.record['key']} {judge.name}",
        listen,
        again=lambda record: bool(record["error"]),
    )


def score_run(output: Path) -> dict[str, Any]:
    """Stage three: all figures from the records, without model or judge; writes ``summary.json`` and what shows it.

    Raises:
        ValueError: no run there, or it is not complete.
    """
    from echox.evaluation.judges.naturalness import ratings_of
    from echox.evaluation.summary import write_summary

    run = read_run(output)
    tasks: dict[str, Any] = {}
    for task in run["tasks"]:
        rows = read_rows(output, run, task)
        tasks[task["name"]] = {
            "kind": task["kind"],
            "source": task["source"],
            **counts(rows),
            **KINDS[task["kind"]].score(rows),
        }
        if rows[0]["speaks"] and task["name"] not in SPOKEN_SETS:
            tasks[task["name"]] |= {name: not_measured("no model file was named") for name in ("utmos", "dnsmos")}
        tasks[task["name"]] |= ratings_of(output / task["name"], task["keys"])
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
            "reply_wer",
            "compression",
            "audio",
        )
        lines = [json.dumps({name: row[name] for name in kept if name in row}, ensure_ascii=False) for row in rows]
        write_text(output / task["name"] / ITEMS, "\n".join(lines) + "\n")
    summary = {name: run[name] for name in ("version", "echox", "subject", "judge")} | {"tasks": tasks}
    averages = _averages(tasks)
    if averages:
        summary["average"] = averages
    card = metrics_of(summary)
    if card is not None:
        write_text(output / METRICS_FILE, json.dumps(card, indent=1) + "\n")
    write_text(output / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    write_summary(output, summary)
    return summary


def _key(subject: Subject, item: Item) -> str:
    return f"{subject.key} {item.id} {item.digest}"


def _short(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def _judge(judge: Judge | None, unjudged: str, data: Path | None, limit: int | None, output: Path) -> dict[str, Any]:
    """The judge's name, and its own errors where there are recordings to measure them on (once for a run)."""
    if judge is None:
        return {"unjudged": unjudged}
    if data is None:
        return {"name": judge.name}
    before = json.loads((output / RUN_FILE).read_text(encoding="utf-8")) if (output / RUN_FILE).is_file() else {}
    known = before.get("judge", {})
    wanted = {"name": judge.name, "data": str(data), "limit": limit}
    if known.get("measured_on") == wanted:
        return known
    return {"name": judge.name, "measured_on": wanted, "recordings": recordings_wer(judge, data, limit)}


def _averages(tasks: dict[str, Any]) -> dict[str, float]:
    """Macro averages over the paper's three sets, where all three were run whole enough to have the figure."""
    found: dict[str, float] = {}
    if not all(name in tasks for name in AVERAGED):
        return found
    for side in ("s2t", "s2s"):
        parts = [tasks[name][side] for name in AVERAGED]
        if not any("not_measured" in part for part in parts):
            found[f"{side}_acc_strict"] = sum(part["acc_strict"]["mean"] for part in parts) / len(parts)
            found[f"{side}_acc_ultraeval"] = sum(part["acc_ultraeval"] or 0.0 for part in parts) / len(parts)
    return found


def _plain(columns: Any) -> dict[str, Any]:
    """Columns as JSON keeps them: bytes (of other audio) are left out, dates become text."""
    kept = {name: value for name, value in columns.items() if not isinstance(value, bytes)}
    return json.loads(json.dumps(kept, default=str))
