"""Intervals and tests: bootstrap over items, bootstrap over items and training seeds, paired permutation tests.

Scores stand in tables of (seeds, items): a row for each training, a column for each question. Questions are the same
for all trainings, so two methods are compared question by question; trainings of two methods are not paired.

Sources: the percentile bootstrap (Efron and Tibshirani 1993, chapter 13); both sides of a crossed table drawn
independently (Owen 2007, The pigeonhole bootstrap, https://arxiv.org/abs/0712.1111); permutation tests whose smallest
value is one over the number of arrangements (Phipson and Smyth 2010, https://arxiv.org/abs/1603.05766); two tests that
both have to reject, whose value is the larger one (Berger 1982, Multiparameter hypothesis testing); what was seen in
none of the items (Clopper and Pearson 1934, The use of confidence or fiducial limits); several tests at once (Holm
1979, A simple sequentially rejective multiple test procedure).

A bootstrap never passes its most extreme item: of a hundred right answers it says "100 to 100". Where an end of an
interval stands there, it is therefore moved by what so many items cannot exclude (`unseen_share`).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Table = Sequence[Sequence[float]]
"""Scores (seeds, items)."""
Bounds = tuple[float, float]
SHARE: Bounds = (0.0, 1.0)
"""Least and greatest score of an item that is right or wrong, or of words that are."""
DIFFERENCE: Bounds = (-1.0, 1.0)
"""The same of a difference of two such scores."""
_MOST_EXACT = 20_000
"""Arrangements that are counted one by one; more are drawn at random."""
_CHUNK = 2_000
_ALIKE = 1e-9
"""Scores that differ by less are the same."""


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
    bounds: Bounds = SHARE,
    each: Sequence[float] | None = None,
) -> Interval:
    """Percentile bootstrap over items.

    Args:
        values: of each item.
        statistic: of some items; None: the mean.
        confidence: of the interval.
        resamples: draws.
        seed: of the draws.
        bounds: least and greatest that the statistic of one item can be, for ends that no draw can pass.
        each: the statistic of each item alone; None: ``values``, where there is no ``statistic``. Without both, an end
            stays where the draws have it.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("expected at least one scored item, found none: check the split and the limit")
    each = values if statistic is None else each
    statistic = statistic or (lambda items: sum(items) / len(items))
    rng = random.Random(seed)
    draws = sorted(statistic(rng.choices(values, k=len(values))) for _ in range(resamples))
    tail = (1 - confidence) / 2
    low, high = draws[int(tail * resamples)], draws[min(int((1 - tail) * resamples), resamples - 1)]
    if each is not None:
        low, high = _past_the_items(low, high, each, len(values), bounds, confidence)
    return Interval(statistic(values), low, high, len(values))


def unseen_share(items: int, confidence: float = 0.95) -> float:
    """Greatest share of all questions that is no contradiction to what was seen in none of some of them.

    The end of Clopper and Pearson's interval: 3.6 % of 100, 2.4 % of 150.

    Raises:
        ValueError: no items.
    """
    if items < 1:
        raise ValueError(f"expected at least one item, found {items}")
    return float(1 - ((1 - confidence) / 2) ** (1 / items))


def _past_the_items(
    low: float, high: float, each: Sequence[float] | np.ndarray, items: int, bounds: Bounds, confidence: float
) -> tuple[float, float]:
    """Ends of an interval, moved towards the bounds where they stand at the least or greatest item."""
    unseen, least, most = unseen_share(items, confidence), float(min(each)), float(max(each))
    if low <= least + _ALIKE:
        low = min(low, least - unseen * max(least - bounds[0], 0.0))
    if high >= most - _ALIKE:
        high = max(high, most + unseen * max(bounds[1] - most, 0.0))
    return low, high


def bootstrap_ratio(over: Sequence[float], under: Sequence[float]) -> Interval:
    """The sum of one score over the sum of another of the same items, such as S2T over T2T, with its interval.

    Where no item speaks for a ratio beyond an end (every answer was right in both, say), the end is moved by as many
    items as could have done so unseen (`unseen_share`), each right in one only.

    Raises:
        ValueError: no items, or the two differ in length.
    """
    if len(over) != len(under):
        raise ValueError(f"expected two scores of each item, found {len(over)} and {len(under)}")

    def ratio(chosen: Sequence[float]) -> float:
        places = [int(place) for place in chosen]
        return sum(over[place] for place in places) / max(sum(under[place] for place in places), 1.0)

    found = bootstrap([float(place) for place in range(len(over))], ratio)
    unseen = unseen_share(len(over)) * len(over) / max(sum(under), 1.0)
    pairs = list(zip(over, under, strict=True))
    low, high = found.low, found.high
    if all(one - low * other >= -_ALIKE for one, other in pairs):
        low = max(0.0, low - unseen * low)
    if all(one - high * other <= _ALIKE for one, other in pairs):
        high += unseen
    return Interval(found.mean, low, high, found.count)


