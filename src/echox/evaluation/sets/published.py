"""Test sets as others publish them: what their tables must hold, checked before a model is asked.

Big Bench Audio: https://huggingface.co/datasets/ArtificialAnalysis/big_bench_audio, 1000 questions of four categories.
"""

from __future__ import annotations

from collections.abc import Sequence

from echox.evaluation.scoring.choices import CATEGORY, known_answer
from echox.evaluation.sets.items import EvalItem


def check_choices(items: Sequence[EvalItem]) -> None:
    """Whether every item has one answer that `names_only` can look for, and a category.

    Raises:
        ValueError: one has not.
    """
    for item in items:
        if len(item.answers) != 1:
            raise ValueError(
                f"{item.id!r}: expected one answer, found {len(item.answers)}; name its column official_answer"
            )
        try:
            known_answer(item.answers[0])
        except ValueError as error:
            raise ValueError(f"{item.id!r}: {error}; ask tables with other answers as --task qa") from error
        if not item.columns.get(CATEGORY):
            raise ValueError(f"{item.id!r}: expected a column {CATEGORY}, found none or an empty one")
