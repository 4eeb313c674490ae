"""Tables and plots of the ablations, from the measurements of `ablations` into ``docs/ablations.md``.

The document is written by hand, except for the parts between ``<!-- table a -->`` and ``<!-- end -->``: they are made
from the measurements, so that no figure is copied by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from echox.api.card import markdown_table
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.studies.ablation_tests import (
    LLAMA,
    NEW,
    READ,
    SEEN,
    T2T,
    WEB,
    question_interval,
    table_of_tests,
)
from echox.files import write_text

Values = list[float]


def renew_tables(document: str, tables: dict[str, str]) -> str:
    """The document with its marked tables replaced.

    Raises:
        ValueError: a mark without a table of that name, or a table without a mark.
    """
    marks = re.findall(r"<!-- table (\w+) -->", document)
    if sorted(marks) != sorted(tables):
        raise ValueError(f"expected one mark for each of the tables {sorted(tables)}, found {sorted(marks)}")
    for name, text in tables.items():
        before, after = re.split(rf"<!-- table {name} -->\n.*?<!-- end -->", document, flags=re.DOTALL)
        document = f"{before}<!-- table {name} -->\n{text}<!-- end -->{after}"
    return document


def write_report(
    results: Sequence[JsonObject], rows: dict[str, list[str]], folder: Path, tests: Sequence[Sequence[str]] = ()
) -> None:
    """Tables into ``ablations.md`` (where there is one) and plots into ``images/`` of the folder."""
    by_name = of_runs(results)
    document = folder / "ablations.md"
    if document.is_file():
        write_text(document, renew_tables(document.read_text(encoding="utf-8"), tables(by_name, rows, tests)))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    draw_speech(by_name, rows, folder / "images" / "ablations_speech.png")
    draw_parts(by_name, rows, folder / "images" / "ablations_parts.png")


def of_runs(results: Sequence[JsonObject]) -> dict[str, list[JsonObject]]:
    """The measurements of each run, one for each seed, by the run's name."""
    by_name: dict[str, list[JsonObject]] = {}
    for result in results:
        by_name.setdefault(result["name"], []).append(result)
    return by_name


