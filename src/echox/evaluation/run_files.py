"""The files of an evaluation run: names, and functions that read them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import cast

from echox.evaluation.scoring.records import read_lines
from echox.evaluation.scoring.schema import ReplyRecord, Row, RunFile, TaskEntry
from echox.evaluation.sets.tasks import KINDS

RUN_FILE, SUMMARY_FILE = "run.json", "summary.json"
REPLIES, HEARD, ITEMS, CONTROL = "replies.jsonl", "heard.jsonl", "items.jsonl", "control.jsonl"
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
    return run


def read_rows(output: Path, run: RunFile, task: TaskEntry) -> list[Row]:
    """The replies of a task, with the judge's transcripts.

    Raises:
        ValueError: a reply or a transcript is missing.
    """
    folder, judge = output / task["name"], run["judge"]
    speaks = KINDS[task["kind"]].speaks
    transcripts = {(record["id"], record["key"]): record for record in read_lines(folder / HEARD)}
    rows: list[Row] = []
    for record in recorded_replies(folder / REPLIES, task["keys"]):
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
            if found is None:
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


class RecordedReply:
    """A recorded reply as an item of the stages that follow: transcription, rating."""

    def __init__(self, record: ReplyRecord) -> None:
        self.id, self.record = record["id"], record


def recorded_replies(path: Path, keys: list[str]) -> list[ReplyRecord]:
    """The records of these keys, in their order.

    Raises:
        ValueError: some are missing.
    """
    found = {record["key"]: record for record in read_lines(path)}
    missing = sum(key not in found for key in keys)
    if missing:
        raise ValueError(f"{path}: expected {len(keys)} replies, {missing} are missing; finish the run: echox eval run")
    return [cast(ReplyRecord, found[key]) for key in keys]
