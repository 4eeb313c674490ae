"""Judges: they agree with themselves, disagree as counted, and one that cannot write the words is not counted."""

from importlib.util import find_spec

import numpy as np
import pytest

from echox.evaluation.evidence.agreement import (
    Hearing,
    agreement_markdown,
    cohen_kappa,
    compare,
    measure_agreement,
    rank_correlation,
)
from echox.evaluation.judges.asr import open_judge
from echox.evaluation.run import run_tasks
from echox.evaluation.sets.items import EvalItem
from echox.evaluation.sets.tasks import Task
from echox.evaluation.subjects.local import LocalSubject
from tiny_echox import tiny_echox

TEXTS = [f"the answer is {word}" for word in ("one", "two", "three", "four", "five", "six")]


def hearing(name: str, said: list[str], unknown: float = 0.0) -> Hearing:
    right = [text.split()[-1] in transcript.split() for text, transcript in zip(TEXTS, said, strict=True)]
    return Hearing(name, TEXTS, said, right, unknown)


def test_agreement_is_kappa_and_rank_correlation():
    clear = [*TEXTS[:4], "the answer is", "the"]
    found = compare([hearing("a", clear), hearing("b", clear), hearing("c", [*clear[:3], "an answer is", *clear[4:]])])
    same, other, _ = found["pairs"]
    assert same["kappa"]["mean"] == pytest.approx(1.0)
    assert same["wer_correlation"]["mean"] == pytest.approx(1.0)
    assert same["same_verdict"]["mean"] == 1.0
    assert other["same_verdict"]["mean"] == pytest.approx(5 / 6)
    assert other["kappa"]["mean"] == pytest.approx((5 / 6 - 1 / 2) / (1 - 1 / 2))  # 4 and 3 of 6 right
    assert other["kappa"]["low"] <= other["kappa"]["mean"] <= other["kappa"]["high"]
    assert found["judges"]["a"]["right"]["mean"] == pytest.approx(4 / 6)
    table = agreement_markdown({"tasks": {"qa": found}})
    assert "| qa | a / c | 83.3 %" in table


def test_figures_are_those_of_the_libraries():
    from scipy.stats import spearmanr
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    for share in (0.5, 0.9):
        one, other = rng.random((2, 5, 40)) < share
        assert cohen_kappa(one, other) == pytest.approx([cohen_kappa_score(*pair) for pair in zip(one, other)])
        rates, others = rng.integers(0, 4, (2, 5, 40)) / 4
        wanted = [spearmanr(*pair).statistic for pair in zip(rates, others)]
        assert rank_correlation(rates, others) == pytest.approx(wanted)


def test_what_is_not_defined_is_not_measured():
    found = compare([hearing("a", TEXTS), hearing("b", TEXTS), hearing("phones", TEXTS, unknown=0.3)])
    (pair,) = found["pairs"]
    assert pair["same_verdict"]["mean"] == 1.0
    assert "not_measured" in pair["kappa"]  # both say "right" of every reply
    assert found["judges"]["phones"]["wer"] == {"not_measured": "it cannot write 30 % of the replies' words"}


class Parrot:
    """Hears the same words in everything."""

    sampling_rate = 16000

    def __init__(self, name: str, says: str) -> None:
        self.name, self.says, self.calls = name, says, 0

    def transcribe(self, waveforms, sampling_rate):
        self.calls += len(waveforms)
        return [self.says] * len(waveforms)

    def as_heard(self, text):
        return text

    def unknown_words(self, text):
        return 0


def test_replies_of_a_run_are_heard_once_by_each_judge(tmp_path):
    items = [EvalItem(f"q{n}", [{"role": "user", "content": f"What is {n}?"}], "?", ("red",)) for n in range(3)]
    subject = LocalSubject(tiny_echox(), "tiny", None)
    run_tasks([Task("qa", "qa", items, "here")], subject, None, tmp_path)
    one, other = Parrot("one", "it is red"), Parrot("other", "it is blue")
    found = measure_agreement(tmp_path, [one, other], limit=2)
    figures = found["tasks"]["qa"]
    assert figures["replies"] == one.calls == other.calls == 2
    assert figures["judges"]["one"]["right"]["mean"] == 1.0
    assert figures["pairs"][0]["same_verdict"]["mean"] == 0.0
    assert measure_agreement(tmp_path, [one, other], limit=2) == found
    assert one.calls == 2
    with pytest.raises(ValueError, match="two or more judges"):
        measure_agreement(tmp_path, [one])


@pytest.mark.skipif(find_spec("pocketsphinx") is None, reason="pocketsphinx is not installed")
def test_pocketsphinx_hears_the_same_whatever_came_before():
    judge = open_judge("pocketsphinx", "")
    noise = np.random.default_rng(0).normal(0, 0.05, 16000).astype(np.float32)
    first = judge.transcribe([noise], 16000)
    judge.transcribe([10 * noise[:8000]], 16000)
    assert judge.transcribe([noise], 16000) == first
    assert judge.transcribe([np.zeros(0, np.float32)], 16000) == [""]
    assert judge.unknown_words("paris xzyqw") == 1


@pytest.mark.skipif(find_spec("pocketsphinx") is not None, reason="pocketsphinx is installed")
def test_a_judge_that_is_not_installed_says_so():
    with pytest.raises(ValueError, match=r"expected its package, found none; pip install --no-deps"):
        open_judge("pocketsphinx", "")
