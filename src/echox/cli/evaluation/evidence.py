"""``echox eval seal | open-sealed | agreement | listening-sheet | listening-score``: evidence beside the figures."""

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from echox.cli.common.options import Debug, Threads, WordPenalty, guarded, set_up_torch
from echox.cli.common.progress import progress_bars

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs.")]
Register = Annotated[Path, typer.Option(help="JSON file of the openings, to be committed.")]
Name = Annotated[str, typer.Option(help="Of the sealed set.")]


@guarded
def seal(
    output: Annotated[Path, typer.Option("--output", "-o", help="JSON file of the seal.")],
    count: Annotated[int, typer.Option(min=1, help="Questions.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    debug: Debug = False,
) -> None:
    """Draw a set of nano's held-out questions that no figure was made with; no command reads those in the package."""
    from echox.evaluation.sets.sealed import draw_nano_seal, write_seal

    drawn = draw_nano_seal(count, seed)
    write_seal(drawn, output)
    typer.echo(f"{output}: {len(drawn.digests)} questions of {drawn.candidates}")


@guarded
def open_sealed(
    purpose: Annotated[str, typer.Option(help="What the figures are for, in a sentence.")],
    name: Name = "nano",
    output: Annotated[Path, typer.Option("--output", "-o", help="Table of the questions, for eval run --task qa.")] = (
        Path("out/sealed.jsonl")
    ),
    register: Register = Path("docs/sealed_openings.json"),
    again: Annotated[bool, typer.Option("--again", help="Open a set that was opened before.")] = False,
    debug: Debug = False,
) -> None:
    """Open a sealed set, once, and record when, at which commit and for what. Commit the record with the figures."""
    from echox.evaluation.sets.nano import open_nano_seal
    from echox.files import write_lines
    from echox.training.records.record import code_state

    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    rows = open_nano_seal(name, purpose, code_state(), now, register, again)
    write_lines(output, rows)
    typer.echo(f"{output}: {len(rows)} questions; {register} says that they were opened: commit it")


@guarded
def agreement(
    runs: Runs,
    judge: Annotated[
        list[str] | None,
        typer.Option(help="Judge, as of eval run; several times (default: embedded, moonshine, pocketsphinx)."),
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Spoken replies of each task.")] = 200,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file of the figures.")] = None,
    word_penalty: WordPenalty = 0.5,
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Let several judges hear the same replies: word errors and verdicts of each, and how far they agree."""
    from echox.evaluation.evidence.agreement import agreement_markdown, measure_agreement
    from echox.evaluation.judges.asr import EMBEDDED, MOONSHINE, POCKETSPHINX, open_judge
    from echox.evaluation.judges.sphinx import is_installed
    from echox.evaluation.sets.heldout import LEXICON, embedded_heldout
    from echox.files import write_text

    set_up_torch(threads)
    names = judge or [EMBEDDED, MOONSHINE, *([POCKETSPHINX] if is_installed() else [])]
    judges = [open_judge(name, embedded_heldout() / LEXICON, word_penalty) for name in names]
    with progress_bars() as progress:
        found = [measure_agreement(run, judges, limit, progress) for run in runs]
    for one in found:
        typer.echo(f"## {one['subject']}\n\n{agreement_markdown(one)}")
    if output is not None:
        write_text(output, json.dumps(found, indent=1) + "\n")


@guarded
def listening_sheet(
    system: Annotated[
        list[str],
        typer.Option(help="NAME=FOLDER of a run, or NAME=FOLDER:control for its control voice; two or more times."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the page and the key.")] = Path("listening"),
    items: Annotated[int, typer.Option(min=1, help="Questions of each pair of systems.")] = 20,
    repeated: Annotated[int, typer.Option(min=0, help="Pairs that come twice, with A and B exchanged.")] = 4,
    seed: Annotated[int, typer.Option(help="Of questions, sides and order.")] = 0,
    debug: Debug = False,
) -> None:
    """Make a blind listening test: one HTML page for a panel, and a key to keep from it."""
    from echox.evaluation.evidence.listening import make_sheet

    for one in system:
        if "=" not in one:
            raise ValueError(f"--system: expected NAME=FOLDER, found {one!r}")
    page, key = make_sheet(dict(one.split("=", 1) for one in system), output, items, repeated, seed)
    typer.echo(f"for listeners: {page} ({page.stat().st_size / 1e6:.1f} MB)\nkeep from them: {key}")


@guarded
def listening_score(
    key: Annotated[Path, typer.Argument(help="The sheet's key.json.")],
    answers: Annotated[list[Path], typer.Argument(help="Files of choices that listeners saved.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file of the figures.")] = None,
    debug: Debug = False,
) -> None:
    """Score a listening test: preferences with intervals over questions and listeners."""
    from echox.evaluation.evidence.listening import preferences_markdown, score_sheets
    from echox.files import write_text

    found = score_sheets(key, answers)
    typer.echo(preferences_markdown(found))
    if output is not None:
        write_text(output, json.dumps(found, indent=1) + "\n")
