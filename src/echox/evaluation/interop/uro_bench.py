"""A run in the layout in which URO-Bench's scripts find the answers of a model.

``eval/<track>/<set>/``: ``audio/0000.wav``, ``question_text.jsonl``, ``gt_text.jsonl`` and ``pred_text.jsonl``, and of
a judged run ``asr_text.jsonl``, which their ``asr_for_eval.py`` makes otherwise. Lines are numbered, not named.
Source: https://github.com/Ruiqi-Yan/URO-Bench, examples/example-test/inference_for_eval.py (2025-09).
"""

from __future__ import annotations

from pathlib import Path

from echox.audio import load_audio, save_audio
from echox.evaluation.scoring.schema import Row, TaskEntry
from echox.evaluation.scoring.uro import uro_reference
from echox.files import write_lines

TRACKS = ("basic", "pro")
AUDIO_RATE_HZ = 24000
NOTHING = " "
"""What stands in their files for the transcript of a reply without speech."""


def set_folder(source: str, task: str) -> Path:
    """``<track>/<set>`` of the data that a run was asked from; ``<task>`` where the path does not say it."""
    path = Path(source)
    if path.suffix:
        path = path.parent
    return Path(path.parent.name, path.name) if path.parent.name in TRACKS else Path(task)


def write_uro_bench(task: TaskEntry, rows: list[Row], folder: Path, output: Path) -> list[Path]:
    """Write one task.

    Args:
        task: its entry in ``run.json``.
        rows: replies.
        folder: of the run.
        output: empty folder; what stands in it under ``eval/`` is their ``infer_output_dir``.

    Returns:
        The JSONL files.

    Raises:
        ValueError: a question whose words are not known.
    """
    silent = next((row for row in rows if not row["question"]), None)
    if silent is not None:
        raise ValueError(f"{task['name']}: expected the words of every question, found none of {silent['id']!r}")
    place = output / "eval" / set_folder(task["source"], task["name"])
    (place / "audio").mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(rows):
        if row["audio"]:
            wav = place / "audio" / f"{number:04d}.wav"
            save_audio(wav, load_audio(folder / task["name"] / row["audio"], AUDIO_RATE_HZ), AUDIO_RATE_HZ)
    columns = {
        "question_text": [row["question"] for row in rows],
        "gt_text": [uro_reference(row) for row in rows],
        "pred_text": [row["text"] for row in rows],
    }
    if all(row["said"] is not None for row in rows):
        columns["asr_text"] = [row["said"] or NOTHING for row in rows]
    paths = []
    for name, texts in columns.items():
        path = place / f"{name}.jsonl"
        write_lines(path, [{f"{number:04d}": text} for number, text in enumerate(texts)])
        paths.append(path)
    return paths
