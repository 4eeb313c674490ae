"""The report of kept and dropped clips, in hours and by reason: JSON, Markdown, and a plot of the distributions."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from echox.files import JsonObject, write_text
from echox.preparation.clips import Dropped

_MEASURES = (
    ("duration_s", "duration (s)"),
    ("words_per_s", "speaking rate (words/s)"),
    ("silence_ratio", "part of silence"),
    ("wer", "word error rate"),
)
_BINS = 12


def make_report(kept: Sequence[JsonObject], dropped: Sequence[Dropped], extra: JsonObject, output: Path) -> JsonObject:
    """Write ``report.json``, ``report.md`` and, where matplotlib is installed, ``report.png``; return the figures."""
    reasons: Counter[str] = Counter(item.reason for item in dropped)
    hours: dict[str, float] = defaultdict(float)
    for item in dropped:
        hours[item.reason] += item.duration_s / 3600
    figures = {
        "kept_clips": len(kept),
        "kept_hours": round(sum(clip["duration_s"] for clip in kept) / 3600, 4),
        "dropped_clips": len(dropped),
        "dropped_hours": round(sum(hours.values()), 4),
        "reasons": {name: {"clips": count, "hours": round(hours[name], 4)} for name, count in reasons.most_common()},
        **extra,
    }
    values = {name: [clip[name] for clip in kept if clip.get(name) is not None] for name, _ in _MEASURES}
    lines = ["# Data report", "", "| | clips | hours |", "|---|---:|---:|"]
    lines += [f"| **kept** | {figures['kept_clips']} | {figures['kept_hours']:.2f} |"]
    lines += [f"| {name} | {row['clips']} | {row['hours']:.2f} |" for name, row in figures["reasons"].items()]
    lines += [f"| **dropped** | {figures['dropped_clips']} | {figures['dropped_hours']:.2f} |", ""]
    for name, title in _MEASURES:
        if values[name]:
            lines += [f"## {title}", "", "```text", *_bars(values[name]), "```", ""]
    lines += ["Every dropped clip, with its reason: `dropped.jsonl`.", ""]
    if _draw({title: values[name] for name, title in _MEASURES if values[name]}, output / "report.png"):
        lines += ["![distributions](report.png)", ""]
    write_text(output / "report.md", "\n".join(lines))
    write_text(output / "report.json", json.dumps(figures, indent=1) + "\n")
    return figures


def _bars(values: Sequence[float]) -> list[str]:
    counts, edges = np.histogram(values, _BINS)
    widest = max(int(counts.max()), 1)
    return [
        f"{low:8.2f} - {high:8.2f} {count:8d} {'#' * round(40 * count / widest)}"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]


def _draw(values: dict[str, Sequence[float]], path: Path) -> bool:
    try:
        import matplotlib
    except ImportError:  # the plot needs the extra "eval"; the Markdown has the same as bars
        return False
    if not values:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(values), figsize=(3.2 * len(values), 2.6), squeeze=False)
    for axis, (title, numbers) in zip(axes[0], values.items(), strict=True):
        axis.hist(numbers, bins=40, color="#4878a8")
        axis.set_xlabel(title)
        axis.set_yticks([])
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return True
