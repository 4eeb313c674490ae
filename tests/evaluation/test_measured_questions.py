"""What latency is measured on: the questions that were named, or none."""

import pytest

from echox.audio import save_audio
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.evaluation.latency.probe import choose_questions
from echox.evaluation.latency.run import run_latency
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.studies.speech_policies.policy_comparison import policy_questions
from echox.evaluation.subjects.remote import RemoteSubject
from echox.files import write_lines
from tiny_echox import tone


class Asked(RemoteSubject):
    """A server that notes what it is asked; every reply is a tenth of a second of silence."""

    def __init__(self):
        self.name, self.asked = "server", []

    def request(self, messages, speak, stream=False):
        self.asked.append(messages[-1]["content"][0]["audio"])
        return {}

    def events(self, body):
        yield {"choices": [{"delta": {"audio": {"data": "AAAA" * 1600}}}]}


def corpus(folder, split):
    turns = (Turn("user", "What?", "q.wav", 1.0, "voice"), Turn("assistant", "That."))
    write_dialogues(folder / "speech" / "dialogues.jsonl", [Dialogue("a", turns, split, topic="t")])
    return folder


WRONG = {
    "a misspelt name": lambda folder: folder / "out" / "nanno",
    "a misspelt file": lambda folder: folder / "items.jsnl",
    "an empty folder": lambda folder: folder,
    "a corpus without held-out questions": lambda folder: corpus(folder, "train"),
    "its folder of speech": lambda folder: corpus(folder, "heldout_seen_voices") / "speech",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_corpus_that_is_none_is_refused(tmp_path, wrong):
    folder = WRONG[wrong](tmp_path)
    subject = Asked()
    for ask in (choose_questions, policy_questions):
        with pytest.raises(ValueError, match="expected .* found"):
            ask(folder, 5)
    with pytest.raises(ValueError, match="expected .* found"):
        run_latency(subject, folder, tmp_path / "figures", 5, 1, [1])
    assert subject.asked == []
    assert not (tmp_path / "figures").exists()


def test_a_table_without_audio_is_refused(tmp_path):
    write_lines(tmp_path / "items.jsonl", [{"question": "Where?"}])
    for data in (tmp_path / "items.jsonl", tmp_path):
        write_lines(tmp_path / "questions.jsonl", [{"question": "Where?"}])
        with pytest.raises(ValueError, match="expected spoken questions .* found none with audio"):
            run_latency(Asked(), data, tmp_path / "figures", 5, 3, [2])


def test_what_is_named_is_what_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr("echox.evaluation.latency.run.draw_first_audio", lambda *_: False)
    for number in range(3):
        save_audio(tmp_path / f"{number}.wav", tone(0.1), 16000)
    write_lines(tmp_path / "questions.jsonl", [{"audio": f"{number}.wav"} for number in range(3)])
    own = [tmp_path / f"{number}.wav" for number in range(3)]
    for data, expected in (
        (tmp_path, own),
        (tmp_path / "questions.jsonl", own),
        (None, choose_questions(embedded_heldout(), 3)),
        (embedded_heldout(), choose_questions(embedded_heldout(), 3)),
        (corpus(tmp_path / "corpus", "heldout_seen_voices"), [tmp_path / "corpus" / "speech" / "q.wav"]),
    ):
        subject = Asked()
        run_latency(subject, data, tmp_path / "figures", 3, 1, [1])
        assert subject.asked == [expected[0], *expected]
