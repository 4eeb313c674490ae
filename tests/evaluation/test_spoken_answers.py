"""Speech to speech on questions with answers: asked in writing too, in another voice, with a control, and rated."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from echox.audio import encode_audio, load_audio, save_audio
from echox.data.engines.engine import SynthesizedSpeech, Voice
from echox.evaluation import control, rating
from echox.evaluation.judges import naturalness
from echox.evaluation.judges.open_vocabulary import OpenVocabularyJudge
from echox.evaluation.rating import rate_run
from echox.evaluation.run import run_tasks, score_run
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.sets.nano import nano_questions
from echox.evaluation.sets.spoken import ask_aloud, read_voice
from echox.evaluation.sets.tasks import open_tasks, typed_task, with_system
from echox.evaluation.summary import render
from echox.streaming.events import Reply
from tiny_echox import tone

RATE = 16000


@dataclass
class Knows:
    """Answers in writing what is asked in writing, and speech by its length: of every two it hears one."""

    name: str = "knows"
    key: str = "knows"
    folder: None = None
    spoken_language: str = "en"
    systems: tuple[str, ...] = ()

    def answer(self, messages, speak=True):
        self.systems += tuple(message["content"] for message in messages if message["role"] == "system")
        content = messages[-1]["content"]
        if isinstance(content, str):
            return Reply("It is Paris.", np.zeros(0, np.float32), RATE, "", {}, stopped="end")
        waveform = load_audio(content[0]["audio"], RATE)
        heard = len(waveform) % 2 == 0
        return Reply("It is Paris." if heard else "No.", tone(0.2), RATE, "Where?", {}, stopped="end")


class HalfDeaf(OpenVocabularyJudge):
    """Hears every second reply, and every control."""

    name = "half deaf"

    def __init__(self):
        self.asked = 0

    def transcribe(self, waveforms, sampling_rate):
        if np.abs(waveforms[0]).max() > 0.9:  # a control
            return ["it is paris"]
        self.asked += 1
        return ["it is paris" if self.asked % 2 else "it is"]


class Loud:
    """A voice that says anything as one loud tone, but never "No."."""

    def synthesize(self, text, voice):
        if text == "No.":
            raise ValueError("cannot say that")
        return SynthesizedSpeech(np.full(2205, 0.99, np.float32), 22050)


@pytest.fixture
def questions(tmp_path):
    rows = []
    for number in range(6):
        save_audio(tmp_path / f"{number}.wav", tone(0.3)[: 4000 + (number == 5)], RATE)
        rows.append({"id": f"q{number}", "audio": f"{number}.wav", "question": "Where?", "answers": ["Paris"]})
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_one_run_gives_t2t_s2t_s2s_their_ratios_and_a_control(questions, tmp_path, monkeypatch):
    monkeypatch.setattr(control, "create_synthesizer", lambda engine: Loud())
    (spoken,) = open_tasks("qa", questions)
    tasks = [with_system(task, "Be brief.") for task in (spoken, typed_task(spoken))]
    model, judge = Knows(), HalfDeaf()
    run = tmp_path / "run"
    found = run_tasks(tasks, model, judge, run, control=Voice("loud", "voice"))["tasks"]["qa"]
    assert model.systems == ("Be brief.",) * 12
    assert found["t2t"]["acc_strict"]["mean"] == 1.0
    assert found["s2t"]["acc_strict"]["mean"] == pytest.approx(5 / 6)
    assert found["s2t_over_t2t"]["mean"] == pytest.approx(5 / 6)
    assert found["s2s_over_s2t"]["mean"] == pytest.approx(3 / 5)
    assert found["s2s_over_s2t"]["low"] < 3 / 5 < found["s2s_over_s2t"]["high"]
    assert found["control"] == "loud/voice"
    assert found["control_wer"]["mean"] == 0.0
    assert found["control_wer"]["count"] == 5  # what the voice cannot say is compared with nothing
    assert found["reply_wer_minus_control"]["mean"] == pytest.approx(2 / 15)
    assert found["control_s2s"]["mean"] == 1.0
    assert found["s2s_over_control"]["mean"] == pytest.approx(3 / 5)
    speech = [record["audio"] for record in read_lines(run / "qa" / "control.jsonl") if record["audio"]]
    assert all((run / "qa" / audio).is_file() for audio in speech)
    shown = render(score_run(run))
    assert f"| qa | 100.0 % ({100 * 0.025 ** (1 / 6):.1f} % to 100.0 %) |" in shown  # Clopper and Pearson, 6 of 6
    assert "| control_wer |" in shown


def test_what_was_spoken_and_judged_is_not_repeated(questions, tmp_path, monkeypatch):
    monkeypatch.setattr(control, "create_synthesizer", lambda engine: Loud())
    (spoken,) = open_tasks("qa", questions, limit=4)
    judge, voice = HalfDeaf(), Voice("loud", "voice")
    first = run_tasks([spoken], Knows(), judge, tmp_path / "run", control=voice)
    assert run_tasks([spoken], Knows(), judge, tmp_path / "run", control=voice) == first
    assert judge.asked == 4
    assert "t2t" not in first["tasks"]["qa"]


@pytest.mark.parametrize(("language", "spoken"), [("en", "it kept five notes"), ("de", "it kept 5 notes")])
def test_the_control_is_read_by_the_rules_of_the_models_language(language, spoken, tmp_path, monkeypatch):
    heard = []
    voice = Loud()
    voice.synthesize = lambda text, voice: heard.append(text) or SynthesizedSpeech(tone(0.2), RATE)
    monkeypatch.setattr(control, "create_synthesizer", lambda engine: voice)
    reply = {"id": "a", "key": "k", "text": "it kept 5 notes", "audio": None, "error": None}
    monkeypatch.setattr(control, "recorded_replies", lambda folder, keys: [reply])
    list(control.speak_control(tmp_path, Voice("loud", "voice"), HalfDeaf(), ["k"], language))
    assert heard == [spoken]


def test_replies_and_control_are_rated(questions, tmp_path, monkeypatch):
    monkeypatch.setattr(control, "create_synthesizer", lambda engine: Loud())
    level = {
        "dnsmos": naturalness.Rater("dnsmos:1", lambda waveform: float(np.abs(waveform).max() > 0.9)),
        "dnsmos_p808": naturalness.Rater("dnsmos_p808:2", lambda waveform: 4.0),
    }
    monkeypatch.setattr(rating, "dnsmos_raters", lambda named: level)
    (spoken,) = open_tasks("qa", questions, limit=2)
    run_tasks([spoken], Knows(), HalfDeaf(), tmp_path / "run", control=Voice("loud", "voice"))
    rate_run(tmp_path / "run", None, "speechmos")
    found = score_run(tmp_path / "run")["tasks"]["qa"]
    assert (found["dnsmos"], found["control_dnsmos"]) == (0.0, 1.0)
    assert found["dnsmos_p808"] == found["control_dnsmos_p808"] == 4.0


def test_only_questions_whose_words_and_answers_are_known_are_asked_in_writing(questions, tmp_path):
    (recordings,) = open_tasks("consistency", questions)
    with pytest.raises(ValueError, match="found consistency"):
        typed_task(recordings)
    path = tmp_path / "silent.jsonl"
    path.write_text(json.dumps({"audio": "0.wav", "answers": ["Paris"]}) + "\n")
    (silent,) = open_tasks("qa", path)
    with pytest.raises(ValueError, match="expected the words of every question"):
        typed_task(silent)
    with pytest.raises(ValueError, match="to speak them"):
        ask_aloud(silent, Voice("espeak-ng", "en-us"), tmp_path)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_questions_in_another_voice_are_spoken_once(questions, tmp_path):
    (task,) = open_tasks("qa", questions, limit=2)
    voice = read_voice("espeak-ng/en-us")
    aloud = ask_aloud(task, voice, tmp_path / "spoken")
    (first, _) = (item.audios[-1] for item in aloud.items)
    assert first == tmp_path / "spoken" / "q0.wav"
    assert aloud.items[0].columns["question_voice"] == "espeak-ng/en-us"
    assert [item.answers for item in aloud.items] == [item.answers for item in task.items]
    before = first.stat().st_mtime_ns
    assert [item.digest for item in ask_aloud(task, voice, tmp_path / "spoken").items] == [
        item.digest for item in aloud.items
    ]
    assert first.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="engine/name"):
        read_voice("joe")


def test_nanos_questions_are_held_out_balanced_and_right_in_figures_too():
    items = nano_questions(limit=400)
    assert len({item.question for item in items}) > 390
    topics = [item.columns["topic"] for item in items]
    assert max(topics.count(topic) for topic in set(topics)) <= 3 * len(items) / len(set(topics))
    answers = {item.answers[0]: item.answers for item in items}
    numbers = [found for found in answers.values() if any(one.isdigit() for one in found)]
    assert numbers
    assert all(not found[0].isdigit() for found in numbers)
    (named,) = open_tasks("nano_questions", None, limit=3)
    assert [item.id for item in named.items] == [item.id for item in items[:3]]
    with pytest.raises(ValueError, match="nano corpus"):
        nano_questions(Path("nowhere"))


def test_windows_and_features_of_dnsmos():
    second = np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE).astype(np.float32)
    assert [len(window) for window in naturalness.dnsmos_windows(second)] == [144160] * 7  # doubled to 16 s
    assert len(naturalness.dnsmos_windows(np.zeros(0, np.float32))) >= 1
    ten = np.concatenate([second] * 11)
    np.testing.assert_array_equal(naturalness.dnsmos_windows(ten)[1], ten[RATE : RATE + 144160])
    features = naturalness.p808_features(naturalness.dnsmos_windows(ten)[0][:-160])
    assert features.shape == (900, 120)
    assert features.max() == 1.0
    assert features.min() >= -1.0
    loudest = int(features[450].argmax())
    filters = naturalness._p808_filters()
    assert filters.shape == (120, 161)
    assert np.fft.rfftfreq(321, 1 / RATE)[filters[loudest].argmax()] == pytest.approx(1000, abs=60)


def test_missing_predictors_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(naturalness, "installed_folder", lambda package: None)
    with pytest.raises(ValueError, match="pip install --no-deps speechmos"):
        naturalness.dnsmos_raters("speechmos")
    with pytest.raises(ValueError, match="sig_bak_ovr.onnx"):
        naturalness.dnsmos_raters(tmp_path)
    (tmp_path / "sig_bak_ovr.onnx").write_bytes(encode_audio(tone(0.1), RATE))
    with pytest.raises(ValueError, match="expected a file of ONNX runtime"):
        naturalness.dnsmos_raters(tmp_path)
