"""A run as Markdown, with the paper's figures beside ours, and as plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from echox.api.card import markdown_table
from echox.evaluation.model_card import score_tables
from echox.evaluation.run_files import ITEMS, SUMMARY_FILE
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.scores import DEFINITIONS
from echox.evaluation.sets.nano import metrics_of
from echox.evaluation.sets.tasks import AVERAGED, KINDS
from echox.files import folder_bytes, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKDOWN_FILE, PLOTS = "summary.md", "plots"
COUNTS = (
    "items",
    "errors",
    "empty_replies",
    "unspoken_replies",
    "partly_unspoken_replies",
    "truncated_replies",
    "answers_that_match_anything",
)

FIGURES = (
    "asr_wer",
    "transcription_wer",
    "text_bleu",
    "asr_bleu",
    "text_repeat",
    "asr_repeat",
    "uro_wer",
    "reply_wer",
    "reply_wer_whisper",
    "control_wer",
    "control_wer_whisper",
    "reply_wer_minus_control",
    "reply_wer_whisper_minus_control",
    "control_s2s",
    "s2s_over_control",
    "words_per_s",
    "units_per_s",
    "unit_words_per_s",
    "compression",
    "unit_words_per_token",
    "first_audio_tokens",
    "utmos",
    "dnsmos",
    "dnsmos_p808",
    "control_utmos",
    "control_dnsmos",
    "control_dnsmos_p808",
)


def write_summary(output: Path, summary: JsonObject) -> Path:
    """Write ``summary.md`` and, with matplotlib, ``plots/*.png``; the path of the first."""
    text = render(summary)
    plots = draw_run(output, summary)
    if plots:
        text += "\n## Plots\n\n" + "\n".join(f"![{path.stem}]({PLOTS}/{path.name})" for path in plots) + "\n"
    write_text(output / MARKDOWN_FILE, text)
    return output / MARKDOWN_FILE


def render(summary: JsonObject) -> str:
    """A run as Markdown."""
    judge = summary["judge"]
    listener = judge.get("name") or f"none ({judge['unjudged']}): spoken figures are not measured"
    own = judge.get("recordings")
    errors = f"; its own word error rate on {own['count']} original recordings: {_percent(own['wer'])}" if own else ""
    lines = [
        "# Evaluation",
        "",
        f"Model: {summary['subject']['name']} (`{summary['subject']['key']}`), echox {summary['echox']}.",
        f"Judge: {listener}{errors}.",
        "",
    ]
    card = metrics_of(summary)
    if card is not None:
        lines += ["## Nano", "", score_tables(card, _folder_mb(summary)), ""]
    answered = {name: task for name, task in summary["tasks"].items() if "s2t" in task}
    if answered:
        lines += ["## Answers", "", *answers_table(answered, summary.get("average")), ""]
    divided = {name: task for name, task in answered.items() if "s2t_by_category" in task}
    if divided:
        lines += ["## By category", "", *category_table(divided), ""]
    compared = {name: task for name, task in answered.items() if "t2t" in task}
    if compared:
        lines += ["## What hearing and speaking leave", "", *ratios_table(compared), ""]
    others = {name: task for name, task in summary["tasks"].items() if any(figure in task for figure in FIGURES)}
    if others:
        lines += ["## Figures", "", *figures_table(others), ""]
    signatures = {task["bleu_signature"] for task in summary["tasks"].values() if "bleu_signature" in task}
    lines += [line for signature in sorted(signatures) for line in (f"BLEU by sacreBLEU: `{signature}`.", "")]
    rows = [[name, *(str(task[count]) for count in COUNTS)] for name, task in summary["tasks"].items()]
    lines += ["## Counts", "", *markdown_table(["task", *(name.replace("_", " ") for name in COUNTS)], rows)]
    failed = [(name, one) for name, task in summary["tasks"].items() for one in task["failed"]]
    if failed:
        lines += ["", "## Failed items", "", *(f"- {name} `{one['id']}`: {one['error']}" for name, one in failed)]
    lines += ["", "## What the figures mean", "", *(f"- **{name}**: {text}." for name, text in DEFINITIONS.items())]
    return "\n".join(lines) + "\n"


def compare(summaries: Sequence[JsonObject]) -> str:
    """Several runs side by side: a row for each run, columns for the accuracies of each task."""
    names = sorted({name for summary in summaries for name, task in summary["tasks"].items() if "s2t" in task})
    spoken = [name for summary in summaries for name in summary["tasks"] if "s2s_exact" in summary["tasks"][name]]
    rows = []
    for summary in summaries:
        row = [summary["subject"]["name"]]
        for name in names:
            task = summary["tasks"].get(name, {})
            row += [_accuracy(task.get("s2t")), _accuracy(task.get("s2s"))]
        for name in dict.fromkeys(spoken):
            task = summary["tasks"].get(name, {})
            row += [_figure(task.get("s2t_exact")), _figure(task.get("s2s_exact")), _figure(task.get("reply_wer"))]
        rows.append(row)
    heads = ["model", *(f"{name} {side}" for name in names for side in ("S2T", "S2S"))]
    heads += [f"{name} {part}" for name in dict.fromkeys(spoken) for part in ("S2T exact", "S2S exact", "reply WER")]
    return "\n".join(markdown_table(heads, rows)) + "\n"


def answers_table(tasks: JsonObject, average: dict[str, float] | None) -> list[str]:
    """Accuracies with the paper's beside them, and the 2 x 2 tables."""
    heads = ["task", "S2T strict", "S2T UltraEval", "S2S strict", "S2S UltraEval", "gap (points)", "paper (S2S)"]
    rows = []
    for name, task in tasks.items():
        gap = task["gap"]
        points = (
            "not measured"
            if "not_measured" in gap
            else f"{100 * gap['mean']:.1f} ({100 * gap['low']:.1f} to {100 * gap['high']:.1f}{_p(gap)})"
        )
        paper = ", ".join(f"{model} {value}" for model, value in KINDS[task["kind"]].paper)
        rows.append(
            [
                name,
                *(_accuracy(task[side], rule) for side in ("s2t", "s2s") for rule in ("acc_strict", "acc_ultraeval")),
                points,
                paper,
            ]
        )
    if average:
        sides = (average.get(f"{side}_{rule}") for side in ("s2t", "s2s") for rule in ("acc_strict", "acc_ultraeval"))
        paper = ", ".join(f"{model} {_paper_average(model):.1f}" for model, _ in KINDS[AVERAGED[0]].paper)
        rows.append(["average of the three", *("" if side is None else _percent(side) for side in sides), "", paper])
    lines = markdown_table(heads, rows)
    for name, task in tasks.items():
        if "table" in task:
            cells = task["table"]
            lines += [
                "",
                f"{name}: {cells['both_right']} right in writing and aloud, "
                f"{cells['only_written_right']} only in writing, {cells['only_spoken_right']} only aloud, "
                f"{cells['both_wrong']} neither.",
            ]
    return lines


def category_table(tasks: JsonObject) -> list[str]:
    """Strict accuracies of each category, and the share of replies whose answer was unclear."""
    rows = []
    for name, task in tasks.items():
        spoken = task.get("s2s_by_category")
        for category, written in task["s2t_by_category"].items():
            aloud = _percent(spoken[category]["mean"]) if spoken else "not measured"
            rows.append([name, category, str(written["count"]), _percent(written["mean"]), aloud])
        unclear = [_percent(task[side]["unclear"]) if "unclear" in task[side] else "" for side in ("s2t", "s2s")]
        rows.append([name, "unclear, of all", str(task["items"]), *unclear])
    return markdown_table(["task", "category", "items", "S2T strict", "S2S strict"], rows)


def _p(gap: JsonObject) -> str:
    """The test's value; runs that were scored by older versions have none."""
    return f"; p {max(gap['p'], 0.001):.3f}" if "p" in gap else ""


def _paper_average(model: str) -> float:
    figures = [dict(KINDS[name].paper)[model] for name in AVERAGED]
    return sum(figures) / len(figures)


def ratios_table(tasks: JsonObject) -> list[str]:
    """T2T, S2T and S2S of the same questions, and what is left of each in the next."""
    rows = []
    for name, task in tasks.items():
        ratios = [_ratio(task.get(figure)) for figure in ("s2t_over_t2t", "s2s_over_s2t")]
        rows.append([name, *(_accuracy(task.get(side)) for side in ("t2t", "s2t", "s2s")), *ratios])
    return markdown_table(["task", "T2T", "S2T", "S2S", "S2T over T2T", "S2S over S2T"], rows)


def _ratio(value: JsonObject | None) -> str:
    if value is None or "not_measured" in value:
        return "not measured"
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def figures_table(tasks: JsonObject) -> list[str]:
    """The figures of each task that are no accuracies."""
    rates = {figure for figure in FIGURES if "_wer" in figure}
    rows = []
    for figure in FIGURES:
        if any(figure in task for task in tasks.values()):
            rows.append([figure, *(_figure(task.get(figure), figure in rates) for task in tasks.values())])
    return markdown_table(["figure", *tasks], rows)


def _figure(value: JsonObject | float | None, is_share: bool = True) -> str:
    if value is None:
        return ""
    if isinstance(value, dict) and "not_measured" in value:
        return f"not measured: {value['not_measured']}"
    if isinstance(value, dict) and "low" in value:
        return f"{_percent(value['mean'])} ({_percent(value['low'])} to {_percent(value['high'])})"
    number = value["mean"] if isinstance(value, dict) else value
    return _percent(number) if is_share else f"{number:.2f}"


def _accuracy(side: JsonObject | None, rule: str = "acc_strict") -> str:
    if side is None:
        return ""
    if "not_measured" in side:
        return "not measured"
    if rule not in side:
        return ""
    value = side[rule]
    if value is None:
        return "no item left"
    if isinstance(value, dict):
        return _figure(value)
    return _percent(value) + (f", {_percent(side['fail_rate'])} failed" if side["fail_rate"] else "")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _folder_mb(summary: JsonObject) -> float | None:
    folder = summary["subject"].get("folder")
    if not folder or not Path(folder).is_dir():
        return None
    return folder_bytes(folder) / 1e6


def draw_run(output: Path, summary: JsonObject) -> list[Path]:
    """Bars of accuracy, histograms of the replies' word error rates and compression; none without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:  # the "eval" extra
        return []
    drawn = []
    bars = {name: _pair(task) for name, task in summary["tasks"].items() if _pair(task)}
    if bars:
        figure = Figure(figsize=(1.8 + 1.6 * len(bars), 3.6), layout="constrained")
        axes = figure.add_subplot()
        for place, (side, label) in enumerate((("s2t", "written (S2T)"), ("s2s", "spoken (S2S)"))):
            known = [(number, pair[side]) for number, pair in enumerate(bars.values()) if pair.get(side)]
            axes.bar(
                [number + 0.4 * place - 0.2 for number, _ in known],
                [100 * value["mean"] for _, value in known],
                width=0.38,
                label=label,
                yerr=[
                    [100 * max(0.0, value["mean"] - value["low"]) for _, value in known],
                    [100 * max(0.0, value["high"] - value["mean"]) for _, value in known],
                ],
                capsize=3,
            )
        axes.set(ylabel="right, %", ylim=(0, 105), xticks=range(len(bars)))
        axes.set_xticklabels([name.replace("_", "\n") for name in bars], fontsize=8)
        axes.legend(fontsize=8)
        drawn.append(_save(figure, output, "accuracy"))
    for column, label, name in (
        ("reply_wer", "word error rate of a reply's speech against its text", "reply_wer"),
        ("compression", "frames per unit word", "compression"),
    ):
        values = [
            row[column]
            for task in summary["tasks"]
            for row in read_lines(output / task / ITEMS)
            if row.get(column) is not None
        ]
        if values:
            figure = Figure(figsize=(5, 3.2), layout="constrained")
            axes = figure.add_subplot()
            axes.hist(values, bins=30)
            axes.set(xlabel=label, ylabel="replies")
            drawn.append(_save(figure, output, name))
    return drawn


def _pair(task: JsonObject) -> JsonObject:
    """Intervals of right in writing and aloud, by the rule of the task."""
    if "s2t" in task:
        return {side: task[side].get("acc_strict") for side in ("s2t", "s2s")}
    return {side: task[f"{side}_answer"] for side in ("s2t", "s2s") if f"{side}_answer" in task}


def _save(figure: Figure, output: Path, name: str) -> Path:
    path = output / PLOTS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def read_summary(output: Path) -> JsonObject:
    """``summary.json`` of a run.

    Raises:
        ValueError: there is none.
    """
    path = output / SUMMARY_FILE
    if not path.is_file():
        raise ValueError(
            f"{output}: expected the folder of a scored run, found no {path.name}; score it: echox eval score"
        )
    return json.loads(path.read_text(encoding="utf-8"))
