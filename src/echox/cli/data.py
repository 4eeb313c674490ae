"""``echox data``: corpora into manifests, manifests into training shards."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echox.cli.options import Debug, guarded

if TYPE_CHECKING:
    from echox.data.corpora.base import Corpus
    from echox.preparation.settings import Filter

data_app = typer.Typer(help="Prepare data: corpora, speech, filters, units, shards.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Corpus; see: echox data corpora.")]
Column = Annotated[list[str] | None, typer.Option(help="For 'table': meaning=column, e.g. text=sentence.")]
Hub = Annotated[str | None, typer.Option(help="For 'table': dataset on the Hugging Face hub.")]
Licence = Annotated[str, typer.Option(help="For 'table': its licence, to be recorded.")]


@data_app.command()
@guarded
def corpora(debug: Debug = False) -> None:
    """List the corpora: name, licence, home."""
    from echox.data.corpora.catalog import CORPORA

    for name, corpus in CORPORA.items():
        origin = corpus.provenance
        typer.echo(f"{name:16s} {origin.title}: {origin.licence}; {origin.homepage}")


@data_app.command()
@guarded
def download(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Where to.")],
    hub: Hub = None,
    debug: Debug = False,
) -> None:
    """Fetch a corpus from its makers' address; goes on where it stopped. Read its licence first."""
    corpus = _corpus(name, None, hub, "unknown")
    typer.echo(f"{corpus.provenance.title}: licence {corpus.provenance.licence}", err=True)
    corpus.download(folder)


@data_app.command("import")
@guarded
def import_corpus(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="The corpus as it was downloaded.")],
    output: Annotated[Path, typer.Argument(help="Folder of the manifests.")],
    column: Column = None,
    licence: Licence = "unknown",
    keep_going: Annotated[bool, typer.Option(help="Leave damaged items out and list them.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many items.")] = None,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.5, help="Part held out of a corpus that has no split for evaluation.")
    ] = 0.01,
    debug: Debug = False,
) -> None:
    """Check a corpus item by item and write its manifests; goes on where it stopped."""
    prepared = _corpus(name, column, None, licence).prepare(folder, output, keep_going, limit, hold_out)
    figures = {
        "utterances": prepared.utterances,
        "dialogues": prepared.dialogues,
        "held_out": prepared.held_out,
        "hours": round(prepared.hours, 3),
    }
    if not prepared.held_out:
        typer.echo(f"{output}: nothing is held out for evaluation: give rows a split, or use --hold-out", err=True)
    typer.echo(json.dumps({**figures, "damaged": len(prepared.damaged)}))


@data_app.command()
@guarded
def validate(
    output: Annotated[Path, typer.Argument(help="Folder that import or prepare wrote.")], debug: Debug = False
) -> None:
    """Check manifests against the audio they name."""
    from echox.data.corpora.table import Table

    typer.echo(json.dumps({"recordings": Table().validate(output)}))


@data_app.command()
@guarded
def prepare(
    recipe: Annotated[Path, typer.Argument(help="Recipe, e.g. recipes/data/nano.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, e.g. workers=8.")] = None,
    ray: Annotated[str | None, typer.Option(help="Ray cluster: its address, 'auto', or 'local'.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what there is to do, and stop.")] = False,
    debug: Debug = False,
) -> None:
    """Speak, filter, de-duplicate, extract units, shard, report; goes on where it stopped."""
    from echox.config import load_recipe
    from echox.preparation.prepare import PrepareDataRecipe, plan
    from echox.preparation.prepare import prepare as run

    settings = load_recipe(recipe, overrides or [])
    if not isinstance(settings, PrepareDataRecipe):
        raise ValueError(f"{recipe}: expected a recipe of stage prepare_data, found {settings.stage!r}")
    if dry_run:
        typer.echo(json.dumps(plan(settings)))
        return
    figures = run(settings, judge_of(settings.filter), ray)
    typer.echo(json.dumps({name: value for name, value in figures.items() if name != "recipe"}))


def judge_of(chosen: "Filter") -> Any:
    """What makes the recogniser in a worker (it is pickled there); None where nothing is recognised."""
    from echox.evaluation.judges.asr import embedded_judge, open_judge
    from echox.evaluation.sets.heldout import LEXICON, embedded_heldout

    if chosen.max_wer is None:
        return None
    judge = chosen.judge or str(embedded_judge())
    return functools.partial(open_judge, judge, chosen.lexicon or str(embedded_heldout() / LEXICON))


def _corpus(name: str, columns: list[str] | None, hub: str | None, licence: str) -> "Corpus":
    from echox.data.corpora.catalog import open_corpus
    from echox.data.corpora.table import Table

    if name != Table.name:
        if columns or hub:
            raise ValueError(f"{name}: --column and --hub are for 'table'; this corpus has its own layout")
        return open_corpus(name)
    pairs = [column.partition("=") for column in columns or []]
    if bad := next((pair for pair in pairs if not pair[2]), None):
        raise ValueError(f"--column: expected meaning=column, found {bad[0]!r}")
    return Table({meaning: column for meaning, _, column in pairs}, hub, licence)
