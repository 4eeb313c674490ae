"""The comparison of policies: every policy on the same questions, its figures, its picture, its advice."""

import json

import pytest

from echox.api import EchoX
from echox.evaluation.studies.speech_policies.policy_comparison import (
    CANDIDATES,
    OFFLINE,
    compare_policies,
    policy_questions,
    recommend,
    summary,
)
from echox.evaluation.studies.speech_policies.policy_figure import draw_curve, policy_table


class FixedJudge:
    """A judge that hears one word a second of sound."""

    name = "fixed judge"

    def as_heard(self, text: str) -> str:
        return text

    def transcribe(self, waveforms, sampling_rate):
        return [" ".join(["the"] * int(len(waveform) / sampling_rate)) for waveform in waveforms]


LABELS = (OFFLINE, "reference", "semantic", "punctuation", "fixed 4", "early 4 words", "word by word")
CHOSEN = [candidate for candidate in CANDIDATES if candidate.label in LABELS]


@pytest.fixture(scope="module")
def result():
    model = EchoX.from_pretrained("nano")
    return compare_policies(model, FixedJudge(), policy_questions(None, 1), CHOSEN)


@pytest.mark.slow
def test_every_policy_answers_every_question(result):
    assert set(result["policies"]) == set(LABELS)
    for label, policy in result["policies"].items():
        figures = policy["all"]
        assert figures["replies"] == sum(result["questions"].values()), label
        assert figures["unspoken"] == figures["failures"] == 0, label
        assert 0 < figures["ttfa_tokens"]["p50"] <= figures["tokens"] * 2
        assert figures["rtf"] > 0
        assert figures["reply_wer"]["mean"] > 0
    texts = {policy["all"]["tokens"] for policy in result["policies"].values()}
    assert len(texts) == 1, "a policy changes how a reply is spoken, never what is written"


@pytest.mark.slow
def test_small_first_segments_speak_earlier_than_waiting(result):
    first = {label: policy["all"]["ttfa_tokens"]["mean"] for label, policy in result["policies"].items()}
    assert first["word by word"] < first["semantic"] < first[OFFLINE]
    assert first["early 4 words"] < first["semantic"]
    assert all(first[label] <= first[OFFLINE] for label in first)


@pytest.mark.slow
def test_the_curve_and_the_table(result, tmp_path):
    pytest.importorskip("matplotlib")
    draw_curve(result, tmp_path / "images" / "curve.png")
    assert (tmp_path / "images" / "curve.png").read_bytes().startswith(b"\x89PNG")
    table = policy_table(result)
    assert len(table) == 2 + len(CHOSEN)
    assert all(line.count("|") == table[0].count("|") for line in table)
    json.dumps(result)


def figures(tokens: float, wer: float, accuracy: float, underruns: int = 0) -> dict:
    return {
        "all": {
            "ttfa_tokens": {"p50": tokens},
            "ttfa_s": {"p50": tokens / 100},
            "reply_wer": {"mean": wer},
            "s2s_answer": {"mean": accuracy},
            "underruns": underruns,
            "replies": 100,
        }
    }


def test_the_earliest_that_is_as_good_as_waiting_is_recommended():
    policies = {
        OFFLINE: figures(30, 0.08, 0.70),
        "late": figures(20, 0.08, 0.70),
        "early": figures(5, 0.089, 0.695),
        "wrong": figures(3, 0.10, 0.70),
        "missed": figures(3, 0.08, 0.68),
        "stalls": figures(2, 0.08, 0.70, underruns=4),
        "stalls once": figures(4, 0.08, 0.70, underruns=1),
    }
    assert recommend(policies) == "stalls once"
    assert recommend({label: policies[label] for label in policies if label != "stalls once"}) == "early"
    assert recommend({OFFLINE: policies[OFFLINE], "wrong": policies["wrong"]}) is None
    assert recommend({"early": policies["early"]}) is None


def test_nothing_spoken_is_refused():
    silent = {"ttfa_s": None, "failures": 1}
    with pytest.raises(ValueError, match="spoken"):
        summary([silent])
    with pytest.raises(ValueError, match="at least one question"):
        compare_policies(None, None, [])


def test_without_a_corpus_the_bundled_questions_are_asked():
    items = policy_questions(None, 1)
    assert len(items) == 1
    assert items[0].group == "bundled"
