"""The model card of nano, written from measured figures: none of them is typed by hand."""

from __future__ import annotations

import functools
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from echox.api.card import markdown_table, run_name, size_table, training_table
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.studies.conditions import conditions_table
from echox.evaluation.subjects.local import weights_notice, weights_of_package
from echox.files import folder_bytes, write_text
from echox.training.records.record import RECORD_NAME, log_entries

Score = JsonObject | float
"""A number, or a mean with its interval and count."""

CURVES = "nano_learning_curves.png"
DIGITS = {"MB": 1, "ms": 0}
SETS = {
    "heldout_seen_voices": "seen voices",
    "heldout_new_voices": "held-out voices",
    "multi_turn": "several turns",
}

PURPOSE = """\
Nano takes a spoken (or typed) question in English, writes the answer and speaks it. It is the whole method of EchoX
(arXiv 2509.09174) at a size that two CPU cores can train from scratch, made to be run, read, tested and studied."""

LIMITS = """\
- **A small closed world.** It knows the facts of its corpus: some sixty countries, animals, opposites, colours, days
  and months, times tables, definitions, spelling, small talk. Anything else it answers wrongly and with confidence.
- **English only**, in short sentences; numbers in words.
- **One short question at a time.** It was trained on single questions of one to five seconds. Two in a row are
  transcribed badly, longer speech worse (docs/experiments.md); nothing is cut, but little is understood.
- **One voice**, flite's `slt`, through a small source-filter vocoder: intelligible, not natural.
- **Synthetic speech only.** All training questions were spoken by flite or espeak-ng, some with noise or an accent.
  Rooms were neither trained nor measured; of telephone prompts by a person it hears 3 % of the words.
- **No safety training.** Do not build a product on it."""

HOW = """\
Held-out questions are paraphrases whose wording no training question has; held-out voices do not occur in training.
Decoding is greedy. *Exact* means the same words as the reference, punctuation apart; *answer* means that the words of
the answer occur in a row; *UltraEval* is the match rule of UltraEval-Audio on the written reply. S2S scores the judge's
transcript of the spoken reply, which other recognisers hear otherwise (see *The judge*); a reply that could not be
spoken is wrong. Intervals are 95 % bootstrap intervals over items. They do not cover the spread over training seeds:
this is one model, trained once. Parts of the recipe were chosen with held-out questions in view (docs/experiments.md),
so the figures of these sets are mildly optimistic."""


@dataclass(frozen=True)
class Headline:
    """A figure of the card's first table: its name, where it is found, and its unit."""

    name: str
    find: Callable[[Card], Score | None]
    unit: str = "%"


@dataclass(frozen=True)
class Card:
    """All measurements that a card is written from."""

    metrics: JsonObject
    latency: JsonObject | None
    voice: JsonObject | None
    record: JsonObject
    megabytes: float | None
    conditions: JsonObject | None = None
    agreement: Sequence[JsonObject] = ()
    other_weights: str | None = None


def _score(part: str, name: str) -> Callable[[Card], Score | None]:
    # Without a judge the speech has no figures; all others must be there.
    spoken = name.startswith(("s2s", "reply_wer"))
    return lambda card: card.metrics[part].get(name) if spoken else card.metrics[part][name]


def _time(name: str) -> Callable[[Card], Score | None]:
    return lambda card: (card.latency or {}).get(name)


def _first_audio_ms(card: Card) -> float | None:
    """Median over replies of one segment: the time until a one-sentence answer begins."""
    times = _time("ttfa_one_segment_s")(card) or _time("ttfa_s")(card)
    return 1000 * times["p50"] if isinstance(times, dict) else None


HEADLINES = (
    Headline("T2T exact, held-out paraphrases", _score("typed", "t2t_exact")),
    Headline("CTC transcription WER, seen voices", _score("heldout_seen_voices", "transcription_wer")),
    Headline("CTC transcription WER, held-out voices", _score("heldout_new_voices", "transcription_wer")),
    Headline("S2T exact, seen voices", _score("heldout_seen_voices", "s2t_exact")),
    Headline("S2T exact, held-out voices", _score("heldout_new_voices", "s2t_exact")),
    Headline("S2S answer in the judge's transcript, seen voices", _score("heldout_seen_voices", "s2s_answer")),
    Headline("S2S every word in the judge's transcript, seen voices", _score("heldout_seen_voices", "s2s_exact")),
    Headline("reply speech against reply text, WER", _score("heldout_seen_voices", "reply_wer")),
    Headline("rtf, one thread", _time("rtf_overall"), ""),
    Headline("first audio after the question, one-sentence answer, p50", _first_audio_ms, "ms"),
    Headline("size of the model folder", lambda card: card.megabytes, "MB"),
)


