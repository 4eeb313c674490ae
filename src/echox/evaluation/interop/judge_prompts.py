"""Replies for a language model as judge: what its prompt is filled with, and the filled prompt of a published template.

Big Bench Audio, for example, is scored so by its authors; the template is in their article
(https://huggingface.co/blog/big-bench-audio-release). No judge is asked here: each line is one request to any model.
"""

from __future__ import annotations

import re
from pathlib import Path

from echox.evaluation.scoring.schema import JsonObject, Row
from echox.files import decoded, write_lines

PLACES = ("question", "official_answer", "candidate_answer")
"""Names in braces that a template may have; the last two it must have."""


def read_template(path: Path) -> str:
    """The template of a prompt.

    Raises:
        ValueError: no such file, no text, or no place for the answers.
    """
    if not path.is_file():
        raise ValueError(f"{path}: expected a text file with the judge's prompt, found none")
    template = decoded(path.read_bytes())
    missing = [f"{{{name}}}" for name in PLACES[1:] if f"{{{name}}}" not in template]
    if missing:
        raise ValueError(f"{path}: expected the places {', '.join(missing)} in the prompt, found none of that name")
    return template


def write_judge_prompts(task: str, rows: list[Row], template: str | None, output: Path) -> list[Path]:
    """``<task>-written.jsonl`` and, of a judged run, ``<task>-spoken.jsonl``.

    The candidate answer is the written reply, or the transcript of the spoken one. Several accepted answers stand side
    by side with a slash.

    Args:
        task: its name.
        rows: replies.
        template: of the prompt; None: lines without ``prompt``.
        output: folder.

    Raises:
        ValueError: a question without an answer that a judge could compare with.
    """
    bare = next((row for row in rows if not row["answers"]), None)
    if bare is not None:
        raise ValueError(f"{task}: expected an answer to every question, found none to {bare['id']!r}")
    sides = {"written": [row["text"] for row in rows]}
    if all(row["said"] is not None for row in rows):
        sides["spoken"] = [row["said"] or "" for row in rows]
    paths = []
    for side, candidates in sides.items():
        path = output / f"{task}-{side}.jsonl"
        write_lines(path, [_request(row, text, template) for row, text in zip(rows, candidates, strict=True)])
        paths.append(path)
    return paths


def _request(row: Row, candidate: str, template: str | None) -> JsonObject:
    values = dict(zip(PLACES, (row["question"], " / ".join(row["answers"]), candidate), strict=True))
    columns = {name: value for name, value in row["columns"].items() if name not in values}
    request: JsonObject = {**columns, "id": row["id"], **values}
    if template is not None:
        places = "|".join(PLACES)
        request["prompt"] = re.sub(rf"{{({places})}}", lambda place: values[place[1]], template)
    return request
