"""Intervals and tests of the ablations: over questions, or texts that a T2C reads, and over training seeds.

A measurement holds which questions were right (``right``, since 2026-11-29) or only their share; of a T2C the word
errors of each text. With the items, two runs are compared item by item; with shares alone, intervals are the widest
that they allow, and only trainings can be tested against each other. The tests of one table are corrected together
(`holm`); what cannot differ by construction is no test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from echox.api.card import markdown_table
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.statistics import (
    DIFFERENCE,
    SHARE,
    Comparison,
    Interval,
    bootstrap_crossed,
    bootstrap_shares,
    compare_methods,
    holm,
    permutation_of_groups,
)

SEEN, NEW = "heldout_seen_voices", "heldout_new_voices"
LLAMA, WEB = "llama-questions", "web-questions"
SIDES = {SEEN: "known voices", NEW: "new voices", LLAMA: "Llama Questions", WEB: "Web Questions"}
S2T, S2S, T2T = "s2t_answer", "s2s_answer", "t2t_answer"
WER = "wer"
FIGURES = {S2T: "S2T", S2S: "S2S", T2T: "T2T", WER: "WER of its speech"}
READ = ("t2c", WER)
"""Path of the word error rate of a T2C's speech in a measurement."""
Values = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Scores:
    """What each training scored on each item.

    Attributes:
        table: (seeds, items).
        per: what is counted per item, see `bootstrap_crossed`; None: each item's score counts alike.
    """

    table: np.ndarray
    per: list[float] | None = None


def places_of(figure: str, result: JsonObject) -> dict[str, tuple[str, ...]]:
    """Where a figure is in a measurement: the name of each set of items that it has, and the path to the figure."""
    if figure == WER:
        return {"held-out texts": READ}
    way = "typed" if figure == T2T else "segments"
    return {side: (way, split, figure) for split, side in SIDES.items() if split in result.get(way, {})}


def scores_of(results: Sequence[JsonObject], path: Sequence[str]) -> Scores | None:
    """The scores behind a figure, item by item; None: they are not recorded, or of other items in each training."""
    if tuple(path) != READ:
        table = right_table(results, *path)
        return None if table is None else Scores(table)
    found = [result.get("t2c", {}) for result in results]
    rows, words = ([one.get(name) for one in found] for name in ("word_errors", "reference_words"))
    if None in rows or None in words or any(one != words[0] for one in words):
        return None
    return Scores(np.array(rows, float), list(map(float, words[0])))


def right_table(results: Sequence[JsonObject], way: str, split: str, name: str) -> np.ndarray | None:
    """(seeds, questions), 1 where it was right; of ``gap`` right in writing less right aloud. None: not recorded."""
    found = [result.get(way, {}).get(split, {}).get("right", {}) for result in results]
    if name == "gap":
        written, spoken = (right_table(results, way, split, side) for side in (S2T, S2S))
        return None if written is None or spoken is None else written - spoken
    rows = [one.get(name) for one in found]
    if any(row is None for row in rows) or len({len(row) for row in rows}) != 1:
        return None
    return np.array([[float(digit) for digit in row] for row in rows])


def question_interval(results: Sequence[JsonObject], path: Sequence[str]) -> Interval | None:
    """Mean with its 95 % interval over items and seeds.

    Args:
        results: a measurement for each seed.
        path: way, set of questions, name of the figure; or `READ`.

    Returns:
        None: neither the items nor their number is known.
    """
    scores = scores_of(results, path)
    if scores is not None:
        bounds = DIFFERENCE if path[-1] == "gap" else SHARE
        return bootstrap_crossed(scores.table.tolist(), per=scores.per, bounds=bounds)
    if tuple(path) == READ:
        return None
    way, split, name = path
    shares = _shares(results, way, split, name)
    items = results[0].get("items", {}).get(split)
    return bootstrap_shares(shares, items) if shares and items and name != "gap" else None


@dataclass(frozen=True)
class PairTest:
    """A row of a table of tests.

    Attributes:
        first, second: names of the runs.
        side: of the items, see `SIDES`.
        seeds: trainings of each.
        difference: the first less the second; None: not recorded, or none by construction.
        values: p over items, over trainings, and the larger of both; None: not recorded, or one training.
        corrected: the same after `holm` within the table.
        by_construction: that they do not differ.
    """

    first: str
    second: str
    side: str
    seeds: tuple[int, int]
    difference: Interval | None
    values: Values
    corrected: Values = (None, None, None)
    by_construction: bool = False


