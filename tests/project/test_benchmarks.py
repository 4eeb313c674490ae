"""The benchmarks measure what they say: the restated reference speaks as the engine does, only later."""

import runpy
import sys

import numpy as np
import pytest

from echox.api import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(scope="module")
def reference():
    sys.path.insert(0, str(BENCHMARKS))
    try:
        from reference_engine import Reference
    finally:
        sys.path.remove(str(BENCHMARKS))
    return Reference(EchoX.from_pretrained("nano"))


def test_the_restated_reference_says_what_the_engine_says(reference):
    model = reference.echox
    question = load_audio(bundled_questions()[0], model.sampling_rate)
    theirs = reference.reply(question)
    ours = model.generate(question, speech_policy="reference")
    assert theirs.text == ours.text
    assert len(theirs.waveforms) == 1, "a short reply is one segment of the published trigger"
    assert len(theirs.waveforms[0]) == len(ours.waveform)
    assert np.abs(theirs.waveforms[0] - ours.waveform).max() < 1e-4


def test_the_reference_accounts_for_its_time(reference):
    question = load_audio(bundled_questions()[0], reference.echox.sampling_rate)
    reply = reference.reply(question)
    assert reply.ttfa_tokens is not None
    assert reply.ttfa_tokens <= reply.tokens
    assert sum(reply.parts.values()) == pytest.approx(reply.total_s, rel=0.2)
    assert sum(reply.first.values()) == pytest.approx(reply.arrivals_s[0], rel=0.2)


@pytest.mark.parametrize("name", ["nano_streaming", "many_sessions", "decoding", "nano_latency", "hearing_conditions"])
def test_benchmarks_with_an_output_file_explain_themselves(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")
    assert ended.value.code == 0
    assert "--output" in capsys.readouterr().out
