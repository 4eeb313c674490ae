"""``echox data``: public corpora and own tables into manifests."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echox.cli.common.options import Debug, guarded

if TYPE_CHECKING:
    from echox.data.corpora.base import Corpus

data_app = typer.Typer(help="Read corpora into manifests, and check them.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Corpus; see: echox data corpora.")]
Column = Annotated[list[str] | None, typer.Option(help="For 'table': meaning=column, e.g. text=sentence.")]
Hub = Annotated[str | None, typer.Option(help="For 'table': dataset on the Hugging Face hub.")]
Licence = Annotated[str, typer.Option(help="For 'table': its licence, which the manifests record.")]


@data_app.command()
@guarded
def corpora(debug: Debug = False) -> None:
    """List the corpora: name, licence, home."""
    from echox.data.corpora.public.catalog import CORPORA

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
    """Fetch a corpus from its makers' address; a stopped download continues. Read its licence first."""
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
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many items (default: all).")] = None,
    hold_out: Annotated[
        float, typer.Option(min=0, max=0.5, help="Part held out of a corpus that has no split for evaluation.")
    ] = 0.01,
    debug: Debug = False,
) -> None:
    """Check a corpus item by item and write its manifests; a stopped run continues."""
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
    output: Annotated[Path, typer.Argument(help="Folder of manifests (of import or of stage prepare_data).")],
    debug: Debug = False,
) -> None:
    """Check manifests against the audio they name."""
    from echox.data.corpora.table import Table

    typer.echo(json.dumps({"recordings": Table().validate(output)}))


@data_app.command()
@guarded
def index(
    folder: Annotated[str, typer.Argument(help="One split of dialogue shards: a folder, or its address.")],
    debug: Debug = False,
) -> None:
    """Index shards of dialogues that were copied without their index, or made elsewhere, so that stages read them."""
    from echox.data.shards.dialogues import index_dialogues

    found = index_dialogues(folder)
    hours = float(found.columns["frames"].sum()) / 360_000
    typer.echo(json.dumps({"shards": len(found.shards), "dialogues": len(found), "hours": round(hours, 3)}))


def _corpus(name: str, columns: list[str] | None, hub: str | None, licence: str) -> "Corpus":
    from echox.data.corpora.public.catalog import open_corpus
    from echox.data.corpora.table import Table

    if name != Table.name:
        if columns or hub:
            raise ValueError(f"{name}: --column and --hub are for 'table'; this corpus has its own layout")
        return open_corpus(name)
    pairs = [column.partition("=") for column in columns or []]
    if bad := next((pair for pair in pairs if not pair[2]), None):
        raise ValueError(f"--column: expected meaning=column, found {bad[0]!r}")
    return Table({meaning: column for meaning, _, column in pairs}, hub, licence)
