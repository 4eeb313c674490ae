"""The trigger: segments partition the reply, streaming equals off-line, whole words, decisions of the official code."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.streaming.reply_text.trigger import Segment, Trigger
from paths import GOLDEN

scores_lists = st.lists(st.sampled_from([-0.2, 0.0, 0.05, 0.1, 0.3, 0.44, 0.46, 0.7, 0.9]), max_size=60)
triggers = st.builds(
    lambda low, extra, lookahead, threshold: Trigger(low, low + extra, lookahead, threshold),
    st.integers(1, 8),
    st.integers(0, 10),
    st.integers(0, 5),
    st.sampled_from([-1.0, 0.1, 0.45]),
)


def stream(trigger: Trigger, scores: list[float], opens: list[bool] | None = None) -> tuple[list[Segment], list[int]]:
    """Segments in streaming order and how many tokens had been seen when each was known."""
    state, segments, known = trigger.state(), [], []
    for index, score in enumerate(scores):
        segment = state.push(score, True if opens is None else opens[index])
        if segment is not None:
            segments.append(segment)
            known.append(state.num_tokens)
    last = state.flush()
    if last is not None:
        segments.append(last)
        known.append(state.num_tokens)
    return segments, known


@settings(deadline=None, max_examples=150)
@given(scores=scores_lists, trigger=triggers, data=st.data())
def test_segments_partition_the_reply_in_whole_words(scores, trigger, data):
    opens = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    segments, known = stream(trigger, scores, opens)
    assert [t for s in segments for t in range(s.start, s.end)] == list(range(len(scores)))
    assert all(len(s) > 0 for s in segments)
    assert all(opens[s.start] for s in segments[1:]), "a segment may only begin at a word"
    assert all(len(s) >= trigger.min_tokens for s in segments[:-1])
    assert known == sorted(known)


@settings(deadline=None, max_examples=150)
@given(scores=scores_lists, trigger=triggers, data=st.data())
def test_streaming_equals_offline(scores, trigger, data):
    opens = data.draw(st.one_of(st.none(), st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    assert stream(trigger, scores, opens)[0] == trigger.segment(scores, opens)


def test_holds_counts_the_token_of_the_peak():
    """A segment may end once it *holds* min_tokens tokens: the third token of a minimum of three."""
    scores = [0.0, 0.0, 0.9, 0.0, 0.0, 0.0]
    assert Trigger(3, 10, 2, 0.45).segment(scores) == [Segment(0, 3), Segment(3, 6)]
    assert Trigger(4, 10, 2, 0.45).segment(scores) == [Segment(0, 6)]


def test_a_peak_is_known_lookahead_tokens_late():
    state = Trigger(3, 10, 2, 0.45).state()
    found = [state.push(score) for score in [0.0, 0.0, 0.9, 0.1, 0.1]]
    assert found == [None, None, None, None, Segment(0, 3)]


def test_a_long_segment_ends_at_a_peak_whatever_the_score():
    scores = [-0.5] * 5 + [-0.1] + [-0.5] * 5
    assert Trigger(2, 6, 2, 0.45).segment(scores)[0] == Segment(0, 6)


def test_a_cut_inside_a_word_moves_to_the_end_of_the_word():
    scores = [0.0, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0]
    opens = [True, True, True, False, False, True, True]  # the peak falls on the first token of a word of three
    segments, known = stream(Trigger(3, 10, 1, 0.45), scores, opens)
    assert segments == [Segment(0, 5), Segment(5, 7)]
    assert known[0] == 6, "the word that follows shows that the word has ended"


@pytest.mark.parametrize(
    "numbers", [(0, 5, 2, 0.4), (6, 5, 2, 0.4), (2, 5, -1, 0.4), (2, 5, 2, 1.5)], ids=["min", "max", "window", "cosine"]
)
def test_impossible_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match="trigger"):
        Trigger(*numbers)


def test_misuse_is_refused():
    state = Trigger(1, 2, 0, 0.1).state()
    with pytest.raises(ValueError, match="not a number"):
        state.push(float("nan"))
    state.flush()
    with pytest.raises(ValueError, match="flushed"):
        state.push(0.3)
    with pytest.raises(ValueError, match="word flags"):
        Trigger().segment([0.1, 0.2], [True])


@pytest.mark.skipif(not (GOLDEN / "C_segmentation.json").is_file(), reason="golden cases of the official code not here")
def test_golden_cases_of_the_official_code():
    """The official code compares k - start: one token more than "holds" says; its scores are float32 made float."""
    from safetensors.numpy import load_file

    golden = json.loads((GOLDEN / "C_segmentation.json").read_text())
    tensors = load_file(GOLDEN / "C_segmentation.safetensors")
    scores, offsets = tensors["scores"].astype("float64"), tensors["offsets"]
    numbers = golden["params"]
    trigger = Trigger(
        min_tokens=numbers["soft_min"] + 1,
        max_tokens=numbers["hard_min"] + 1,
        lookahead_tokens=numbers["window"],
        threshold=numbers["soft_threshold"],
    )
    for index, case in enumerate(golden["cases"]):
        row = scores[offsets[index] : offsets[index + 1]].tolist()
        segments, known = stream(trigger, row)
        assert [[s.start, s.end] for s in segments] == case["segments"], case["kind"]
        assert known == case["decided_after_tokens"], case["kind"]