def pair_tests(
    by_name: dict[str, list[JsonObject]],
    pairs: Sequence[Sequence[str]],
    figure: str = S2S,
    same_text: Sequence[str] = (),
) -> list[PairTest]:
    """Each pair of measured runs and each set of items: difference in a figure, and tests, corrected together.

    Args:
        by_name: measurements of each run, one for each seed.
        pairs: names of the runs that are compared.
        figure: see `FIGURES`.
        same_text: runs that write the same by construction.
    """
    found = []
    for one, other in pairs:
        if one not in by_name or other not in by_name:
            continue
        first, second = by_name[one], by_name[other]
        same = figure in (S2T, T2T) and {one, other} <= set(same_text)
        for side, path in places_of(figure, first[0]).items():
            seeds = (len(first), len(second))
            difference, values = (None, (None, None, None)) if same else _tested(first, second, path)
            found.append(PairTest(one, other, side, seeds, difference, values, by_construction=same))
    columns = [_corrected([row.values[place] for row in found]) for place in range(3)]
    return [replace(row, corrected=values) for row, values in zip(found, zip(*columns), strict=True)]


def _corrected(values: Sequence[float | None]) -> list[float | None]:
    known = iter(holm([value for value in values if value is not None]))
    return [None if value is None else next(known) for value in values]


def table_of_tests(
    by_name: dict[str, list[JsonObject]],
    pairs: Sequence[Sequence[str]],
    figure: str = S2S,
    same_text: Sequence[str] = (),
) -> str:
    """The rows of `pair_tests` as a table; behind each p the corrected one."""
    items = "texts" if figure == WER else "questions"
    lines = []
    for row in pair_tests(by_name, pairs, figure, same_text):
        names = [f"`{row.first}`", f"`{row.second}`", row.side, f"{row.seeds[0]} and {row.seeds[1]}"]
        if row.by_construction:
            lines.append([*names, "the same by construction", "-", "-", "-"])
            continue
        told = "not recorded" if row.difference is None else _points(row.difference)
        missing = ["not recorded", "one seed" if max(row.seeds) == 1 else "not recorded"]
        missing.append("not recorded" if row.values[0] is None else missing[1])
        cells = [
            none if value is None or after is None else f"{p_text(value)} ({p_text(after)})"
            for value, after, none in zip(row.values, row.corrected, missing, strict=True)
        ]
        lines.append([*names, told, *cells])
    difference = f"{FIGURES[figure]}, first less second"
    heads = ["first", "second", items, "seeds", difference, f"p, {items} (Holm)", "p, seeds (Holm)", "p, both (Holm)"]
    return "\n".join(markdown_table(heads, lines)) + "\n"


def _tested(first: list[JsonObject], second: list[JsonObject], path: tuple[str, ...]) -> tuple[Interval | None, Values]:
    found = compared(first, second, path)
    if found is not None:
        return found.difference, (found.p_items, found.p_seeds, found.p)
    if path == READ:
        return None, (None, None, None)
    _, split, figure = path
    ours, theirs = (_shares(results, "segments", split, figure) for results in (first, second))
    p_seeds = permutation_of_groups(ours, theirs) if max(len(ours), len(theirs)) > 1 else None
    return difference_of_shares(first, second, split, figure), (None, p_seeds, None)


def compared(first: list[JsonObject], second: list[JsonObject], path: Sequence[str]) -> Comparison | None:
    """Two runs in a figure, item by item; None: the scores of the items are not recorded, or of other items."""
    ours, theirs = scores_of(first, path), scores_of(second, path)
    if ours is None or theirs is None or ours.per != theirs.per:
        return None
    return compare_methods(ours.table.tolist(), theirs.table.tolist(), per=ours.per)


def difference_of_shares(
    first: list[JsonObject],
    second: list[JsonObject],
    split: str,
    figure: str = S2S,
    ways: tuple[str, str] = ("segments", "segments"),
) -> Interval:
    """Difference of two runs in a figure, with the widest interval that their shares allow (`bootstrap_shares`)."""
    ours, theirs = (_shares(results, way, split, figure) for results, way in zip((first, second), ways, strict=True))
    return bootstrap_shares(ours, first[0]["items"][split], minus=theirs)


def _shares(results: Sequence[JsonObject], way: str, split: str, name: str) -> list[float]:
    found = [result.get(way, {}).get(split, {}).get(name) for result in results]
    return [float(share) for share in found if share is not None]


def _points(found: Interval) -> str:
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f} to {100 * found.high:+.1f}]"


def p_text(value: float) -> str:
    """A p to three digits."""
    return f"{value:.3f}" if value >= 0.001 else "< .001"
