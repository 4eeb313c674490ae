"""A run in the formats of other tools: records and registry of UltraEval-Audio, response files of VoiceBench, what
URO-Bench's scripts read, prompts for a language model as judge.

Everything is written aside first, and takes its place when all of it is there: an export that is refused leaves what
was there before as it was.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from echox.audio import load_audio, save_audio
from echox.evaluation.interop.judge_prompts import read_template, write_judge_prompts
from echox.evaluation.interop.uro_bench import write_uro_bench
from echox.evaluation.run_files import read_rows, read_run
from echox.evaluation.scoring.schema import JsonObject, Row, TaskEntry
from echox.evaluation.sets.tasks import WRITTEN
from echox.files import write_lines, write_text

QUESTION_RATE_HZ = 16000
LLM_JUDGE = "llm-judge"
"""The format of `write_judge_prompts`."""


@dataclass(frozen=True)
class TaskExport:
    """A task of a run, and where it goes.

    Attributes:
        subject: name of the model.
        task: its entry in ``run.json``.
        rows: replies.
        folder: of the run.
        aside: folder that files are written into.
        output: folder that they are in afterwards, for files that name others.
    """

    subject: str
    task: TaskEntry
    rows: list[Row]
    folder: Path
    aside: Path
    output: Path


def export_run(folder: Path, kind: str, output: Path, prompt: Path | None = None) -> list[Path]:
    """Write the tasks of a run; those in writing (``--typed``) only for `LLM_JUDGE`, as the others are of speech.

    Args:
        folder: the run.
        kind: a name in `EXPORTS`, or `LLM_JUDGE`.
        output: folder; made if missing.
        prompt: text with the places of `PLACES`, for `LLM_JUDGE`; None: no prompts are written, only what fills them.

    Returns:
        The files that the other tool reads.

    Raises:
        ValueError: an unknown kind, no complete run, no task for this format, two tasks that it has one place for,
            questions that cannot be exported, or a prompt without a place for the answers.
    """
    if kind not in (*EXPORTS, LLM_JUDGE):
        raise ValueError(f"expected a format of {', '.join((*EXPORTS, LLM_JUDGE))}; found {kind!r}")
    if prompt is not None and kind != LLM_JUDGE:
        raise ValueError(f"expected --prompt with --format {LLM_JUDGE} only, found {kind}")
    template = read_template(prompt) if prompt is not None else None
    run = read_run(folder)
    tasks = [task for task in run["tasks"] if kind == LLM_JUDGE or task["kind"] not in WRITTEN]
    if not tasks:
        names = ", ".join(task["name"] for task in run["tasks"])
        raise ValueError(f"{folder}: expected a task with spoken questions for {kind}, found {names}; run one")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output, prefix=".export") as aside:
        written: dict[Path, str] = {}
        for number, task in enumerate(tasks):
            one = TaskExport(
                run["subject"]["name"], task, read_rows(folder, run, task), folder, Path(aside, str(number)), output
            )
            one.aside.mkdir()
            if kind == LLM_JUDGE:
                paths = write_judge_prompts(task["name"], one.rows, template, one.aside)
            else:
                paths = EXPORTS[kind](one)
            for path in (path.relative_to(one.aside) for path in paths):
                if path in written:
                    raise ValueError(
                        f"{folder}: expected one task for {path}, found {written[path]} and {task['name']}; export "
                        "runs of one of them each"
                    )
                written[path] = task["name"]
        for number in range(len(tasks)):
            _take_place(Path(aside, str(number)), output)
    return [output / path for path in written]


def _take_place(aside: Path, output: Path) -> None:
    """Move all files; WAV files of an earlier export, in the same folders, go: replies may have failed since."""
    for path in sorted(aside.rglob("*")):  # a folder comes before what is in it
        place = output / path.relative_to(aside)
        if path.is_dir():
            place.mkdir(exist_ok=True)
            for old in place.glob("*.wav"):
                old.unlink()
        else:
            path.replace(place)


def _ultraeval(export: TaskExport) -> list[Path]:
    """A data set (``<task>.jsonl``, questions as WAV), its registry entries, and the replies as their records.

    With ``--inf_file`` their scorer reads the replies; without, it asks a model that it is given.
    """
    task, aside, output = export.task["name"], export.aside, export.output
    lines, records = [], []
    for number, row in enumerate(export.rows):
        if row["question_audio"] is None:
            raise ValueError(
                f"{task}: expected spoken questions in files, found none for {row['id']!r}; export a task "
                "of one spoken question each, from .jsonl or .csv"
            )
        name = Path("wav", task, f"{row['id']}.wav")
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        save_audio(aside / name, load_audio(row["question_audio"], QUESTION_RATE_HZ), QUESTION_RATE_HZ)
        wav = str((output / name).resolve())
        # Answers as a list: their reader turns a single numeric answer into a number, and fails.
        lines.append({"WavPath": wav, "question": row["question"], "answers": row["answers"]})
        prompt = [{"role": "user", "contents": [{"type": "audio", "value": wav}]}]
        records.append({"type": "prompt", "id": number, "data": {"content": prompt}})
        if row["error"] is None:
            audio = str((export.folder / task / row["audio"]).resolve()) if row["audio"] else ""
            content = json.dumps({"text": row["text"], "audio": audio}, ensure_ascii=False)
            records.append({"type": "inference", "id": number, "data": {"content": content}})
        else:
            records.append({"type": "error", "id": number, "data": {"info": row["error"]}})
    items, replies = aside / f"{task}.jsonl", aside / f"{task}-replies.jsonl"
    write_lines(items, lines)
    write_lines(replies, records)
    registry = aside / "registry" / "dataset" / f"{task}.yaml"
    registry.parent.mkdir(parents=True, exist_ok=True)
    args = {"f_name": str((output / items.name).resolve()), "ref_col": "answers"}
    kind = "audio_evals.dataset.dataset.JsonlFile"
    entries = {
        f"echox-{task}-s2t": {"class": kind, "args": {"default_task": "loose-aqa", **args}},
        f"echox-{task}": {"class": kind, "args": {"default_task": "echox-s2s-aqa", **args}},
    }
    write_text(registry, yaml.safe_dump(entries, sort_keys=False))
    return [items, replies, registry]


def _voicebench(export: TaskExport) -> list[Path]:
    """``{model}-{subset}-{split}-audio.jsonl``: the data set's columns and the response, for their scorers."""
    model = re.sub(r"[^A-Za-z0-9.]+", "_", export.subject)
    files: dict[str, list[JsonObject]] = {}
    for row in export.rows:
        subset, split = row["columns"].get("subset") or export.task["name"], row["columns"].get("split") or "test"
        name = f"{model}-{subset}-{split}-audio.jsonl"
        if Path(name).name != name:
            raise ValueError(f"{row['id']!r}: expected names in subset and split, found {subset!r} and {split!r}")
        files.setdefault(name, []).append({**row["columns"], "response": row["text"]})
    for name, lines in files.items():
        write_lines(export.aside / name, lines)
    return [export.aside / name for name in files]


def _uro_bench(export: TaskExport) -> list[Path]:
    return write_uro_bench(export.task, export.rows, export.folder, export.aside)


EXPORTS: dict[str, Callable[[TaskExport], list[Path]]] = {
    "ultraeval": _ultraeval,
    "voicebench": _voicebench,
    "uro-bench": _uro_bench,
}
