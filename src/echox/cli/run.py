"""``echox run``: any recipe, one that trains a stage or one that makes data; ``echox status``: how a run does."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echox.cli.common.options import Debug, guarded

if TYPE_CHECKING:
    from echox.evaluation.judges.asr import Judge
    from echox.preparation.prepare import PrepareDataRecipe
    from echox.preparation.settings import Filter


@guarded
def run(
    recipe: Annotated[Path, typer.Argument(help="Recipe, for example recipes/nano/lm.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for example training.steps=100.")] = None,
    overfit_one_batch: Annotated[
        bool, typer.Option("--overfit-one-batch", help="Health check of a training: train on the first batch only.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="Of stage prepare_data: Ray cluster: its address, 'auto', or 'local'.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Of stage prepare_data: print what there is to do, and stop.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run a recipe: train a stage, prepare data, or make what a stage needs. A stopped run continues."""
    from echox.config import load_recipe
    from echox.preparation.prepare import PrepareDataRecipe
    from echox.training.loop import run_loaded

    chosen = [*(overrides or []), *(["training.overfit_one_batch=true"] if overfit_one_batch else [])]
    loaded = load_recipe(recipe, chosen)
    if isinstance(loaded, PrepareDataRecipe):
        found = _prepare_data(loaded, ray, dry_run)
    elif ray is not None or dry_run:
        option = "--dry-run" if dry_run else "--ray"
        raise ValueError(f"{option}: expected a recipe of stage prepare_data, found stage {loaded.stage!r}; omit it")
    else:
        found = run_loaded(loaded)
    if found:
        typer.echo(json.dumps(found))


@guarded
def status(
    folder: Annotated[Path, typer.Argument(help="training.output_dir of a run, or a folder of such, as out/mini.")],
    checksums: Annotated[
        bool, typer.Option(help="Read the newest checkpoints and compare their checksums (all their bytes).")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each run, a line each.")] = False,
    debug: Debug = False,
) -> None:
    """How runs in the background do: step, loss, speed, time left, newest checkpoint and evaluation."""
    from dataclasses import asdict

    from echox.training.records.status import lines_of, run_folders, status_of

    for one in run_folders(folder):
        found = status_of(one, checksums)
        for line in [json.dumps(asdict(found), ensure_ascii=False)] if as_json else lines_of(found):
            typer.echo(line)


def _prepare_data(settings: "PrepareDataRecipe", ray: str | None, dry_run: bool) -> dict[str, object]:
    """The figures of a preparation, or of what it would do."""
    from echox.preparation.prepare import plan, prepare

    if dry_run:
        return plan(settings)
    figures = prepare(settings, judge_factory(settings.filter), ray)
    return {name: value for name, value in figures.items() if name != "recipe"}


def judge_factory(chosen: "Filter") -> "Callable[[], Judge] | None":
    """The function that makes the recogniser in a worker process (it is pickled); None: nothing is recognised."""
    from echox.evaluation.judges.asr import embedded_judge, open_judge
    from echox.evaluation.sets.heldout import LEXICON, embedded_heldout

    if chosen.max_wer is None:
        return None
    judge = chosen.judge or str(embedded_judge())
    return functools.partial(open_judge, judge, chosen.lexicon or str(embedded_heldout() / LEXICON))
