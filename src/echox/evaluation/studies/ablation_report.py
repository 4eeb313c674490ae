"""Tables and plots of the ablations, from the measurements of `ablations` into ``docs/ablations.md``.

The document is written by hand, except for the parts between ``<!-- table a -->`` and ``<!-- end -->``: they are made
from the measurements, so that no figure is copied by hand.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from echox.api.card import markdown_table
from echox.evaluation.scoring.schema import JsonObject
from echox.files import write_text

SEEN, NEW = "heldout_seen_voices", "heldout_new_voices"
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


def write_report(results: Sequence[JsonObject], rows: dict[str, list[str]], folder: Path) -> None:
    """Tables into ``ablations.md`` (where there is one) and plots into ``images/`` of the folder."""
    by_name: dict[str, list[JsonObject]] = {}
    for result in results:
        by_name.setdefault(result["name"], []).append(result)
    document = folder / "ablations.md"
    if document.is_file():
        write_text(document, renew_tables(document.read_text(encoding="utf-8"), tables(by_name, rows)))
    (folder / "images").mkdir(parents=True, exist_ok=True)
    draw_speech(by_name, rows, folder / "images" / "ablations_speech.png")
    draw_parts(by_name, rows, folder / "images" / "ablations_parts.png")


def tables(by_name: dict[str, list[JsonObject]], rows: dict[str, list[str]]) -> dict[str, str]:
    """A Markdown table of the measured runs for each row of the plan; its columns depend on the stage."""
    return {
        row: _table([(name, by_name[name]) for name in names if name in by_name], row) for row, names in rows.items()
    }


Column = tuple[str, Callable[[JsonObject], float | None], str]
"""Heading, the function that finds the figure in a result, its unit (see `figure`)."""
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
    ("S2T", _get("segments", SEEN, "s2t_answer"), "%"),
    ("S2S", _get("segments", SEEN, "s2s_answer"), "%"),
    ("gap, points", _get("segments", SEEN, "gap"), "p"),
    ("reply WER", _get("segments", SEEN, "reply_wer"), "%"),
    ("unit error", _get("segments", SEEN, "unit_error"), "%"),
    ("new voices: S2S", _get("segments", NEW, "s2s_answer"), "%"),
    ("new voices: unit error", _get("segments", NEW, "unit_error"), "%"),
    ("CPU-s a step", _get("cpu_s_per_step"), ".2f"),
]
COLUMNS: dict[str, list[Column]] = {
    "echo": SPEECH,
    "whole": [
        *[
            (f"{heading}, {way}", _get(way, SEEN, name), "%")
            for way in ("segments", "whole")
            for heading, name in (("S2S", "s2s_answer"), ("reply WER", "reply_wer"), ("unit error", "unit_error"))
        ],
        ("unit error, segments after a tail", _get("continued", SEEN, "unit_error"), "%"),
        ("first audio word by word, tokens", _get("segments", SEEN, "first_word_tokens"), ".0f"),
        ("in segments, tokens", _get("segments", SEEN, "first_audio_tokens"), ".0f"),
        ("CPU-s a step", _get("cpu_s_per_step"), ".2f"),
    ],
    "t2c": [
        ("WER of its speech", _get("t2c", "wer"), "%"),
        ("nats per unit", _get("t2c", "nats_per_unit"), ".3f"),
        ("unit words per word", _get("t2c", "unit_words_per_word"), ".2f"),
        ("steps per word", _get("t2c", "steps_per_word"), ".2f"),
        ("decoding, ms per word", _get("t2c", "decode_ms_per_word"), ".2f"),
        ("CPU-s a step", _get("cpu_s_per_step"), ".3f"),
    ],
    "s2t": [
        ("CTC WER", _get("s2t", SEEN, "ctc_wer"), "%"),
        ("S2T", _get("s2t", SEEN, "s2t_answer"), "%"),
        ("S2T loss", _get("s2t", SEEN, "s2t_loss"), ".3f"),
        ("new voices: CTC WER", _get("s2t", NEW, "ctc_wer"), "%"),
        ("new voices: S2T", _get("s2t", NEW, "s2t_answer"), "%"),
        ("new voices: S2T loss", _get("s2t", NEW, "s2t_loss"), ".3f"),
        ("CPU-s a step", _get("cpu_s_per_step"), ".2f"),
    ],
}
LAYOUTS = {"c": "t2c", "d": "whole", "f": "s2t"}
"""Rows of the plan with another table than echo training: row -> key of `COLUMNS`."""


def _table(runs: Sequence[tuple[str, list[JsonObject]]], row: str) -> str:
    columns = COLUMNS[LAYOUTS.get(row, "echo")]
    lines = []
    for name, results in runs:
        cells = [
            figure([value for result in results if (value := get(result)) is not None], unit)
            for _, get, unit in columns
        ]
        lines.append([f"`{name}`", results[0]["what"], str(len(results)), *cells])
    return "\n".join(markdown_table(["run", "what", "seeds", *(head for head, _, _ in columns)], lines)) + "\n"


def figure(values: Values, unit: str) -> str:
    """The mean over seeds and, of several, their range; "%" and "p" (points) are given as shares of 1."""
    if not values:
        return "-"

    def one(value: float) -> str:
        return f"{100 * value:.1f}" if unit in "%p" else format(value, unit)

    mean = one(sum(values) / len(values)) + (" %" if unit == "%" else "")
    return mean if len(values) == 1 else f"{mean} ({one(min(values))} to {one(max(values))})"


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
