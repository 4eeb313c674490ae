"""``echox analyze``: look inside a model."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from echox.cli.options import Debug, Threads, guarded, set_up_torch

analyze_app = typer.Typer(help="Look inside a model.", no_args_is_help=True)


@analyze_app.callback()
def _group() -> None:
    """Keep ``gap`` a command of its own, although it is the only one so far."""


@analyze_app.command()
@guarded
def gap(
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model folder, or 'nano'; may be given several times.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="Echo recipe: also the model it starts from, before any echo training.")
    ] = None,
    dialogues: Annotated[Path, typer.Option(help="Manifest of written dialogues whose replies hold the words.")] = Path(
        "out/nano/text/dialogues.jsonl"
    ),
    pairs: Annotated[Path | None, typer.Option(help="YAML of pairs (default: nano's).")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG file.")] = Path("gap.png"),
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Draw the paper's Hi, Hello and High: is each space of a model ordered by meaning or by sound?"""
    set_up_torch(threads)
    from echox.evaluation.studies.gap import draw_gap, measure_gap, read_pairs
    from echox.evaluation.studies.gap import gap as number
    from echox.training.stages.s2t import spoken_dialogues

    if not model and before is None:
        raise ValueError("expected a model, found none; use --model (a folder, or nano) or --before (an echo recipe)")
    chosen = read_pairs(pairs)
    items = spoken_dialogues(dialogues, 80)  # written dialogues have no features: any number of mel bands does
    found: dict[str, Any] = {}
    if before is not None:
        found["before echo training"] = measure_gap(before, items, chosen)
    for name in model or []:
        found[name] = measure_gap(name, items, chosen)
    draw_gap(found, output)
    typer.echo(json.dumps({name: number(spaces) for name, spaces in found.items()}))
