"""Nano's scorecard: all of nano's test sets asked, transcribed and scored in one call."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from echox.evaluation.run import run_tasks
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.nano import metrics_of
from echox.evaluation.sets.tasks import NANO, open_tasks
from echox.evaluation.subjects.local import LocalSubject

if TYPE_CHECKING:
    from echox.api import EchoX
    from echox.evaluation.judges.asr import Judge


def evaluate_nano(
    model: EchoX, judge: Judge, data_dir: Path, output_dir: Path, limit: int | None = None, seed: int = 0
) -> JsonObject:
    """Run and score all sets; write records, replies and ``metrics.json`` into ``output_dir``.

    Args:
        model: the model under test; decoded greedily.
        judge: recogniser of the spoken replies.
        data_dir: folder of the corpus stage.
        output_dir: a second call with the same weights continues a stopped one.
        limit: items per set (None = all): the first ones of an order balanced over topics.
        seed: of that order.

    Raises:
        ValueError: a set of the corpus is missing or empty.
    """
    tasks = open_tasks(NANO, data_dir, limit, seed)
    metrics = metrics_of(run_tasks(tasks, LocalSubject(model), judge, output_dir, recordings=data_dir, limit=limit))
    assert metrics is not None, "all of nano's sets were run"
    return metrics
