"""Intervals and tests against published routines and by their own laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from echox.evaluation.scoring.statistics import (
    DIFFERENCE,
    bootstrap,
    bootstrap_crossed,
    bootstrap_ratio,
    bootstrap_shares,
    compare_methods,
    holm,
    permutation_of_groups,
    permutation_test,
    unseen_share,
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
    assert (found.low, found.high) == pytest.approx((0.0, 2 / 6 + unseen_share(2) * 4 / 6))  # the items: 1/4 and 2/6
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
    assert found.difference.high == 1.0
    assert found.difference.low == pytest.approx(1 - 2 * unseen_share(30))
    alone = compare_methods(good[:1], bad[:1])
    assert (alone.p_seeds, alone.p, alone.seeds) == (None, None, (1, 1))


@pytest.mark.parametrize("items", [1, 3, 40, 150])
def test_equal_scores_have_no_interval_of_no_width(items):
    """What so many items cannot exclude is that of SciPy's exact interval, for every kind of score."""
    exact = stats.binomtest(items, items).proportion_ci(method="exact")
    unseen = 1 - exact.low
    right, wrong = [1.0] * items, [0.0] * items
    of_shares = [bootstrap(right), bootstrap_crossed([right, right]), bootstrap_shares([1.0], items)]
    for found in of_shares:
        assert (found.low, found.high) == pytest.approx((exact.low, 1.0))
    for found in (bootstrap(wrong), bootstrap_crossed([wrong] * 3), bootstrap_shares([0.0, 0.0], items)):
        assert (found.low, found.high) == pytest.approx((0.0, unseen))
    differences = [bootstrap(wrong, bounds=DIFFERENCE), bootstrap_crossed([right] * 3, [right])]
    differences += [compare_methods([right], [right]).difference, bootstrap_shares([0.0], items, minus=[0.0])]
    differences += [bootstrap_crossed([wrong], [wrong], per=[4.0] * items)]
    for found in differences:
        assert (found.low, found.high) == pytest.approx((-unseen, unseen))
    found = bootstrap_ratio(right, right)
    assert (found.low, found.high) == pytest.approx((1 - unseen, 1 + unseen))


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=5, max_size=40))
def test_an_end_stops_at_no_item(pairs):
    """No interval ends where its items do, unless no score can be beyond."""
    one, other = ([float(pair[side]) for pair in pairs] for side in (0, 1))
    differences = np.subtract(one, other)
    found = bootstrap_crossed([one], [other], resamples=500)
    assert found.low <= differences.mean() <= found.high
    assert found.low != pytest.approx(differences.min()) or differences.min() == -1
    assert found.high != pytest.approx(differences.max()) or differences.max() == 1
    assert found.low < found.high


def test_an_end_at_zero_is_moved_where_no_item_speaks_for_the_other_side():
    right, fewer = [1.0] * 100, [1.0] * 98 + [0.0] * 2
    found = bootstrap_crossed([fewer], [right])
    assert found.low < -0.03
    assert found.high == pytest.approx(unseen_share(100))
    assert bootstrap_ratio(fewer, right).high == pytest.approx(1 + unseen_share(100))


@pytest.mark.parametrize(("first", "second"), [(10, 10), (3, 10), (16, 12), (0, 5), (20, 13)])
def test_shares_alone_give_the_widest_difference_that_answers_could(first, second):
    one, other = ([1.0] * count + [0.0] * (20 - count) for count in (first, second))
    widest = bootstrap_shares([first / 20], 20, minus=[second / 20])
    for seed in range(3):
        np.random.default_rng(seed).shuffle(other)
        paired = bootstrap_crossed([one], [other], resamples=1000)
        assert widest.mean == pytest.approx(paired.mean)
        assert widest.low <= paired.low + 0.051  # a question more or less by chance
        assert widest.high >= paired.high - 0.051


def test_answers_that_exclude_each_other_are_as_wide_as_shares_say():
    one, other = [1.0] * 30 + [0.0] * 70, [0.0] * 70 + [1.0] * 30
    apart, shares = bootstrap_crossed([one], [other]), bootstrap_shares([0.3], 100, minus=[0.3])
    assert (shares.low, shares.high) == pytest.approx((apart.low, apart.high), abs=0.021)


def test_holms_correction_is_that_of_its_paper():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.016] + [0.0001] * 6 + [1.0] * 5)[0] == pytest.approx(0.096)
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    rng = np.random.default_rng(3)
    rejected = [min(holm(list(rng.random(12)))) <= 0.05 for _ in range(1000)]
    assert np.mean(rejected) <= 0.07


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
