"""The model card of a folder: README.md with the metadata that the hub reads, made from the training record.

No figure in it is written by hand. `evaluation/model_card.py` adds measured scores to the same tables for nano.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from echox.api.loading import EMBEDDED_MODELS, HEADS
from echox.files import JsonObject

CARD_FILE = "README.md"
METADATA = {
    "library_name": "echox",
    "pipeline_tag": "audio-to-audio",
    "tags": ["echox", "speech-to-speech", "spoken-dialogue"],
}


def folder_card(name: str, record: JsonObject | None, folder: Path, metadata: JsonObject) -> str:
    """README.md of a saved model.

    Args:
        name: of the model, the title of the card.
        record: ``training_record.json``; None: the card says that there is no record.
        folder: folder of the model's other files, for their size.
        metadata: additions and replacements for the metadata: license, language, base_model, datasets ...
    """
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != CARD_FILE]
    head = yaml.safe_dump({**METADATA, **metadata}, sort_keys=False, allow_unicode=True).strip()
    sections = [
        f"---\n{head}\n---",
        f"# {name}",
        "A speech-to-speech model: it listens to a spoken question, writes the answer and speaks it (EchoX, arXiv "
        "2509.09174).",
        f'```python\nfrom echox import EchoX\n\nmodel = EchoX.from_pretrained("{_loaded_as(name)}")\n'
        'reply = model.generate("question.wav")\n```',
        "\n".join(["## How it was trained", "", *(training_table(record) if record else ["No record was kept."])]),
        "\n".join(["## Size", "", *size_table(record or {}, sum(file.stat().st_size for file in files) / 1e6)]),
    ]
    return "\n\n".join(sections) + "\n"


def _loaded_as(name: str) -> str:
    """What `EchoX.from_pretrained` takes: an embedded model or a hub id by name, else a folder, wherever it lies."""
    return name if name in EMBEDDED_MODELS or name.count("/") == 1 else "path/to/this/folder"


def training_table(record: JsonObject) -> list[str]:
    """Every stage, then the heads beside the weights, with commit, seed, cost and first held-out figures."""
    rows = []
    stages = record.get("stages", [record] if "stage" in record else [])
    for stage in [*stages, *record.get(HEADS, {}).values()]:
        cost, environment = stage.get("cost", {}), stage.get("environment", {})
        minutes = [f"{cost[name] / 60:.0f}" if name in cost else "" for name in ("wall_s", "cpu_s")]
        commit = commit_text(environment)
        rows.append(
            [
                f"`{run_name(stage)}`",
                f"`{commit}`" if commit else "",
                str(stage.get("seed", "")),
                str(stage.get("steps", "")),
                *minutes,
                _key_metrics(stage.get("metrics", {})),
            ]
        )
    heads = ["stage", "commit", "seed", "steps", "wall min", "CPU min", "held-out metrics"]
    lead = (
        "A `+` marks uncommitted changes at the time. Each stage's full recipe and environment are in "
        "`training_record.json` beside the weights."
    )
    return [lead, "", *markdown_table(heads, rows)]


def commit_text(environment: JsonObject) -> str:
    """The commit that a record's environment names, with "+" after it for uncommitted changes; "" if none is known."""
    return str(environment.get("commit") or "")[:9] + ("+" if environment.get("dirty") else "")


def size_table(record: JsonObject, megabytes: float) -> list[str]:
    """Size of the folder, and parameters by part if the record has them."""
    recipe = record.get("recipe", {})
    stored = f", weights stored as {recipe['dtype']}" if "dtype" in recipe else ""
    lines = [f"{megabytes:.1f} MB in one folder{stored}."]
    parts = record.get("parameters_by_part", {})
    rows = [[f"`{name}`", f"{count / 1e6:.2f}"] for name, count in parts.items() if count]
    if rows:
        rows.append(["all", f"{record.get('parameters', sum(parts.values())) / 1e6:.2f}"])
        lines += ["", *markdown_table(["part", "million parameters"], rows)]
    return lines


def run_name(record: JsonObject) -> str:
    """The name of a run: its output folder's, since one stage may have several recipes (encoder, judge)."""
    folder = record.get("recipe", {}).get("training", {}).get("output_dir")
    return Path(folder).name if folder else str(record.get("stage"))


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table.

    Raises:
        ValueError: a row with more or fewer cells than the head, which pages would show shifted or not at all.
    """
    for row in rows:
        if len(row) != len(heads):
            raise ValueError(f"expected rows of {len(heads)} cells, as the head {list(heads)}, found {list(row)}")
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _key_metrics(metrics: JsonObject, most: int = 4) -> str:
    """The first figures of a stage, in its own order; tables by topic (names with a slash) are left out."""
    chosen = [(name, value) for name, value in metrics.items() if "/" not in name and isinstance(value, int | float)]
    return ", ".join(f"{name} {value:.3g}" for name, value in chosen[:most])
