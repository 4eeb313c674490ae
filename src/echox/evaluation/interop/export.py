"""A run in the formats of other tools: records and registry of UltraEval-Audio, response files of VoiceBench, what
URO-Bench's scripts read, prompts for a language model as judge.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from echox.audio import load_audio, save_audio
from echox.evaluation.interop.judge_prompts import read_template, write_judge_prompts
from echox.evaluation.interop.uro_bench import write_uro_bench
from echox.evaluation.run_files import read_rows, read_run
from echox.evaluation.scoring.schema import JsonObject, Row, RunFile, TaskEntry
from echox.files import write_lines, write_text

QUESTION_RATE_HZ = 16000
LLM_JUDGE = "llm-judge"
"""The format of `write_judge_prompts`."""


def export_run(folder: Path, kind: str, output: Path, prompt: Path | None = None) -> list[Path]:
    """Write every task of a run.

    Args:
        folder: the run.
        kind: a name in `EXPORTS`, or `LLM_JUDGE`.
        output: folder; made if missing.
        prompt: text with the places of `PLACES`, for `LLM_JUDGE`; None: no prompts are written, only what fills them.

    Returns:
        The files that the other tool reads.

    Raises:
        ValueError: an unknown kind, no complete run, questions that cannot be exported, or a prompt without a place
            for the answers.
    """
    if kind not in (*EXPORTS, LLM_JUDGE):
        raise ValueError(f"expected a format of {', '.join((*EXPORTS, LLM_JUDGE))}; found {kind!r}")
    if prompt is not None and kind != LLM_JUDGE:
        raise ValueError(f"expected --prompt with --format {LLM_JUDGE} only, found {kind}")
    template = read_template(prompt) if prompt is not None else None
    run = read_run(folder)
    output.mkdir(parents=True, exist_ok=True)
    written = []
    for task in run["tasks"]:
        rows = read_rows(folder, run, task)
        if kind == LLM_JUDGE:
            written += write_judge_prompts(task["name"], rows, template, output)
        else:
            written += EXPORTS[kind](run, task, rows, folder, output)
    return written


def _ultraeval(run: RunFile, entry: TaskEntry, rows: list[Row], folder: Path, output: Path) -> list[Path]:
    """A data set (``<task>.jsonl``, questions as WAV), its registry entries, and the replies as their records.

    With ``--inf_file`` their scorer reads the replies; without, it asks a model that it is given.
    """
    task = entry["name"]
    lines, records = [], []
    for number, row in enumerate(rows):
        if row["question_audio"] is None:
            raise ValueError(
                f"{task}: expected spoken questions in files, found none for {row['id']!r}; export a task "
                "of one spoken question each, from .jsonl or .csv"
            )
        wav = (output / "wav" / task / f"{row['id']}.wav").resolve()
        wav.parent.mkdir(parents=True, exist_ok=True)
        save_audio(wav, load_audio(row["question_audio"], QUESTION_RATE_HZ), QUESTION_RATE_HZ)
        # Answers as a list: their reader turns a single numeric answer into a number, and fails.
        lines.append({"WavPath": str(wav), "question": row["question"], "answers": row["answers"]})
        prompt = [{"role": "user", "contents": [{"type": "audio", "value": str(wav)}]}]
        records.append({"type": "prompt", "id": number, "data": {"content": prompt}})
        if row["error"] is None:
            audio = str((folder / task / row["audio"]).resolve()) if row["audio"] else ""
            content = json.dumps({"text": row["text"], "audio": audio}, ensure_ascii=False)
            records.append({"type": "inference", "id": number, "data": {"content": content}})
        else:
            records.append({"type": "error", "id": number, "data": {"info": row["error"]}})
    items, replies = output / f"{task}.jsonl", output / f"{task}-replies.jsonl"
    write_lines(items, lines)
    write_lines(replies, records)
    registry = output / "registry" / "dataset" / f"{task}.yaml"
    registry.parent.mkdir(parents=True, exist_ok=True)
    args = {"f_name": str(items.resolve()), "ref_col": "answers"}
    kind = "audio_evals.dataset.dataset.JsonlFile"
    entries = {
        f"echox-{task}-s2t": {"class": kind, "args": {"default_task": "loose-aqa", **args}},
        f"echox-{task}": {"class": kind, "args": {"default_task": "echox-s2s-aqa", **args}},
    }
    write_text(registry, yaml.safe_dump(entries, sort_keys=False))
    return [items, replies, registry]


def _voicebench(run: RunFile, task: TaskEntry, rows: list[Row], folder: Path, output: Path) -> list[Path]:
    """``{model}-{subset}-{split}-audio.jsonl``: the data set's columns and the response, for their scorers."""
    model = re.sub(r"[^A-Za-z0-9.]+", "_", run["subject"]["name"])
    files: dict[str, list[JsonObject]] = {}
    for row in rows:
        subset, split = row["columns"].get("subset") or task["name"], row["columns"].get("split") or "test"
        files.setdefault(f"{model}-{subset}-{split}-audio.jsonl", []).append(
            {**row["columns"], "response": row["text"]}
        )
    for name, lines in files.items():
        write_lines(output / name, lines)
    return [output / name for name in files]


def _uro_bench(run: RunFile, task: TaskEntry, rows: list[Row], folder: Path, output: Path) -> list[Path]:
    return write_uro_bench(task, rows, folder, output)


EXPORTS: dict[str, Callable[[RunFile, TaskEntry, list[Row], Path, Path], list[Path]]] = {
    "ultraeval": _ultraeval,
    "voicebench": _voicebench,
    "uro-bench": _uro_bench,
}
