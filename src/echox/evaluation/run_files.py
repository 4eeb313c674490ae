"""The files of an evaluation run: their names, and reading them back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from echox.evaluation.scoring.records import read_lines
from echox.evaluation.scoring.scores import Row
from echox.evaluation.sets.tasks import KINDS

RUN_FILE, SUMMARY_FILE = "run.json", "summary.json"


REPLIES, HEARD, ITEMS = "replies.jsonl", "heard.jsonl", "items.jsonl"


VERSION = 1
"""Of the files' layout."""


def read_run(output: Path) -> dict[str, Any]:
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


def read_rows(output: Path, run: dict[str, Any], task: dict[str, Any]) -> list[Row]:
    """The replies of a task with what was heard of them.

    Raises:
        ValueError: a reply or a transcript is missing.
    """
    folder, judge = output / task["name"], run["judge"]
    speaks = KINDS[task["kind"]].speaks
    heard = {(record["id"], record["key"]): record for record in read_lines(folder / HEARD)}
    rows = []
    for record in _of_keys(folder / REPLIES, task["keys"]):
        row = {
            **record,
            "speaks": speaks,
            "said": None,
            "as_heard": None,
            "judge_error": None,
            "unknown_words": 0,
            "unjudged": judge.get("unjudged"),
        }
        if speaks and judge.get("name"):
            listened = heard.get((record["id"], f"{record['key']} {judge['name']}"))
            if listened is None:
                raise ValueError(
                    f"{folder}: expected what the judge heard of {record['id']!r}, found nothing; finish "
                    "the run first: echox eval run"
                )
            row |= {name: listened[name] for name in ("said", "as_heard", "unknown_words")}
            row["judge_error"] = listened["error"]
        rows.append(row)
    return rows


class _Reply:
    """A recorded reply as an item of the next stage."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.id, self.record = record["id"], record


def _of_keys(path: Path, keys: list[str]) -> list[dict[str, Any]]:
    found = {record["key"]: record for record in read_lines(path)}
    missing = sum(key not in found for key in keys)
    if missing:
        raise ValueError(f"{path}: expected {len(keys)} replies, {missing} are missing; finish the run: echox eval run")
    return [found[key] for key in keys]