def tables(
    by_name: dict[str, list[JsonObject]], rows: dict[str, list[str]], tests: Sequence[Sequence[str]] = ()
) -> dict[str, str]:
    """A Markdown table of the measured runs for each row of the plan, and, if there are pairs to test, "tests"."""
    drawn = {
        row: _table([(name, by_name[name]) for name in names if name in by_name], row) for row, names in rows.items()
    }
    return drawn | ({"tests": table_of_tests(by_name, tests)} if tests else {})


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its own.
        path: keys that lead to the figure in a result.
        unit: see `figure`; "q" is a share of the questions or a word error rate, which gets an interval.
    """

    heading: str
    path: tuple[str, ...]
    unit: str


Metric = tuple[str, Callable[[JsonObject], float | None]]
"""Label of an axis, and the function that finds the figure in a result."""


def _get(*path: str) -> Callable[[JsonObject], float | None]:
    def get(result: JsonObject) -> float | None:
        found: object = result
        for name in path:
            found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, int | float) else None

    return get


SPEECH: list[Column] = [
    Column("S2T", ("segments", SEEN, "s2t_answer"), "q"),
    Column("S2S", ("segments", SEEN, "s2s_answer"), "q"),
    Column("gap, points", ("segments", SEEN, "gap"), "p"),
    Column("reply WER", ("segments", SEEN, "reply_wer"), "%"),
    Column("unit error", ("segments", SEEN, "unit_error"), "%"),
    Column("new voices: S2S", ("segments", NEW, "s2s_answer"), "q"),
    Column("new voices: unit error", ("segments", NEW, "unit_error"), "%"),
    Column("CPU-s a step", ("cpu_s_per_step",), ".2f"),
]
COLUMNS: dict[str, list[Column]] = {
    "echo": SPEECH,
    "whole": [
        *[
            Column(f"{heading}, {way}", (way, SEEN, name), "q" if name == "s2s_answer" else "%")
            for way in ("segments", "whole")
            for heading, name in (("S2S", "s2s_answer"), ("reply WER", "reply_wer"), ("unit error", "unit_error"))
        ],
        Column("unit error, segments after a tail", ("continued", SEEN, "unit_error"), "%"),
        Column("first audio word by word, tokens", ("segments", SEEN, "first_word_tokens"), ".0f"),
        Column("in segments, tokens", ("segments", SEEN, "first_audio_tokens"), ".0f"),
        Column("CPU-s a step", ("cpu_s_per_step",), ".2f"),
    ],
    "asked_whole": [
        *[
            Column(f"{heading}, {way}", (way, LLAMA, name), unit)
            for way in ("segments", "whole")
            for heading, name, unit in (("S2S", "s2s_answer", "q"), ("reply WER", "reply_wer", "%"))
        ],
        Column("segments of a reply", ("segments", LLAMA, "segments"), ".2f"),
    ],
    "t2c": [
        Column("WER of its speech", ("t2c", "wer"), "%"),
        Column("nats per unit", ("t2c", "nats_per_unit"), ".3f"),
        Column("unit words per word", ("t2c", "unit_words_per_word"), ".2f"),
        Column("steps per word", ("t2c", "steps_per_word"), ".2f"),
        Column("decoding, ms per word", ("t2c", "decode_ms_per_word"), ".2f"),
        Column("CPU-s a step", ("cpu_s_per_step",), ".3f"),
    ],
    "lengths": [
        Column("WER of its speech", READ, "q"),
        Column("nats per unit", ("t2c", "nats_per_unit"), ".3f"),
        Column("unit words per word", ("t2c", "unit_words_per_word"), ".2f"),
        Column("unit words of a text", ("t2c", "unit_words_per_text"), ".1f"),
        Column("steps per s of speech", ("t2c", "steps_per_s"), ".1f"),
        Column("decoding, CPU-ms per s of speech", ("t2c", "decode_ms_per_s"), ".2f"),
        Column("without an end", ("t2c", "unfinished"), "%"),
        Column("training steps", ("steps",), ".0f"),
        Column("CPU-s a step", ("cpu_s_per_step",), ".3f"),
        Column("CPU-s of training", ("cpu_s",), ".0f"),
    ],
    "asked": [
        Column("Llama Questions: T2T", ("typed", LLAMA, T2T), "q"),
        Column("S2T", ("segments", LLAMA, "s2t_answer"), "q"),
        Column("S2S", ("segments", LLAMA, "s2s_answer"), "q"),
        Column("gap, points", ("segments", LLAMA, "gap"), "p"),
        Column("Web Questions: T2T", ("typed", WEB, T2T), "q"),
        Column("nats per token of held-out replies", ("reply_nats",), ".3f"),
        Column("reply WER", ("segments", LLAMA, "reply_wer"), "%"),
        Column("unit error", ("segments", LLAMA, "unit_error"), "%"),
        Column("steps", ("steps",), ".0f"),
        Column("CPU-s of training", ("cpu_s",), ".0f"),
    ],
    "s2t": [
        *[
            Column(f"{side}{heading}", ("s2t", split, name), unit)
            for side, split in (("", SEEN), ("new voices: ", NEW))
            for heading, name, unit in (
                ("CTC WER", "ctc_wer", "%"),
                ("S2T", "s2t_answer", "q"),
                ("S2T loss", "s2t_loss", ".3f"),
            )
        ],
        Column("CPU-s a step", ("cpu_s_per_step",), ".2f"),
    ],
}
LAYOUTS = {
    "c": "t2c",
    "d": "whole",
    "f": "s2t",
    "unit_language": "lengths",
    "knowledge_mini": "asked",
    "whole_mini": "asked_whole",
}
"""Rows of the plan with another table than echo training: row -> key of `COLUMNS`."""


def _table(runs: Sequence[tuple[str, list[JsonObject]]], row: str) -> str:
    columns = COLUMNS[LAYOUTS.get(row, "echo")]
    lines = []
    for name, results in runs:
        cells = [
            figure(values_of(results, column.path), column.unit) + _interval_text(results, column) for column in columns
        ]
        lines.append([f"`{name}`", results[0]["what"], str(len(results)), *cells])
    return "\n".join(markdown_table(["run", "what", "seeds", *(column.heading for column in columns)], lines)) + "\n"


def figure(values: Values, unit: str) -> str:
    """The mean over seeds and, of several, their range; "%", "q" and "p" (points) are given as shares of 1."""
    if not values:
        return "-"

    def one(value: float) -> str:
        return f"{100 * value:.1f}" if unit in "%qp" else format(value, unit)

    mean = one(sum(values) / len(values)) + (" %" if unit in "%q" else "")
    return mean if len(values) == 1 else f"{mean} ({one(min(values))} to {one(max(values))})"


def values_of(results: Sequence[JsonObject], path: Sequence[str]) -> Values:
    """A figure of a run, of each seed that has it."""
    get = _get(*path)
    return [value for result in results if (value := get(result)) is not None]


def _interval_text(results: Sequence[JsonObject], column: Column) -> str:
    """The 95 % interval over questions and seeds, in square brackets; empty where it is not known."""
    if column.unit not in "qp":
        return ""
    found = question_interval(results, column.path)
    return f" [{100 * found.low:.1f} to {100 * found.high:.1f}]" if found else ""


def draw_speech(by_name: dict[str, list[JsonObject]], rows: dict[str, list[str]], path: Path) -> None:
    """Unit error, reply WER and S2S of every run of rows a, b, d, e; each seed a dot."""
    panels = [row for row in ("a", "b", "d", "e") if row in rows]
    metrics = [
        ("unit error, %", _get("segments", SEEN, "unit_error")),
        ("reply WER, %", _get("segments", SEEN, "reply_wer")),
        ("S2S accuracy, %", _get("segments", SEEN, "s2s_answer")),
    ]
    _draw(by_name, [(f"row {row}", rows[row], metrics) for row in panels], path)


def draw_parts(by_name: dict[str, list[JsonObject]], rows: dict[str, list[str]], path: Path) -> None:
    """Rows c and f."""
    t2c = [
        ("WER of speech, %", _get("t2c", "wer")),
        ("steps per word", _get("t2c", "steps_per_word")),
        ("ms per word", _get("t2c", "decode_ms_per_word")),
    ]
    s2t = [
        ("CTC WER, %", _get("s2t", SEEN, "ctc_wer")),
        ("S2T accuracy, %", _get("s2t", SEEN, "s2t_answer")),
        ("S2T loss", _get("s2t", SEEN, "s2t_loss")),
    ]
    _draw(
        by_name, [(f"row {row}", rows[row], metrics) for row, metrics in (("c", t2c), ("f", s2t)) if row in rows], path
    )


def _draw(
    by_name: dict[str, list[JsonObject]], panels: Sequence[tuple[str, list[str], list[Metric]]], path: Path
) -> None:
    from matplotlib.figure import Figure

    panels = [(title, [name for name in names if name in by_name], metrics) for title, names, metrics in panels]
    panels = [panel for panel in panels if panel[1]]
    if not panels:
        return
    heights = [len(names) for _, names, _ in panels]
    picture = Figure(figsize=(11, 1.2 + 0.42 * sum(heights) + 0.7 * len(panels)), layout="constrained")
    axes = picture.subplots(len(panels), 3, squeeze=False, height_ratios=heights)
    for line, (title, measured, metrics) in enumerate(panels):
        for column, (label, get) in enumerate(metrics):
            axis = axes[line][column]
            for place, name in enumerate(measured):
                scale = 100 if label.endswith("%") else 1
                values = [scale * value for result in by_name[name] if (value := get(result)) is not None]
                if values:
                    axis.barh(place, sum(values) / len(values), height=0.6, color="#7aa6c2" if place else "#2f6690")
                axis.plot(values, [place] * len(values), "o", color="black", markersize=3)
            axis.set_yticks(range(len(measured)), measured if column == 0 else [])
            axis.invert_yaxis()
            axis.set_xlabel(label)
            axis.spines[["top", "right"]].set_visible(False)
            if column == 0:
                axis.set_title(title, loc="left")
    picture.savefig(path, dpi=110)
