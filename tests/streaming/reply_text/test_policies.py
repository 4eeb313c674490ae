"""Speech policies: no token lost or released twice, whole words; and each policy's own rule."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.streaming.reply_text.policies import POLICIES, REFERENCE_TRIGGER, Release, ends_sentence, make_policy
from echox.streaming.reply_text.trigger import Segment
from policy_runs import NANO, TOKENS, check_rules, cuts, longest_segment, run, words

EXAMPLES = [
    ("semantic", {}),
    ("semantic", {"min_tokens": 1, "max_tokens": 3, "lookahead_tokens": 0, "limit_tokens": 4}),
    ("word_by_word", {"max_tokens": 7}),
    ("whole", {"max_tokens": 9}),
    ("reference", {"max_tokens": 21}),
]


@pytest.mark.parametrize(("name", "numbers"), EXAMPLES)
@settings(deadline=None, max_examples=120)
@given(reply=st.lists(TOKENS, max_size=70))
def test_nothing_is_lost_and_words_stay_whole(name, numbers, reply):
    check_rules(make_policy(name, NANO, **numbers), reply)


@pytest.mark.parametrize(
    ("name", "tokens"), [("semantic", 60), ("reference", 102), ("word_by_word", 30), ("whole", 30)]
)
def test_a_long_reply_without_a_peak_or_punctuation_is_cut_all_the_same(name, tokens):
    assert longest_segment(make_policy(name, NANO)) == tokens


@settings(deadline=None, max_examples=100)
@given(reply=st.lists(TOKENS, max_size=60))
def test_semantic_is_the_trigger(reply):
    scores, _, opens = zip(*reply, strict=True) if reply else ((), (), ())
    expected = NANO.segment(scores, opens)
    if all(len(segment) < 60 for segment in expected):
        ends = [release.end for step in run(make_policy("semantic", NANO), reply) for release in step]
        assert ends == [segment.end for segment in expected]


def test_the_reference_is_the_published_trigger():
    scores = [0.5 if index in (18, 22, 48) else 0.0 for index in range(60)]
    found = run(make_policy("reference", NANO), [(score, " a", True) for score in scores])
    assert REFERENCE_TRIGGER.segment(scores)[0] == Segment(0, 23)
    assert found[27] == [Release(23, True)], "27 text tokens and a look-ahead: the published latency"


@pytest.mark.parametrize(
    ("text", "following", "expected"),
    [
        ("It is late.", " So", True),
        ('He said "no."', " So", True),
        ("It is late", " so", False),
        ("1.", " Take", False),
        ("It costs 5.", " So", True),
        ("Written by J.", " Smith", False),
        ("A list", "\nfirst", True),
        ("A list\n", "first", True),
        ("晴れです。", "明日", True),
    ],
)
def test_where_sentences_end(text, following, expected):
    assert ends_sentence(text, following) is expected


def test_word_by_word_releases_at_once():
    found = run(make_policy("word_by_word", NANO), words("No. It is"))
    assert found == [
        [Release(1, False)],
        [Release(2, False)],
        [Release(2, True), Release(3, False)],
        [Release(4, False)],
        [Release(4, True)],
    ]


def test_whole_waits_and_prefers_sentences():
    text = "It is so. It is not. It may be."
    assert cuts(make_policy("whole", NANO), text) == [text]
    assert cuts(make_policy("whole", NANO, max_tokens=9), text) == ["It is so. It is not.", "It may be."]
    assert all(not step for step in run(make_policy("whole", NANO), words("It is so. It is not."))[:-1])


@pytest.mark.parametrize(
    ("name", "numbers", "message"),
    [
        ("sematic", {}, "word_by_word, semantic"),
        ("punctuation", {}, "expected one of word_by_word"),
        ("semantic", {"first_words": 3}, "lookahead_tokens"),
        ("word_by_word", {"every_tokens": 3}, "min_tokens"),
        ("word_by_word", {"min_tokens": 0}, "at least 1"),
        ("whole", {"max_tokens": 0}, "at least 1"),
        ("word_by_word", {"max_tokens": 2.5}, "number of tokens"),
        ("semantic", {"limit_tokens": 5}, "limit_tokens"),
    ],
)
def test_mistakes_are_refused(name, numbers, message):
    with pytest.raises(ValueError, match=message):
        make_policy(name, NANO, **numbers)


@pytest.mark.parametrize("name", POLICIES)
def test_misuse_is_refused(name):
    state = make_policy(name, NANO).state()
    with pytest.raises(ValueError, match="not a number"):
        state.push(float("nan"), " a", True)
    state.flush()
    with pytest.raises(ValueError, match="flushed"):
        state.push(0.3, " a", True)


def test_policies_import_no_torch():
    code = "import sys, echox.streaming.reply_text.policies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
