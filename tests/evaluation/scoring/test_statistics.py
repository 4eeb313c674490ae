"""Intervals and tests against published routines and by their own laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from echox.evaluation.scoring.statistics import (
    bootstrap,
    bootstrap_crossed,
    bootstrap_shares,
    compare_methods,
    permutation_of_groups,
    permutation_test,
)


def scipy_test(one, other, kind):
    def difference(x, y):
        return float(np.mean(x) - np.mean(y))

    return stats.permutation_test((one, other), difference, permutation_type=kind, n_resamples=np.inf).pvalue


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.5, 1.0])), min_size=2, max_size=8))
def test_paired_test_is_scipys(pairs):
    one, other = [float(a) for a, _ in pairs], [float(b) for _, b in pairs]
    assert permutation_test(one, other) == pytest.approx(scipy_test(one, other, "samples"))


def test_test_of_trainings_is_scipys_and_knows_its_limit():
    first, second = [0.34, 0.32, 0.25], [0.29, 0.24]
    assert permutation_of_groups(first, second) == pytest.approx(scipy_test(first, second, "independent"))
    assert permutation_of_groups([3.0, 4.0, 5.0], [0.0, 1.0, 2.0]) == pytest.approx(0.1)  # the least of 20 deals


def test_many_items_are_drawn_and_never_give_zero():
    rng = np.random.default_rng(1)
    right = (rng.random(200) < 0.8).astype(float)
    worse = right * (rng.random(200) < 0.7)
    assert permutation_test(list(right), list(worse)) == pytest.approx(1 / 10_001)
    assert permutation_test(list(right), list(rng.permutation(right))) > 0.05
    assert permutation_of_groups(list(right), list(worse)) < 0.001


def test_systems_that_are_alike_are_rejected_as_often_as_promised():
    rng = np.random.default_rng(2)
    values = [
        permutation_test(list(rng.integers(0, 2, 12)), list(rng.integers(0, 2, 12)), draws=200) for _ in range(400)
    ]
    assert np.mean(np.array(values) <= 0.05) <= 0.08


def test_of_one_seed_the_crossed_interval_is_that_over_items():
    right = [1.0] * 60 + [0.0] * 40
    crossed, plain, shares = bootstrap_crossed([right]), bootstrap(right), bootstrap_shares([0.6], 100)
    for found in (crossed, shares):
        assert found.mean == pytest.approx(0.6)
        assert found.low == pytest.approx(plain.low, abs=0.021)
        assert found.high == pytest.approx(plain.high, abs=0.021)
        assert found.count == 100


def test_seeds_that_differ_widen_the_interval():
    low, high = [1.0] * 20 + [0.0] * 80, [1.0] * 80 + [0.0] * 20
    assert bootstrap_crossed([low, high]).low < 0.25
    assert bootstrap_crossed([low, high]).high > 0.75
    same = bootstrap_crossed([low, low])
    assert same.high - same.low < 0.2


def test_errors_are_counted_per_word_of_all_items():
    errors, words = [[2.0, 3.0], [0.0, 1.0]], [4, 6]
    found = bootstrap_crossed(errors, per=words)
    assert found.mean == pytest.approx(6 / 20)
    assert (found.low, found.high) == pytest.approx((0.0, 0.5))
    assert compare_methods(errors, [[0.0, 0.0]], per=words).difference.mean == pytest.approx(6 / 20)
    assert bootstrap_crossed(errors, per=[1, 1]) == bootstrap_crossed(errors)
    for wrong in ([4], [4, 0]):
        with pytest.raises(ValueError, match="a number above 0 for each of 2 items"):
            bootstrap_crossed(errors, per=wrong)


def test_a_difference_is_paired_by_item_where_items_are_known():
    right = [float(number % 2) for number in range(100)]
    other = right[:90] + [0.0] * 10
    paired = bootstrap_crossed([right, right], [other, other])
    unpaired = bootstrap_shares([0.5, 0.5], 100, minus=[0.45, 0.45])
    assert paired.mean == pytest.approx(0.05) == pytest.approx(unpaired.mean)
    assert paired.low > 0 > unpaired.low


def test_the_value_for_questions_and_trainings_is_the_larger():
    good, bad = [[1.0] * 30] * 3, [[0.0] * 30] * 3
    found = compare_methods(good, bad)
    assert found.p_items < 0.001
    assert found.p_seeds == found.p == pytest.approx(0.1)  # three trainings of each cannot say more
    assert found.difference.low == found.difference.high == 1.0
    alone = compare_methods(good[:1], bad[:1])
    assert (alone.p_seeds, alone.p, alone.seeds) == (None, None, (1, 1))


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="rows of"):
        bootstrap_crossed([[1.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match="the same items of both methods, found 1 and 2"):
        bootstrap_crossed([[1.0]], [[1.0, 0.0]])
    with pytest.raises(ValueError, match="two scores of each item"):
        permutation_test([1.0], [])
    with pytest.raises(ValueError, match="trainings of two methods"):
        permutation_of_groups([1.0], [])
    with pytest.raises(ValueError, match="shares of 0 to 1"):
        bootstrap_shares([1.2], 10)