def write_model_card(
    model_dir: str | Path,
    metrics_json: str | Path,
    latency_json: str | Path | None,
    path: str | Path,
    voice_json: str | Path | None = None,
    conditions_json: str | Path | None = None,
    agreement_json: str | Path | None = None,
) -> Path:
    """Write the card (and, with matplotlib, learning curves into ``images/`` beside it).

    Args:
        model_dir: the packaged model, with the records of its stages.
        metrics_json: from ``echox eval run --task nano``.
        latency_json: from ``benchmarks/nano_latency.py --output``; None: not measured.
        path: the Markdown file.
        voice_json: from ``echox eval voice``; None: left out.
        conditions_json: from ``benchmarks/hearing_conditions.py --output``; None: left out.
        agreement_json: from ``echox eval agreement --output``, nano's own judge named first; None: left out.

    Raises:
        ValueError: a file is missing, not JSON, or lacks a figure.
    """
    model_dir, path = Path(model_dir), Path(path)
    speed = _read(latency_json) if latency_json is not None else None
    ships = weights_of_package(model_dir)
    card = Card(
        metrics=_read(metrics_json),
        latency=_figures(speed) if speed is not None else None,
        voice=_read(voice_json) if voice_json is not None else None,
        record=_read(model_dir / RECORD_NAME),
        megabytes=folder_bytes(model_dir) / 1e6,
        conditions=_figures(_read(conditions_json)) if conditions_json is not None else None,
        agreement=_read_list(agreement_json) if agreement_json is not None else [],
        other_weights=weights_notice(speed.get("weights"), ships) if speed is not None else None,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    curves = draw_learning_curves(card.record.get("stages", []), path.parent / "images" / CURVES)
    try:
        text = render(card, f"images/{CURVES}" if curves else None)
    except KeyError as error:
        raise ValueError(
            f"{metrics_json}: expected the metrics of echox eval run --task nano, found no {error}; run it again"
        ) from error
    write_text(path, text)
    return path


def score_tables(metrics: JsonObject, megabytes: float | None) -> str:
    """The first two tables of the card, for a run without a card: speed was not measured in it.

    Args:
        metrics: the content of ``metrics.json``.
        megabytes: size of the model's folder; None: unknown.
    """
    card = Card(metrics, None, None, {}, megabytes)
    return "\n".join([*_headlines(card), "", *_scores(card)])


def render(card: Card, curves: str | None) -> str:
    """The card as Markdown."""
    environment = card.record.get("environment", {})
    made = f"Packaged at commit `{str(environment.get('commit'))[:12]}`; weights `{card.metrics['model']}`."
    sections = [
        "# Model card: nano",
        "<!-- Written by `echox eval card` from measured figures; edit src/echox/evaluation/model_card.py instead. -->",
        PURPOSE,
        "\n".join(["## Main figures", "", HOW, "", *_headlines(card)]),
        "\n".join(["## All scores", "", *_scores(card)]),
        *(["\n".join(["## Silence, noise and level", "", *_conditions(card.conditions)])] if card.conditions else []),
        "\n".join(["## The judge", "", *_judge(card)]),
        "\n".join(["## By topic", "", *_topics(card)]),
        "\n".join(["## Speed", "", *_speed(card)]),
        "\n".join(["## How it was trained", "", *_training(card, curves), "", made]),
        "\n".join(["## Size", "", *size_table(card.record, card.megabytes or 0.0)]),
        "## What nano cannot do\n\n" + LIMITS,
    ]
    return _wrapped("\n\n".join(sections)) + "\n"


def _conditions(figures: JsonObject) -> list[str]:
    rows = figures["conditions"]
    lead = (
        f"Exact replies to {rows[0]['count']} held-out spoken questions, half of them in held-out voices, by what "
        "surrounds the question. Columns: gain of the speech; the noise has -60 dBFS at every gain."
    )
    return [lead, "", conditions_table(rows)]


def _wrapped(text: str) -> str:
    """The text with lines of prose of at most 120 columns; tables keep their lines."""
    wrap = functools.partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
    return "\n".join(line if line.startswith("|") else wrap(line) for line in text.split("\n"))


def _headlines(card: Card) -> list[str]:
    rows = []
    for headline in HEADLINES:
        found = headline.find(card)
        if found is None or (isinstance(found, dict) and found["mean"] is None):
            rows.append([headline.name, "not measured", ""])
            continue
        count = str(found["count"]) if isinstance(found, dict) else ""
        rows.append([headline.name, _figure(found, headline.unit), count])
    return markdown_table(["figure", "measured", "items"], rows)


def _scores(card: Card) -> list[str]:
    names = {
        "transcription_wer": "transcription WER (CTC)",
        "s2t_exact": "S2T exact",
        "s2t_answer": "S2T answer",
        "s2t_ultraeval": "S2T UltraEval",
        "s2s_exact": "S2S exact",
        "s2s_answer": "S2S answer",
        "reply_wer": "reply speech against reply text, WER",
    }
    rows = [[label, *(_known(_score(part, name)(card)) for part in SETS)] for name, label in names.items()]
    counts = {
        "unspoken_replies": "replies without speech",
        "partly_unspoken_replies": "replies with a failed segment",
        "errors": "questions that failed",
    }
    rows += [[label, *(str(card.metrics[part][name]) for part in SETS)] for name, label in counts.items()]
    typed = card.metrics["typed"]
    lines = markdown_table(["", *SETS.values()], rows)
    lines += [
        "",
        f"Typed questions (T2T): exact {_figure(typed['t2t_exact'])}, answer {_figure(typed['t2t_answer'])}, "
        f"{typed['t2t_exact']['count']} items.",
    ]
    for part in ("heldout_seen_voices", "heldout_new_voices"):
        cells = card.metrics[part].get("s2t_against_s2s_exact")
        if cells is None:
            continue
        lines += [
            "",
            f"Of the replies to {SETS[part]}: {cells['both_right']} exact in writing and aloud, "
            f"{cells['only_written_right']} only in writing, {cells['only_spoken_right']} only aloud, "
            f"{cells['both_wrong']} neither.",
        ]
    return lines


def _judge(card: Card) -> list[str]:
    judge = card.metrics["judge"]
    own = judge["recordings"]
    lines = [
        f"{judge['name']}. It was trained on original speech only, never on speech made from units. Its own word "
        f"error rate on {own['count']} held-out original recordings of the reply voice is "
        f"{_number(own['wer'])}: no figure of speech can be much better than that."
    ]
    if card.agreement:
        lines += ["", other_judges(card.agreement)]
    if card.voice is not None:
        steps = {
            "recordings": "original recordings",
            "true_durations": "their units through the vocoder, true durations",
            "predicted_durations": "their units through unit language and vocoder",
            "t2c": "units written by T2C from the text",
        }
        rows = [[label, _number(card.voice[kind]["wer"])] for kind, label in steps.items() if kind in card.voice]
        lines += [
            "",
            "Where words get lost between text and sound:",
            "",
            *markdown_table(["speech", "WER"], rows),
        ]
    return lines


def other_judges(agreement: Sequence[JsonObject]) -> str:
    """How often other recognisers find the same replies of nano right as its own judge, which was named first."""
    said = []
    for one in agreement:
        for task, figures in one["tasks"].items() if one["subject"] == "nano" else ():
            own = next(iter(figures["judges"]))
            for pair in figures["pairs"]:
                kappa = pair["kappa"]
                if pair["judges"][0] == own and "mean" in kappa:
                    spread = f"({kappa['low']:.2f} to {kappa['high']:.2f})"
                    said.append(f"{kappa['mean']:.2f} {spread} with {pair['judges'][1]}, {kappa['count']} of {task}")
    return (
        "Whether a reply is right aloud depends on who listens. Cohen's kappa of its verdicts (0: as chance would have "
        f"it, 1: always the same), docs/agreement.json: {'; '.join(said)}. So S2S here is a figure of this judge too."
    )


def _topics(card: Card) -> list[str]:
    typed = card.metrics["typed"]["t2t_exact_by_topic"]
    seen, new = (card.metrics[part] for part in ("heldout_seen_voices", "heldout_new_voices"))
    columns = [typed, *(part[name] for part in (seen, new) for name in ("s2t_exact_by_topic", "s2s_exact_by_topic"))]
    rows = [
        [topic.replace("_", " "), *(_number(column[topic]["mean"]) if topic in column else "" for column in columns)]
        for topic in sorted(typed)
        if "/" not in topic  # of several turns: too few each
    ]
    heads = ["exact", "T2T", "S2T seen", "S2S seen", "S2T held-out", "S2S held-out"]
    return markdown_table(heads, rows)


def _speed(card: Card) -> list[str]:
    figures = card.latency
    if figures is None:
        return ["Not measured."]
    names = {
        "ttfa_s": "end of question to first audio",
        "ttfa_one_segment_s": "the same, answers of one segment",
        "first_text_s": "end of question to first text",
        "total_s": "end of question to the whole reply",
        "encode_s": "encoding of the question",
        "prefill_s": "prompt",
        "text_s": "text",
        "echo_s": "states to units",
        "vocoder_s": "units to sound",
        "max_underrun_s": "how late the latest chunk comes",
    }
    rows = [
        [label, *(f"{figures[name][key] * 1000:.0f}" for key in ("mean", "p50", "p95"))]
        for name, label in names.items()
        if figures.get(name)
    ]
    lead = (
        f"Model only, streaming, {figures['questions']} held-out questions of {figures['question_s']['mean']:.1f} s, "
        f"replies of {figures['audio_s']['mean']:.1f} s; {figures['threads']} thread(s) on {figures['machine']}, "
        f"torch {figures['torch']}. Real-time factor {figures['rtf_overall']:.3f} (compute time per second of speech)."
    )
    table = markdown_table(["milliseconds", "mean", "p50", "p95"], rows)
    return [lead, "", *table, *(["", card.other_weights] if card.other_weights else [])]


def _training(card: Card, curves: str | None) -> list[str]:
    lines = ["From scratch by `runs/nano.sh`; text and seeds are the only inputs.", "", *training_table(card.record)]
    return lines + (["", f"![Learning curves of every stage]({curves})"] if curves else [])


def draw_learning_curves(stages: Sequence[JsonObject], path: Path) -> bool:
    """One panel for each stage: training loss and its first held-out figures. False without matplotlib or logs.

    Reads ``metrics.jsonl`` in each stage's ``training.output_dir``, if it is still there.
    """
    histories = {}
    for stage in stages:
        folder = stage.get("recipe", {}).get("training", {}).get("output_dir")
        entries = log_entries(Path(folder)) if folder else []
        if entries:
            histories[run_name(stage)] = sorted(entries, key=lambda entry: entry["step"])
    if not histories:
        return False
    try:
        from matplotlib.figure import Figure
    except ImportError:  # the "eval" extra
        return False
    columns = min(3, len(histories))
    rows = -(-len(histories) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.2 * rows), layout="constrained")
    for place, (name, history) in enumerate(histories.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        trained = [entry for entry in history if entry["kind"] == "train" and "loss" in entry]
        axes.plot([entry["step"] for entry in trained], [entry["loss"] for entry in trained], color="0.6", label="loss")
        axes.set(title=name, xlabel="step", yscale="log")
        checked = [entry for entry in history if entry["kind"] != "train"]
        other = axes.twinx()
        for key in [key for key in (checked[-1] if checked else {}) if key not in ("step", "kind") and "/" not in key][
            :3
        ]:
            points = [(entry["step"], entry[key]) for entry in checked if key in entry]
            other.plot(*zip(*points, strict=True), marker=".", label=key)
        axes.legend(loc="lower left", fontsize=7)
        if other.lines:
            other.legend(loc="upper right", fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return True


def _known(value: Score | None) -> str:
    return "not measured" if value is None else _figure(value)


def _figure(value: Score, unit: str = "%") -> str:
    if not isinstance(value, dict):
        return _number(value, unit)
    low, high = (_number(value[key], unit).removesuffix(" %") for key in ("low", "high"))
    return f"{_number(value['mean'], unit)} ({low} to {high})"


def _number(value: float, unit: str = "%") -> str:
    if unit == "%":
        return f"{100 * value:.1f} %"
    return f"{value:.{DIGITS.get(unit, 2)}f} {unit}".rstrip()


def _figures(result: JsonObject) -> JsonObject:
    """The figures of a benchmark's result file; of an older file, which has nothing else, all of it."""
    return result.get("figures", result)


def _read(path: str | Path) -> JsonObject:
    content = _read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}; measure again")
    return content


def _read_list(path: str | Path) -> list[JsonObject]:
    content = _read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: expected a JSON list, found {type(content).__name__}; measure again")
    return content


def _read_json(path: str | Path) -> object:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a JSON file of measured figures, found {error}; measure first") from error
