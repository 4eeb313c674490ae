"""Scores against published cases and by their own laws."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echox.data.scoring import WordErrors, area_under_curve, edit_counts, normalize_words, same_words, word_errors
from echox.evaluation.scoring.metrics import agreement_table, exist_match
from echox.evaluation.scoring.statistics import bootstrap
from paths import GOLDEN

words = st.lists(st.sampled_from(["a", "b", "c", "d"]), max_size=7)


def golden(name: str) -> dict:
    path = GOLDEN / name
    if not path.exists():
        pytest.skip(f"golden cases are not beside this checkout: {path}")
    return json.loads(path.read_text())


def test_exist_match_follows_ultraeval():
    for case in golden("golden_scoring.json")["cases"]:
        assert exist_match(case["prediction"], case["references"]) == bool(case["score"]), case["id"]


def test_naive_word_error_rate_follows_seed_tts():
    compared = 0
    for case in golden("golden_wer.json")["cases"]:
        # Marks inside words are where the two differ: seed-tts-eval joins "twenty-one", we open it, as spoken.
        if not all(re.fullmatch(r"[A-Za-z0-9 ,]+[.?!]?", case[side]) for side in ("reference", "hypothesis")):
            continue
        compared += 1
        assert word_errors([case["reference"]], [case["hypothesis"]]).rate == pytest.approx(
            case["naive_wer"], abs=1e-5
        ), case
    assert compared >= 5


@given(words, words)
def test_alignment_is_a_distance_with_consistent_counts(left, right):
    one, other = edit_counts(left, right), edit_counts(right, left)
    assert one.errors == other.errors
    assert (one.errors == 0) == (left == right)
    assert one.insertions - one.deletions == len(right) - len(left)
    assert one.errors <= max(len(left), len(right))


def test_counts_add_up_over_a_corpus():
    assert word_errors(["a b c", "d"], ["a x c", "d e"]) == WordErrors(1, 1, 0, 4)
    with pytest.raises(ValueError, match="as many hypotheses"):
        word_errors(["a"], [])


def test_normalisation_is_about_words_only():
    assert normalize_words("Forty-two, it's  'Paris'!") == ["forty", "two", "it's", "paris"]
    assert same_words("The dog says woof.", "the dog says woof")


def test_bootstrap_holds_the_mean():
    interval = bootstrap([1.0] * 30 + [0.0] * 10)
    assert interval.low < interval.mean == 0.75 < interval.high
    with pytest.raises(ValueError, match="at least one"):
        bootstrap([])


def test_agreement_table_counts_every_reply():
    table = agreement_table([True, True, False, False], [True, False, True, False])
    assert set(table.values()) == {1}


def test_the_area_under_the_curve_counts_pairs():
    positive = np.array([True, True, False, False])
    assert area_under_curve(np.array([3.0, 2.0, 1.0, 0.0]), positive) == 1
    assert area_under_curve(np.array([3.0, 1.0, 1.0, 2.0]), positive) == 2.5 / 4  # a draw is half a pair
    assert area_under_curve(np.zeros(4), positive) == 0.5
