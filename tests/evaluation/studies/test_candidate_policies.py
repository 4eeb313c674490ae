"""Speech policies of the comparison of policies: the rules of every policy, and each one's own."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.evaluation.studies.speech_policies.candidate_policies import (
    CANDIDATE_POLICIES,
    EarlyFirst,
    Punctuation,
    candidate_policy,
)
from echox.evaluation.studies.speech_policies.policy_comparison import CANDIDATES
from echox.streaming.reply_text.policies import POLICIES, Release, make_policy
from policy_runs import NANO, TOKENS, check_rules, cuts, longest_segment, run

EXAMPLES = [
    candidate_policy("punctuation", NANO, min_tokens=2, max_tokens=6),
    candidate_policy("fixed", NANO, every_tokens=5),
    candidate_policy("early_first", NANO, first_words=2, min_tokens=3),
    EarlyFirst(make_policy("word_by_word", NANO), first_words=1),
    EarlyFirst(Punctuation(3, 30), first_words=1),
]


@pytest.mark.parametrize("policy", EXAMPLES, ids=str)
@settings(deadline=None, max_examples=120)
@given(reply=st.lists(TOKENS, max_size=70))
def test_nothing_is_lost_and_words_stay_whole(policy, reply):
    check_rules(policy, reply)


@pytest.mark.parametrize(
    ("name", "numbers", "tokens"),
    [("punctuation", {}, 30), ("fixed", {"every_tokens": 5}, 5), ("early_first", {}, 60)],
)
def test_a_long_reply_without_a_peak_or_punctuation_is_cut_all_the_same(name, numbers, tokens):
    assert longest_segment(candidate_policy(name, NANO, **numbers)) == tokens


def test_punctuation_ends_sentences_and_long_enough_clauses():
    text = "Yes. Pi is 3.14, so they say, more or less. See e.g.this: one, two."
    assert cuts(candidate_policy("punctuation", NANO), text) == [
        "Yes.",
        "Pi is 3.14,",
        "so they say,",
        "more or less.",
        "See e.g.this:",
        "one, two.",
    ]
    assert cuts(candidate_policy("punctuation", NANO, min_tokens=5), "No, it is not so far, she said.") == [
        "No, it is not so far,",
        "she said.",
    ]


def test_fixed_waits_for_the_word_to_end():
    reply = [(0.0, " a", True)] * 3 + [(0.0, "b", False)] * 2 + [(0.0, " c", True)]
    assert run(candidate_policy("fixed", NANO, every_tokens=3), reply)[-2:] == [[Release(5, True)], [Release(6, True)]]


def test_the_first_segment_is_small():
    assert cuts(candidate_policy("early_first", NANO, first_words=3), "The capital of France is Paris.") == [
        "The capital of",
        "France is Paris.",
    ]
    assert cuts(candidate_policy("early_first", NANO, first_words=3), "Yes, it is.") == ["Yes,", "it is."]


@pytest.mark.parametrize("name", POLICIES)
def test_policies_of_the_library_are_candidates_too(name):
    assert candidate_policy(name, NANO) == make_policy(name, NANO)


def test_every_candidate_of_the_comparison_is_a_policy():
    assert {candidate.policy for candidate in CANDIDATES} == set(CANDIDATE_POLICIES)
    for candidate in CANDIDATES:
        check_rules(candidate_policy(candidate.policy, NANO, **candidate.numbers), [(0.0, " a", True)] * 40)


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("sematic", {}, "early_first"),
        ("fixed", {"every": 3}, "every_tokens"),
        ("fixed", {"every_tokens": 0}, "at least 1"),
        ("punctuation", {"max_tokens": 2.5}, "number of tokens"),
        ("early_first", {"first_words": 0}, "first_words"),
        ("early_first", {"first_words": "2"}, "number of tokens"),
        ("early_first", {"every_tokens": 4}, "limit_tokens"),
    ],
)
def test_mistakes_are_refused(name, numbers, message):
    with pytest.raises(ValueError, match=message):
        candidate_policy(name, NANO, **numbers)


@pytest.mark.parametrize("name", CANDIDATE_POLICIES)
def test_misuse_is_refused(name):
    state = candidate_policy(name, NANO).state()
    with pytest.raises(ValueError, match="not a number"):
        state.push(float("nan"), " a", True)
    state.flush()
    with pytest.raises(ValueError, match="flushed"):
        state.push(0.3, " a", True)
