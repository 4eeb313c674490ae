"""``echox bench``: measurements that choose between ways of doing the same thing."""

import json
from pathlib import Path
from typing import Annotated

import typer

from echox.cli.options import Data, Debug, Device, JudgeName, Model, Threads, WordPenalty, guarded, judge_of, load_model

bench_app = typer.Typer(help="Measure choices against each other: the trigger laboratory.", no_args_is_help=True)


@bench_app.command("trigger")
@guarded
def bench_trigger(
    model: Model = "nano",
    data: Data = Path("out/nano"),
    judge: JudgeName = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the figures.")] = Path("trigger"),
    limit: Annotated[int, typer.Option(min=1, help="Questions of each group (replies of one sentence, of more).")] = 40,
    only: Annotated[list[str] | None, typer.Option(help="Labels of policies (default: all).")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of the questions.")] = 0,
    word_penalty: WordPenalty = 0.5,
    threads: Threads = None,
    device: Device = "auto",
    debug: Debug = False,
) -> None:
    """Draw first audio against reply errors and accuracy for every speech policy: the latency-quality curve."""
    from echox.evaluation.studies.trigger_figure import draw_curve, markdown_table
    from echox.evaluation.studies.trigger_lab import CANDIDATES, lab_items, run_trigger_lab
    from echox.files import write_text

    known = [candidate.label for candidate in CANDIDATES]
    for label in only or []:
        if label not in known:
            raise ValueError(f"--only: expected one of {', '.join(known)}, found {label!r}")
    chosen = [candidate for candidate in CANDIDATES if not only or candidate.label in only]
    items = lab_items(data, limit, seed)
    echox = load_model(model, device, threads)
    result = run_trigger_lab(
        echox,
        judge_of(judge, data, word_penalty),
        items,
        chosen,
        told=lambda line: typer.echo(line, err=True),
    )
    output.mkdir(parents=True, exist_ok=True)
    table = "\n".join(markdown_table(result))
    write_text(output / "trigger.json", json.dumps(result, indent=1) + "\n")
    write_text(output / "trigger.md", table + "\n")
    draw_curve(result, output / "trigger.png")
    typer.echo(table)
    typer.echo(json.dumps(result))
