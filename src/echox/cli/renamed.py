"""Old names of commands, for one release: each names the new command on stderr, then does the same as before."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, ParamSpec

import typer

from echox.cli.common.options import (
    Data,
    Debug,
    Device,
    JudgeName,
    Model,
    Threads,
    WordPenalty,
    guarded,
    judge_of,
    load_model,
)
from echox.cli.data import data_app
from echox.cli.evaluation.eval import eval_app
from echox.cli.evaluation.studies import gap, trigger
from echox.cli.run import run

P = ParamSpec("P")


@guarded
def evaluate_corpus(
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
    """Score a model on the whole nano corpus: its transcripts, written replies and spoken replies."""
    from echox.evaluation.scorecard import evaluate_nano

    echox = load_model(model, device, threads)
    metrics = evaluate_nano(echox, judge_of(judge, data, word_penalty), data, output, limit, seed)
    typer.echo(json.dumps(metrics))


def add_old_names(app: typer.Typer) -> None:
    """Register the old names of commands, hidden from ``--help``."""
    app.command("train", hidden=True)(renamed(run, "train", "run"))
    app.command("prepare", hidden=True)(renamed(run, "prepare", "run"))
    data_app.command("prepare", hidden=True)(renamed(run, "data prepare", "run"))
    eval_app.command("nano", hidden=True)(renamed(evaluate_corpus, "eval nano", "eval run --task nano"))
    for group, name, command in (("bench", "trigger", trigger), ("analyze", "gap", gap)):
        old = typer.Typer(no_args_is_help=True)
        old.command(name)(renamed(command, f"{group} {name}", f"eval {name}"))
        app.add_typer(old, name=group, hidden=True, help=f"Old name of: echox eval {name}.")


def renamed(command: Callable[P, None], old: str, new: str) -> Callable[P, None]:
    """The command under its old name, which first prints the new one on stderr."""

    @functools.wraps(command)
    def run_renamed(*args: P.args, **options: P.kwargs) -> None:
        typer.echo(f"`echox {old}` is now `echox {new}`; the next release drops the old name", err=True)
        command(*args, **options)

    return run_renamed
