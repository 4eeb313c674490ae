"""Test sets as others publish them: what their tables must hold, checked before a model is asked.

A score against nothing is a score of 0 %: what a task compares replies with must be in the table.

Big Bench Audio: https://huggingface.co/datasets/ArtificialAnalysis/big_bench_audio, 1000 questions of four categories.
"""

from __future__ import annotations

from collections.abc import Sequence

from echox.evaluation.scoring.choices import CATEGORY, known_answer
from echox.evaluation.sets.items import AUDIO_COLUMNS, EvalItem, named


def check_answers(items: Sequence[EvalItem], columns: Sequence[str]) -> None:
    """Whether every item has something that its reply is compared with.

    Args:
        items: of the table.
        columns: names that the column of the answers may have.

    Raises:
        ValueError: one has not.
    """
    for item in items:
        if not item.answers:
            raise ValueError(
                f"{item.id!r}: expected its answer in a column of {', '.join(columns)}, found an empty one or none of "
                f"these among {named(item.columns)}; give the column that name, or leave out the row"
            )


def check_texts(items: Sequence[EvalItem], columns: Sequence[str]) -> None:
    """`check_answers` of sets whose reference is the question's own words where there is no other."""
    check_answers([item for item in items if not item.question], columns)


def check_recordings(items: Sequence[EvalItem], columns: Sequence[str]) -> None:
    """`check_texts` of sets that are questions of hearing: every item has audio too."""
    for item in items:
        if not item.audios:
            raise ValueError(
                f"{item.id!r}: expected its audio in a column of {', '.join(AUDIO_COLUMNS)}, found none of these among "
                f"{named(item.columns)}; give the column that name"
            )
    check_texts(items, columns)


def check_choices(items: Sequence[EvalItem], columns: Sequence[str]) -> None:
    """Whether every item has one answer that `names_only` can look for, and a category.

    Args:
        items: of the table.
        columns: names that the column of the answer may have.

    Raises:
        ValueError: one has not.
    """
    for item in items:
        if len(item.answers) != 1:
            raise ValueError(
                f"{item.id!r}: expected one answer, found {len(item.answers)}; name its column {', '.join(columns)}"
            )
        try:
            known_answer(item.answers[0])
        except ValueError as error:
            raise ValueError(f"{item.id!r}: {error}; ask tables with other answers as --task qa") from error
        if not item.columns.get(CATEGORY):
            raise ValueError(f"{item.id!r}: expected a column {CATEGORY}, found none or an empty one")