def bootstrap_crossed(
    table: Table,
    minus: Table | None = None,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    per: Sequence[float] | None = None,
    bounds: Bounds | None = None,
) -> Interval:
    """Mean of a table, or the difference of two, with its interval over items *and* seeds.

    Seeds and items are drawn independently, with replacement; the items of both tables are the same, their seeds not.
    With two or three seeds an interval is too narrow, as nobody knows the spread of what was trained twice: give the
    number of seeds beside it.

    Args:
        table: (seeds, items).
        minus: (seeds of another method, the same items); None: nothing is taken off.
        confidence: of the interval.
        resamples: draws.
        seed: of the draws.
        per: what the scores of each item are counted per, such as its words where the scores are its word errors: then
            all rates are those of the items together. None: the mean of the scores.
        bounds: as of `bootstrap`; None: `SHARE`, or `DIFFERENCE` of two tables.

    Returns:
        Its ``count`` is the number of items.

    Raises:
        ValueError: an empty table, rows of different lengths, tables of different items, or a ``per`` that does not
            have a number above 0 for each item.
    """
    tables = [_checked(one) for one in (table, minus) if one is not None]
    _same_items(tables)
    rng = np.random.default_rng(seed)
    items = tables[0].shape[1]
    counts = np.ones(items) if per is None else np.asarray(per, float)
    if len(counts) != items or not (counts > 0).all():
        raise ValueError(f"expected a number above 0 for each of {items} items, found {counts.tolist()}")
    of_items, of_seeds = np.empty((resamples, items), int), [np.empty((resamples, len(one)), int) for one in tables]
    for number in range(resamples):
        of_items[number] = rng.integers(items, size=items)
        for drawn in of_seeds:
            drawn[number] = rng.integers(drawn.shape[1], size=drawn.shape[1])
    often = _how_often(of_items)
    means = [
        ((often @ one.T) * _how_often(drawn)).sum(1) / one.size for one, drawn in zip(tables, of_seeds, strict=True)
    ]
    draws = (means[0] - sum(means[1:])) / (often @ counts / items)
    found = (tables[0].mean() - sum(float(one.mean()) for one in tables[1:])) / counts.mean()
    each = (tables[0].mean(0) - sum(one.mean(0) for one in tables[1:])) / counts
    bounds = bounds or (SHARE if minus is None else DIFFERENCE)
    ends = _past_the_items(*_percentiles(draws, confidence), each, items, bounds, confidence)
    return Interval(float(found), *ends, items)


def bootstrap_shares(
    shares: Sequence[float],
    items: int,
    minus: Sequence[float] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """`bootstrap_crossed` of right and wrong where only each seed's share was kept.

    Of one seed it is the bootstrap over items itself. Of several the same items are taken to be right in all of them,
    which is the widest that the kept figures allow. So is a difference: which items both methods have right is not
    known, and as few are drawn as the two shares allow, since nothing makes it wider than answers that exclude each
    other.

    Args:
        shares: of right items, one for each seed.
        items: number of items.
        minus: shares of another method on the same items; None: nothing is taken off.
        confidence: of the interval.
        resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: no seeds, no items, or a share outside 0 to 1.
    """
    rng = np.random.default_rng(seed)
    drawn, means = [], []
    for of_seeds in (shares, [0.0] if minus is None else minus):
        if not of_seeds or items < 1 or not all(0 <= share <= 1 for share in of_seeds):
            raise ValueError(f"expected shares of 0 to 1 over at least one item, found {list(of_seeds)} over {items}")
        drawn.append(np.asarray(of_seeds, float)[rng.integers(len(of_seeds), size=(resamples, len(of_seeds)))].mean(1))
        means.append(sum(of_seeds) / len(of_seeds))
    counts = rng.multinomial(items, _least_in_common(*drawn).T)
    each = [value for value, of in zip((1.0, -1.0, 0.0), _least_in_common(*np.array(means)[:, None])) if of[0] > _ALIKE]
    ends = _percentiles((counts[:, 0] - counts[:, 1]) / items, confidence)
    ends = _past_the_items(*ends, each, items, SHARE if minus is None else DIFFERENCE, confidence)
    return Interval(means[0] - means[1], *ends, items)


def _least_in_common(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(3, draws): shares of items that only the first has right, only the second, and both or neither.

    As few are right in both as the two shares (draws,) allow.
    """
    one, other = np.clip(one, 0, 1), np.clip(other, 0, 1)
    both = np.maximum(one + other - 1, 0.0)
    only = np.clip(np.stack([one - both, other - both]), 0, 1)
    return np.concatenate([only, np.clip(1 - only.sum(0, keepdims=True), 0, 1)])


@dataclass(frozen=True)
class Comparison:
    """Two methods over the same items.

    Attributes:
        difference: mean of the first less that of the second, with its interval (`bootstrap_crossed`).
        p_items: of other questions to the same trainings; see `permutation_test`.
        p_seeds: of other trainings; see `permutation_of_groups`. None: a single training of each, so nothing is known.
        p: the larger of the two, valid for other questions *and* other trainings; None: ``p_seeds`` is.
        seeds: trainings of each method.
    """

    difference: Interval
    p_items: float
    p_seeds: float | None
    p: float | None
    seeds: tuple[int, int]


def compare_methods(one: Table, other: Table, seed: int = 0, per: Sequence[float] | None = None) -> Comparison:
    """Difference of two methods, with interval and tests.

    Args:
        one: (seeds, items).
        other: (seeds, the same items).
        seed: of the draws.
        per: as of `bootstrap_crossed`.

    Raises:
        ValueError: as `bootstrap_crossed`.
    """
    difference = bootstrap_crossed(one, other, seed=seed, per=per)
    first, second = _checked(one), _checked(other)
    p_items = permutation_test(list(first.mean(0)), list(second.mean(0)), seed=seed)
    p_seeds = p = None
    if len(first) > 1 or len(second) > 1:
        p_seeds = permutation_of_groups(list(first.mean(1)), list(second.mean(1)), seed=seed)
        p = max(p_items, p_seeds)
    return Comparison(difference, p_items, p_seeds, p, (len(first), len(second)))


def permutation_test(one: Sequence[float], other: Sequence[float], draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided paired permutation test over items: how often chance gives a mean difference as large.

    If two systems are alike, each item's two scores could as well be exchanged. All exchanges are counted where items
    that differ are few, else ``draws`` of them and the one that was observed.

    Args:
        one: score of each item.
        other: score of the same items by another system.
        draws: random exchanges.
        seed: of the draws.

    Raises:
        ValueError: no items, or different numbers of them.
    """
    if len(one) != len(other) or not len(one):
        raise ValueError(f"expected two scores of each item, found {len(one)} and {len(other)}")
    differences = np.subtract(np.asarray(one, float), np.asarray(other, float))
    differences = differences[differences != 0]  # exchanging equals changes nothing
    if not len(differences):
        return 1.0
    found = abs(differences.sum()) - 1e-9
    if 2 ** len(differences) <= _MOST_EXACT:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(differences))))
        return float((abs(signs @ differences) >= found).mean())
    rng = np.random.default_rng(seed)
    as_large = 0
    for start in range(0, draws, _CHUNK):
        signs = rng.choice((-1.0, 1.0), size=(min(_CHUNK, draws - start), len(differences)))
        as_large += int((abs(signs @ differences) >= found).sum())
    return (as_large + 1) / (draws + 1)


