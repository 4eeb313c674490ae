"""Intervals and tests of the ablations: over questions and over training seeds.

A measurement holds which questions were right (``right``, since 2026-11-29) or only their share. With the former, two
runs are compared question by question; with the latter, intervals are the widest that the shares allow, and only
trainings can be tested against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from echox.api.card import markdown_table
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.statistics import (
    Comparison,
    Interval,
    bootstrap_crossed,
    bootstrap_shares,
    compare_methods,
    permutation_of_groups,
)

SEEN, NEW = "heldout_seen_voices", "heldout_new_voices"
SIDES = {SEEN: "known voices", NEW: "new voices"}
S2T, S2S = "s2t_answer", "s2s_answer"
FIGURES = {S2T: "S2T", S2S: "S2S"}


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
    """Mean with its 95 % interval over questions and seeds.

    Args:
        results: a measurement for each seed.
        path: way, set of questions, name of the figure.

    Returns:
        None: neither the questions nor their number is known.
    """
    way, split, name = path
    table = right_table(results, way, split, name)
    if table is not None:
        return bootstrap_crossed(table.tolist())
    shares = _shares(results, way, split, name)
    items = results[0].get("items", {}).get(split)
    return bootstrap_shares(shares, items) if shares and items and name != "gap" else None


def table_of_tests(by_name: dict[str, list[JsonObject]], pairs: Sequence[Sequence[str]], figure: str = S2S) -> str:
    """A row for each pair of measured runs and each set of questions: difference in a figure, interval, tests."""
    lines = []
    for one, other in pairs:
        if one in by_name and other in by_name:
            lines += [_line(one, other, by_name[one], by_name[other], split, figure) for split in SIDES]
    difference = f"{FIGURES[figure]}, first less second"
    heads = ["first", "second", "questions", "seeds", difference, "p, questions", "p, seeds", "p, both"]
    return "\n".join(markdown_table(heads, lines)) + "\n"


def _line(
    one: str, other: str, first: list[JsonObject], second: list[JsonObject], split: str, figure: str
) -> list[str]:
    names = [f"`{one}`", f"`{other}`", SIDES[split], f"{len(first)} and {len(second)}"]
    found = compared(first, second, split, figure)
    if found is not None:
        return [*names, _points(found.difference), *(_p(value) for value in (found.p_items, found.p_seeds, found.p))]
    ours, theirs = (_shares(results, "segments", split, figure) for results in (first, second))
    p_seeds = permutation_of_groups(ours, theirs) if max(len(ours), len(theirs)) > 1 else None
    difference = difference_of_shares(first, second, split, figure)
    return [*names, _points(difference), "not recorded", _p(p_seeds), "not recorded"]


def compared(first: list[JsonObject], second: list[JsonObject], split: str, figure: str) -> Comparison | None:
    """Two runs in a figure, question by question; None: which questions were right is not recorded."""
    tables = [right_table(results, "segments", split, figure) for results in (first, second)]
    if tables[0] is None or tables[1] is None:
        return None
    return compare_methods(tables[0].tolist(), tables[1].tolist())


def difference_of_shares(first: list[JsonObject], second: list[JsonObject], split: str, figure: str = S2S) -> Interval:
    """Difference of two runs in a figure, with the widest interval that their shares allow (`bootstrap_shares`)."""
    ours, theirs = (_shares(results, "segments", split, figure) for results in (first, second))
    return bootstrap_shares(ours, first[0]["items"][split], minus=theirs)


def _shares(results: Sequence[JsonObject], way: str, split: str, name: str) -> list[float]:
    found = [result.get(way, {}).get(split, {}).get(name) for result in results]
    return [float(share) for share in found if share is not None]


def _points(found: Interval) -> str:
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f} to {100 * found.high:+.1f}]"


def _p(value: float | None) -> str:
    return "one seed" if value is None else f"{value:.3f}" if value >= 0.001 else "< .001"
