"""The latency-quality curve of the compared speech policies, as a figure and as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from echox.api.card import markdown_table
from echox.evaluation.scoring.schema import JsonObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {
    "whole": "s",
    "reference": "D",
    "semantic": "o",
    "punctuation": "P",
    "fixed": "X",
    "early_first": "^",
    "word_by_word": "*",
}


def draw_curve(result: JsonObject, path: Path) -> None:
    """Draw first audio against word errors and accuracy: one mark for each policy, bars of 95 %.

    Args:
        result: of `compare_policies`, with a judge.
        path: PNG file.

    Raises:
        ValueError: matplotlib is not installed, or the replies were not judged.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError("expected matplotlib to draw the curve, found none; pip install 'echox[eval]'") from error
    policies = result["policies"]
    if any("reply_wer" not in policy["all"] for policy in policies.values()):
        raise ValueError("expected judged replies to draw, found none; compare the policies with a judge")
    answered = all("s2s_answer" in policy["all"] for policy in policies.values())
    qualities = ["reply_wer", "s2s_answer"] if answered else ["reply_wer"]
    panels = [(time, quality) for quality in qualities for time in ("ttfa_tokens", "ttfa_s")]
    figure = Figure(figsize=(11, 4.2 * len(panels) / 2 + 0.6), layout="constrained")
    for place, (time, quality) in enumerate(panels, start=1):
        axes = figure.add_subplot(len(panels) // 2, 2, place)
        _panel(axes, policies, time, quality)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    questions = ", ".join(f"{count} {name}" for name, count in result["questions"].items())
    figure.suptitle(f"First audio against quality: {questions}; {result['threads']} thread(s)", fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _panel(axes: Axes, policies: JsonObject, time: str, quality: str) -> None:
    from matplotlib import colormaps

    colours = [colormaps["tab20"](place) for place in range(20)]
    scale = 1000.0 if time.endswith("_s") else 1.0
    for number, (label, policy) in enumerate(policies.items()):
        figures = policy["all"]
        x, late = scale * figures[time]["p50"], scale * figures[time]["p95"]
        value = figures[quality]
        y, below, above = (
            100 * part for part in (value["mean"], value["mean"] - value["low"], value["high"] - value["mean"])
        )
        colour = colours[number % len(colours)]
        # Drawn faintly: all policies answer the same questions, so their differences vary less than this interval.
        axes.errorbar(x, y, yerr=[[below], [above]], color=colour, alpha=0.25, linewidth=1)
        if scale == 1:  # the tail in milliseconds depends on the machine, not on the policy
            axes.plot([x, late], [y, y], color=colour, alpha=0.5, linewidth=1)
        axes.plot(x, y, MARKERS[policy["policy"]], color=colour, markersize=9, label=label)
    axes.set(
        xlabel="text tokens before the first audio (median, line to p95)"
        if scale == 1
        else "first audio, ms after the question (median)",
        ylabel="word errors of the speech, %" if quality == "reply_wer" else "S2S accuracy by answer, %",
    )
    axes.grid(alpha=0.2)


def policy_table(result: JsonObject) -> list[str]:
    """One line for each policy: first audio, quality, segments, speed, gaps."""
    heads = [
        "policy",
        "first audio, tokens p50 / p95",
        "ms p50 / p95",
        "processor ms",
        "reply WER",
        "S2S",
        "segments",
        "rtf",
        "stalls",
    ]
    rows = []
    for label, policy in result["policies"].items():
        figures = policy["all"]
        name = f"**{label}**" if label == result["recommended"] else label
        rows.append(
            [
                name,
                f"{figures['ttfa_tokens']['p50']:.0f} / {figures['ttfa_tokens']['p95']:.0f}",
                f"{1000 * figures['ttfa_s']['p50']:.0f} / {1000 * figures['ttfa_s']['p95']:.0f}",
                f"{1000 * figures['ttfa_cpu_s']['p50']:.0f}",
                _percent(figures.get("reply_wer")),
                _percent(figures.get("s2s_answer")),
                f"{figures['segments']:.2f}",
                f"{figures['rtf']:.3f}",
                f"{figures['underruns']} of {figures['replies']}",
            ]
        )
    return markdown_table(heads, rows)


def _percent(value: JsonObject | None) -> str:
    return "-" if value is None else f"{100 * value['mean']:.1f} %"
