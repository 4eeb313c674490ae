"""Scores of question answering: the match rule, bootstrap intervals, right in writing against right aloud.

Source: UltraEval-Audio's ``qa-exist-match`` rule, restated from its published behaviour
(https://github.com/OpenBMB/UltraEval-Audio); word error rate in :mod:`echox.data.scoring`.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def match_tokens(text: str) -> list[str]:
    """Tokens of the match rule: runs of letters, numbers and marks; any other visible character alone; lower case."""
    tokens: list[str] = []
    run: list[str] = []
    for character in unicodedata.normalize("NFD", text):
        major = unicodedata.category(character)[0]
        if major in "LNM":
            run.append(character)
            continue
        if run:
            tokens.append("".join(run).lower())
            run = []
        if major not in "ZC":
            tokens.append(character.lower())
    if run:
        tokens.append("".join(run).lower())
    return tokens


def exist_match(prediction: str, references: str | Sequence[str]) -> bool:
    """Whether the tokens of any reference occur as a contiguous run in the prediction's.

    An empty reference matches everything and an empty list nothing, as in UltraEval-Audio.

    Raises:
        ValueError: a reference is not a string.
    """
    references = [references] if isinstance(references, str) else list(references)
    predicted = match_tokens(str(prediction))
    for reference in references:
        if not isinstance(reference, str):
            raise ValueError(f"expected references as strings, found {reference!r}: quote numbers in the data")
        wanted = match_tokens(reference)
        if any(predicted[i : i + len(wanted)] == wanted for i in range(len(predicted) - len(wanted) + 1)):
            return True
    return False


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


def bootstrap(
    values: Sequence[float],
    statistic: Callable[[Sequence[float]], float] | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of ``statistic`` (the mean where none is given) over items.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("expected at least one scored item, found none: check the split and the limit")
    statistic = statistic or (lambda items: sum(items) / len(items))
    rng = random.Random(seed)
    draws = sorted(statistic(rng.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - confidence) / 2
    low, high = draws[int(tail * resamples)], draws[min(int((1 - tail) * resamples), resamples - 1)]
    return Interval(statistic(values), low, high, len(values))


def bootstrap_ratio(over: Sequence[float], under: Sequence[float]) -> Interval:
    """The sum of one score over the sum of another of the same items, such as S2T over T2T, with its interval.

    Raises:
        ValueError: no items, or the two differ in length.
    """
    if len(over) != len(under):
        raise ValueError(f"expected two scores of each item, found {len(over)} and {len(under)}")

    def ratio(chosen: Sequence[float]) -> float:
        places = [int(place) for place in chosen]
        return sum(over[place] for place in places) / max(sum(under[place] for place in places), 1.0)

    return bootstrap([float(place) for place in range(len(over))], ratio)


def agreement_table(s2t: Sequence[bool], s2s: Sequence[bool]) -> dict[str, int]:
    """The 2 x 2 table of right in writing against right aloud, over the same replies."""
    pairs = list(zip(s2t, s2s, strict=True))
    return {
        "both_right": pairs.count((True, True)),
        "only_written_right": pairs.count((True, False)),
        "only_spoken_right": pairs.count((False, True)),
        "both_wrong": pairs.count((False, False)),
    }
