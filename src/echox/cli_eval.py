"""``echox eval``: measure a model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echox.cli_options import Debug, Device, Model, Threads, guarded, load_model, set_up_torch

if TYPE_CHECKING:
    from echox.evaluation.asr import Judge

eval_app = typer.Typer(help="Measure a model: scorecard, voice, model card.", no_args_is_help=True)
Data = Annotated[Path, typer.Option(help="Folder of the nano corpus.")]
JudgeName = Annotated[
    str | None,
    typer.Option(
        help="Encoder folder (default: judge/ in the data, or the embedded one), http://.../v1#model, or a hub id."
    ),
]
WordPenalty = Annotated[float, typer.Option(help="Of a phone judge: log probability that each word costs.")]


@eval_app.command("nano")
@guarded
def evaluate(
    model: Model = "nano",
    data: Data = Path("out/nano"),
    judge: JudgeName = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the records and figures.")] = Path("eval"),
    limit: Annotated[
        int | None, typer.Option(min=1, help="Items per set, balanced over topics (default: all).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the items.")] = 0,
    word_penalty: WordPenalty = 0.5,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Score a model on held-out paraphrases and voices: what it hears, writes and says. Resumes where it stopped."""
    from echox.evaluation.nano import evaluate_nano

    echox = load_model(model, device, threads)
    metrics = evaluate_nano(echox, judge_of(judge, data, word_penalty), data, output, limit, seed)
    typer.echo(json.dumps(metrics))


@eval_app.command("voice")
@guarded
def evaluate_voice_command(
    data: Data = Path("out/nano"),
    judge: JudgeName = None,
    units: Annotated[Path | None, typer.Option(help="Units manifest (default: units/replies.jsonl).")] = None,
    vocoder: Annotated[Path | None, typer.Option(help="Vocoder folder (default: vocoder/).")] = None,
    unit_language: Annotated[Path | None, typer.Option(help="Its folder (default: unit_language/).")] = None,
    t2c: Annotated[Path | None, typer.Option(help="T2C folder (default: t2c/ if it is there).")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the figures and samples.")] = Path("eval"),
    limit: Annotated[int | None, typer.Option(min=1, help="Held-out replies (default: all).")] = None,
    word_penalty: WordPenalty = 0.5,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Find where words get lost between text and sound: recordings, units, durations, T2C, each heard by the judge."""
    from echox.evaluation.voice import evaluate_voice

    set_up_torch(threads)
    scores = evaluate_voice(
        judge_of(judge, data, word_penalty),
        data,
        units or data / "units" / "replies.jsonl",
        vocoder or data / "vocoder",
        unit_language or data / "unit_language",
        t2c or (data / "t2c" if (data / "t2c" / "config.json").is_file() else None),
        limit,
        output / "voice",
    )
    (output / "voice.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    typer.echo(json.dumps(scores))


@eval_app.command("card")
@guarded
def model_card(
    metrics: Annotated[Path, typer.Option(help="metrics.json of 'echox eval nano'.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The packaged model's folder.")],
    latency: Annotated[Path | None, typer.Option(help="JSON of benchmarks/nano_latency.py --output.")] = None,
    voice: Annotated[Path | None, typer.Option(help="voice.json of 'echox eval voice'.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Markdown file.")] = Path("docs/model_card_nano.md"),
    debug: Debug = False,
) -> None:
    """Write the model card from measured figures and the records of training."""
    from echox.evaluation.report import write_model_card

    typer.echo(str(write_model_card(model, metrics, latency, output, voice)))


def judge_of(judge: str | None, data: Path, word_penalty: float) -> "Judge":
    from echox.evaluation.asr import embedded_judge, open_judge

    lexicon = data / "phones.json"
    if not lexicon.is_file():
        raise ValueError(
            f"{data}: expected the folder of the nano corpus, found no {lexicon.name}; run its recipe first"
        )
    trained = data / "judge"
    return open_judge(judge or (trained if trained.is_dir() else embedded_judge()), lexicon, word_penalty)