def permutation_of_groups(one: Sequence[float], other: Sequence[float], draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided permutation test over trainings: how often labels dealt by chance differ as much in the mean.

    Also the test of two kinds of anything that are not paired. Three trainings of each method cannot give less than
    0.1, five not less than 0.008: there are only 20 and 252 ways to deal the labels.

    Args:
        one: score of each training of a method.
        other: score of each training of another.
        draws: random deals, where they are too many to count.
        seed: of the draws.

    Raises:
        ValueError: a method without a training.
    """
    if not len(one) or not len(other):
        raise ValueError(f"expected trainings of two methods, found {len(one)} and {len(other)}")
    values = np.concatenate([np.asarray(one, float), np.asarray(other, float)])
    size, total = len(one), values.sum()

    def distance(sums: np.ndarray) -> np.ndarray:
        return abs(sums / size - (total - sums) / (len(values) - size))

    found = float(distance(values[:size].sum())) - 1e-9
    if math.comb(len(values), size) <= _MOST_EXACT:
        sums = np.array([values[list(chosen)].sum() for chosen in itertools.combinations(range(len(values)), size)])
        return float((distance(sums) >= found).mean())
    rng = np.random.default_rng(seed)
    sums = np.array([rng.permutation(values)[:size].sum() for _ in range(draws)])
    return (int((distance(sums) >= found).sum()) + 1) / (draws + 1)


def holm(values: Sequence[float]) -> list[float]:
    """Corrected p of several tests: below .05 where they hold together, with one false one in twenty tables at most."""
    order = np.argsort(values)
    raised = np.asarray(values, float)[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1.0)
    return [float(value) for value in corrected]


def _how_often(places: np.ndarray) -> np.ndarray:
    """(draws, size): how often each place is in each draw (draws, size) of as many places."""
    draws, size = places.shape
    flat = (places + size * np.arange(draws)[:, None]).ravel()
    return np.bincount(flat, minlength=draws * size).reshape(draws, size)


def _percentiles(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(draws, [tail, 100 - tail], method="inverted_cdf")
    return float(low), float(high)


def _checked(table: Table) -> np.ndarray:
    lengths = {len(row) for row in table}
    if len(lengths) != 1 or not min(lengths):
        raise ValueError(f"expected a row of as many scores for every seed, found rows of {sorted(lengths)} scores")
    return np.asarray(table, float)


def _same_items(tables: Sequence[np.ndarray]) -> None:
    counts = sorted({table.shape[1] for table in tables})
    if len(counts) > 1:
        raise ValueError(f"expected the same items of both methods, found {counts[0]} and {counts[1]}")
