"""Speech policies: nothing lost, nothing twice, whole words; and each policy's own rule."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.streaming.policies import POLICIES, REFERENCE_TRIGGER, Release, ends_sentence, make_policy
from echox.streaming.trigger import Segment, Trigger

NANO = Trigger(4, 30, 2, 0.45)
CANDIDATES = [
    ("semantic", {}),
    ("semantic", {"min_tokens": 1, "max_tokens": 3, "lookahead_tokens": 0, "limit_tokens": 4}),
    ("punctuation", {"min_tokens": 2, "max_tokens": 6}),
    ("fixed", {"every_tokens": 5}),
    ("early_first", {"first_words": 2}),
    ("early_first", {"first_words": 1, "inner": "word_by_word"}),
    ("word_by_word", {"max_tokens": 7}),
    ("whole", {"max_tokens": 9}),
    ("reference", {"max_tokens": 21}),
]
tokens = st.tuples(
    st.sampled_from([-0.2, 0.1, 0.3, 0.44, 0.46, 0.9]),
    st.sampled_from(["", " the", " a", "ing", ".", ",", " 3", "?", "\n", "”", " e", "。"]),
    st.booleans(),
)


def run(policy, reply):
    """Releases of every push, then of the flush."""
    state = policy.state()
    return [*(list(state.push(*token)) for token in reply), list(state.flush())]


def words(text, score=0.0):
    """Tokens of a text: a word each, with the space before it, punctuation apart."""
    found = []
    for number, word in enumerate(text.split(" ")):
        body = word.rstrip(".,!?;:")
        lead = " " if number else ""
        found += [(score, lead + body, True)] if body else []
        found += [(score, mark, False) for mark in word[len(body) :]]
    return found


def cuts(name, text, **numbers):
    """The segments' texts."""
    reply = words(text)
    ends = [release.end for step in run(make_policy(name, NANO, **numbers), reply) for release in step if release.final]
    return ["".join(token[1] for token in reply[a:b]).strip() for a, b in zip([0, *ends], ends, strict=False)]


@pytest.mark.parametrize(("name", "numbers"), CANDIDATES)
@settings(deadline=None, max_examples=120)
@given(reply=st.lists(tokens, max_size=70))
def test_nothing_is_lost_and_words_stay_whole(name, numbers, reply):
    steps = run(make_policy(name, NANO, **numbers), reply)
    flat = [release for step in steps for release in step]
    final = [release.end for release in flat if release.final]
    assert (final[-1] if final else 0) == len(reply), "the segments cover the reply"
    assert final == sorted(set(final)), "no segment is empty"
    assert all(reply[end][2] for end in final[:-1]), "a segment begins at a word"
    assert [r.end for r in flat] == sorted(r.end for r in flat), "releases never go back"
    for seen, step in enumerate(steps, start=1):
        assert all(release.end <= min(seen, len(reply)) for release in step), "nothing is released before it is there"
    if not reply:
        assert not flat


@pytest.mark.parametrize(
    ("name", "numbers", "longest"),
    [
        ("semantic", {}, 60),
        ("reference", {}, 102),
        ("punctuation", {}, 30),
        ("fixed", {"every_tokens": 5}, 5),
        ("early_first", {}, 60),
        ("word_by_word", {}, 30),
        ("whole", {}, 30),
    ],
)
def test_a_long_reply_without_a_peak_or_punctuation_is_cut_all_the_same(name, numbers, longest):
    reply = [(-index / 1000, " on", True) for index in range(400)]  # a score that only falls has no peak
    ends = [release.end for step in run(make_policy(name, NANO, **numbers), reply) for release in step if release.final]
    assert max(b - a for a, b in zip([0, *ends], ends, strict=False)) == longest


@settings(deadline=None, max_examples=100)
@given(reply=st.lists(tokens, max_size=60))
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


def test_punctuation_ends_sentences_and_long_enough_clauses():
    text = "Yes. Pi is 3.14, so they say, more or less. See e.g.this: one, two."
    assert cuts("punctuation", text) == [
        "Yes.",
        "Pi is 3.14,",
        "so they say,",
        "more or less.",
        "See e.g.this:",
        "one, two.",
    ]
    assert cuts("punctuation", "No, it is not so far, she said.", min_tokens=5) == [
        "No, it is not so far,",
        "she said.",
    ]


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


def test_fixed_waits_for_the_word_to_end():
    reply = [(0.0, " a", True)] * 3 + [(0.0, "b", False)] * 2 + [(0.0, " c", True)]
    assert run(make_policy("fixed", NANO, every_tokens=3), reply)[-2:] == [[Release(5, True)], [Release(6, True)]]


def test_the_first_segment_is_small():
    assert cuts("early_first", "The capital of France is Paris.", first_words=3) == [
        "The capital of",
        "France is Paris.",
    ]
    assert cuts("early_first", "Yes, it is.", first_words=3) == ["Yes,", "it is."]


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
    assert cuts("whole", "It is so. It is not. It may be.") == ["It is so. It is not. It may be."]
    assert cuts("whole", "It is so. It is not. It may be.", max_tokens=9) == ["It is so. It is not.", "It may be."]
    assert all(not step for step in run(make_policy("whole", NANO), words("It is so. It is not."))[:-1])


@pytest.mark.parametrize(
    ("name", "numbers", "said"),
    [
        ("sematic", {}, "semantic, punctuation"),
        ("fixed", {"every": 3}, "every_tokens"),
        ("semantic", {"first_words": 3}, "lookahead_tokens"),
        ("fixed", {"every_tokens": 0}, "at least 1"),
        ("punctuation", {"max_tokens": 2.5}, "number of tokens"),
        ("early_first", {"first_words": 0}, "first_words"),
        ("semantic", {"limit_tokens": 5}, "limit_tokens"),
        ("early_first", {"inner": "early"}, "early_first"),
    ],
)
def test_mistakes_are_refused(name, numbers, said):
    with pytest.raises(ValueError, match=said):
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
    code = "import sys, echox.streaming.policies; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
