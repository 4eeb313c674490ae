"""The benchmarks measure what they say: our implementation of the reference speaks as the engine does, later."""

import json
import re
import runpy
import sys

import numpy as np
import pytest
import torch

from echox.api import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.evaluation.model_card import Card, _figures, _speed
from paths import ROOT

BENCHMARKS = ROOT / "benchmarks"
NAMES = sorted({path.stem for path in BENCHMARKS.glob("*.py")} - {"harness", "reference_engine", "ready_cascade"})


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


def run_benchmark(name, arguments, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / f"{name}.py"), *arguments])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    runpy.run_path(str(BENCHMARKS / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_explains_itself_and_writes_its_result_where_it_is_asked_to(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        run_benchmark(name, ["--help"], monkeypatch)
    assert ended.value.code == 0
    help_text = capsys.readouterr().out
    assert "--output" in help_text
    assert f"python benchmarks/{name}.py" in help_text


@pytest.fixture
def threads():
    """Benchmarks set the number of torch's threads; the other tests keep theirs."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_result_says_where_and_how_it_was_measured(tmp_path, monkeypatch, capsys, threads):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)  # a command that ran in this process may have set it
    arguments = ["--repeats", "2", "--width", "8", "--vocabulary", "512", "--output", str(tmp_path / "costs.json")]
    run_benchmark("reference_costs", arguments, monkeypatch)
    result = json.loads((tmp_path / "costs.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["command"].startswith("python benchmarks/reference_costs.py --repeats 2")
    assert result["machine"]["threads"] == 1
    assert result["machine"]["processor"]
    assert result["torch"] == torch.__version__
    assert result["weights"] is None
    assert result["figures"]["prefill_logits"]["ours"]["median_ms"] > 0


def test_the_latency_benchmark_names_the_weights_and_the_model_card_reads_its_result(tmp_path, monkeypatch, threads):
    output = tmp_path / "latency.json"
    run_benchmark("nano_latency", ["--questions", "1", "--warm-up", "0", "--output", str(output)], monkeypatch)
    result = json.loads(output.read_text(encoding="utf-8"))
    assert re.fullmatch("[0-9a-f]{12}", result["weights"])
    record = {"parameters_by_part": {}, "stages": []}
    speed = _speed(Card({}, _figures(result), None, record, None))
    assert f"Real-time factor {result['figures']['rtf_overall']:.3f}" in speed[0]


@pytest.fixture
def cascade(monkeypatch):
    """The two benchmarks of the cascade, without its parts: a recogniser of one question, and a silent voice."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mini_cascade
    import ready_cascade

    log = []

    class Writer:
        def __init__(self, path, threads):
            pass

        def write(self, system, question, max_new_tokens):
            text = ""
            for piece in ("Paris is ", "2.5 ", "km wide. ", '"It is', '." ', "Nice"):
                log.append(piece)
                text += piece
                yield text

    class Speaker:
        def __init__(self, threads):
            pass

        def speak_sentence(self, sentence, voice):
            log.append(f"<{sentence}>")
            return [], np.zeros(8000, np.float32), np.zeros(0)

    heard = type("Hears", (), {"transcribe": lambda self, waveforms, rate: ["Where?"]})()
    monkeypatch.setattr(ready_cascade, "MoonshineASR", lambda folder, threads: heard)
    monkeypatch.setattr(ready_cascade, "LlamaCpp", Writer)
    monkeypatch.setattr(ready_cascade, "Piper", Speaker)
    monkeypatch.setattr(ready_cascade, "open_voice", lambda name, threads: type("Voice", (), {"sampling_rate": 16000}))
    return mini_cascade, ready_cascade.ReadyCascade("moonshine", "gguf"), log


def test_the_cascade_speaks_a_sentence_as_soon_as_it_is_written(cascade):
    _, parts, log = cascade
    answer = parts.answer(np.zeros(16000, np.float32))
    assert log == [
        *("Paris is ", "2.5 ", "km wide. ", "<Paris is 2.5 km wide.>", '"It is', '." ', '<"It is.">', "Nice", "<Nice>")
    ]
    assert answer.text == 'Paris is 2.5 km wide. "It is." Nice'
    assert answer.durations_s == [0.5, 0.5, 0.5]
    assert 0 < answer.heard_s <= answer.first_text_s <= answer.arrivals_s[0] <= answer.total_s


def test_model_and_cascade_answer_the_same_questions_in_turn(cascade):
    mini_cascade, parts, log = cascade
    questions = [mini_cascade.Asked(path, "Where?", ("km",)) for path in bundled_questions()[:2]]
    lengths = []

    def silent(waveform):
        lengths.append(len(waveform))
        log.append("model")
        return mini_cascade.Answer(text="No.")

    found = mini_cascade.compare(questions, {"model": silent, "cascade": parts.answer}, warm_up=1, number=0)
    assert {name: len(answers) for name, answers in found.items()} == {"model": 2, "cascade": 2}
    assert [entry for entry in log if entry in ("model", "Nice")] == ["Nice", "model", "model", "Nice", "Nice", "model"]
    assert lengths[0] == lengths[1]  # the first question also warmed up
    figures = mini_cascade.figures_of(questions, found["cascade"])
    assert figures["right_percent"]["mean"] == 100.0
    assert figures["heard_wer_percent"] == 0.0
    assert figures["reply_s"]["p50"] == 1.5
    assert figures["replies"] == 2
    assert figures["unspoken_replies"] == 0
    with pytest.raises(ValueError, match="found none of 2"):
        mini_cascade.figures_of(questions, found["model"])
