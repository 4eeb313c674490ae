"""The files of an evaluation run: names, and functions that read them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

from echox.evaluation.scoring.records import read_lines
from echox.evaluation.scoring.schema import ReplyRecord, Row, RunFile, TaskEntry
from echox.evaluation.sets.tasks import KINDS
from echox.files import write_text

RUN_FILE, SUMMARY_FILE = "run.json", "summary.json"
QUESTIONS, REPLIES, HEARD = "questions.jsonl", "replies.jsonl", "heard.jsonl"
CONTROL, ITEMS = "control.jsonl", "items.jsonl"
VERSION = 1
"""Version of the layout of the files."""


def short_key(key: str) -> str:
    """Eight hexadecimal digits of a record's key: a folder of what belongs to it."""
    return hashlib.sha256(key.encode()).hexdigest()[:8]


def read_run(output: Path) -> RunFile:
    """``run.json`` of a folder.

    Raises:
        ValueError: it is not there, or of another version.
    """
    path = output / RUN_FILE
    if not path.is_file():
        raise ValueError(f"{output}: expected the folder of a run, found no {RUN_FILE}; make one with: echox eval run")
    run = json.loads(path.read_text(encoding="utf-8"))
    if run.get("version") != VERSION:
        raise ValueError(f"{path}: expected version {VERSION}, found {run.get('version')!r}; run it again")
    return cast(RunFile, run)


def write_run(output: Path, run: RunFile) -> None:
    """``run.json`` of a folder."""
    write_text(output / RUN_FILE, json.dumps(run, indent=1) + "\n")


def raters_of(run: RunFile) -> dict[str, str]:
    """The predictors whose ratings count, by figure; in runs of before 2026-11-30 they do not name their files."""
    return run.get("raters", {figure: figure for figure in ("utmos", "dnsmos", "dnsmos_p808")})


def read_rows(output: Path, run: RunFile, task: TaskEntry) -> list[Row]:
    """The replies of a task, with the judge's transcripts.

    Raises:
        ValueError: a reply or a transcript is missing.
    """
    folder, judge = output / task["name"], run["judge"]
    speaks = KINDS[task["kind"]].speaks
    transcripts = {(record["id"], record["key"]): record for record in read_lines(folder / HEARD)}
    rows: list[Row] = []
    for record in recorded_replies(folder, task["keys"]):
        row: Row = {
            **record,
            "speaks": speaks,
            "said": None,
            "as_heard": None,
            "judge_error": None,
            "unknown_words": 0,
            "unjudged": judge.get("unjudged"),
        }
        if speaks and judge.get("name"):
            found = transcripts.get((record["id"], heard_key(record, judge["name"])))
            if found is None or found.get("references", references_key(record)) != references_key(record):
                raise ValueError(
                    f"{folder}: expected the judge's transcript of {record['id']!r}, found none; finish the run first: "
                    "echox eval run"
                )
            row["said"], row["as_heard"] = found["said"], found["as_heard"]
            row["unknown_words"], row["judge_error"] = found["unknown_words"], found["error"]
        rows.append(row)
    return rows


def heard_key(record: ReplyRecord, judge: str) -> str:
    """Key of what a judge heard of a reply; of a reply that failed another one, since it is asked for again."""
    return f"{record['key']} {judge}{' failed' if record['error'] else ''}"


def references_key(record: ReplyRecord) -> str:
    """Key of the texts, other than the reply, that a judge's transcript is compared with: they can be corrected."""
    return short_key(json.dumps([record["answers"], record["columns"].get("reference")]))


class RecordedReply:
    """A recorded reply as an item of the stages that follow: transcription, rating."""

    def __init__(self, record: ReplyRecord) -> None:
        self.id, self.record = record["id"], record


def recorded_replies(folder: Path, keys: list[str]) -> list[ReplyRecord]:
    """The replies of these keys in a task's folder, in their order, with their questions as they are asked now.

    Runs of before 2026-11-30 have no `QUESTIONS`: what was known when a question was asked stands in its reply.

    Raises:
        ValueError: some are missing.
    """
    replies = {record["key"]: record for record in read_lines(folder / REPLIES)}
    asked = {record["key"]: record for record in read_lines(folder / QUESTIONS)} or replies
    missing = sum(key not in replies or key not in asked for key in keys)
    if missing:
        raise ValueError(
            f"{folder / REPLIES}: expected {len(keys)} replies, {missing} are missing; finish the run: echox eval run"
        )
    return [cast(ReplyRecord, {**replies[key], **asked[key]}) for key in keys]
