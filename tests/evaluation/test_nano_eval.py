"""The scorecard: what counts as right, and what a second call does again."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from echox.audio import save_audio
from echox.data.manifest import Dialogue, Turn, Utterance, write_dialogues, write_utterances
from echox.evaluation.scorecard import evaluate_nano
from echox.evaluation.scoring.nano import contains_words
from echox.evaluation.scoring.records import balanced_order, read_lines
from echox.evaluation.scoring.statistics import unseen_share
from echox.evaluation.sets.nano import messages_of
from echox.streaming import GenerationSettings, Reply
from tiny_echox import tiny_echox, tone


def dialogue(name: str, split: str, topic: str, audio: bool, turns: int = 1, answer: str = "Paris") -> Dialogue:
    spoken = {"audio": "wav/q.wav", "duration_s": 1.0, "speaker": "voice"} if audio else {}
    asked = [(Turn("user", "What is it?", **spoken), Turn("assistant", f"It is {answer}.")) for _ in range(turns)]
    return Dialogue(name, tuple(turn for pair in asked for turn in pair), split, answer, topic)


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "nano"
    save_audio_at = folder / "speech" / "wav" / "q.wav"
    save_audio_at.parent.mkdir(parents=True)
    save_audio(save_audio_at, tone(), 16000)
    texts = [dialogue(f"t{i}", "heldout", "ab"[i % 2], False) for i in range(4)] + [dialogue("x", "train", "a", False)]
    write_dialogues(folder / "text" / "dialogues.jsonl", texts)
    spoken = [
        dialogue(f"{split}{i}", f"heldout_{split}_voices", "ab"[i % 2], True, answer=["Paris", "B, L"][i % 2])
        for split in ("seen", "new")
        for i in range(2)
    ]
    write_dialogues(folder / "speech" / "dialogues.jsonl", spoken)
    write_dialogues(folder / "speech" / "multi_turn.jsonl", [dialogue("m", "heldout", "a", True, turns=2)])
    replies = [Utterance(f"r{i}", "wav/q.wav", "It is Paris.", "slt", 1.0, "heldout") for i in range(2)]
    write_utterances(folder / "speech" / "replies.jsonl", replies)
    return folder


class Parrot:
    """A model with a fixed reply; it counts its questions."""

    def __init__(self, text: str, waveform: np.ndarray | None = None, fails: bool = False) -> None:
        self.text, self.fails, self.asked = text, fails, 0
        self.waveform = np.ones(8000, np.float32) * 0.1 if waveform is None else waveform
        self.model = torch.nn.Linear(1, 1)
        self.model.config = SimpleNamespace(to_json_string=lambda: text, spoken_language="en")
        self.settings, self.adapters = GenerationSettings(), {}
        self.engine = SimpleNamespace(output_sampling_rate=16000)

    def generate(self, question, **settings) -> Reply:
        self.asked += 1
        if self.fails and isinstance(question[-1]["content"], list):
            raise ValueError("expected speech, found no speech")
        waveform = self.waveform if settings.get("speak", True) else np.zeros(0, np.float32)
        return Reply(self.text, waveform, 16000, "what is it", {"compute_s": 0.1})


class FixedJudge:
    """A judge that hears the same words in everything."""

    def __init__(self, heard: str, name: str = "fixed judge") -> None:
        self.heard, self.name, self.transcribed = heard, name, 0

    sampling_rate = 16000

    def as_heard(self, text):
        return text

    def unknown_words(self, text):
        return 0

    def transcribe(self, waveforms, sampling_rate):
        self.transcribed += len(waveforms)
        return [self.heard] * len(waveforms)


def test_right_answers_are_right(corpus, tmp_path):
    metrics = evaluate_nano(Parrot("It is Paris."), FixedJudge("it is paris"), corpus, tmp_path / "eval")
    assert metrics["typed"]["t2t_exact"] == {
        "mean": 1.0,
        "low": pytest.approx(1 - unseen_share(4)),  # four right answers prove little
        "high": 1.0,
        "count": 4,
    }
    assert metrics["judge"]["recordings"] == {"wer": 0.0, "count": 2}
    for name in ("heldout_seen_voices", "heldout_new_voices"):
        scores = metrics[name]
        assert scores["transcription_wer"]["mean"] == 0.0
        assert scores["s2t_exact"]["mean"] == scores["s2s_exact"]["mean"] == 0.5  # the other answer is B, L
        assert scores["s2t_ultraeval"]["mean"] == scores["s2s_answer"]["mean"] == 0.5
        assert scores["reply_wer"]["mean"] == 0.0
        assert scores["words_per_s"] == pytest.approx(3 / 0.5)
        assert scores["s2t_exact_by_topic"] == {"a": {"mean": 1.0, "count": 1}, "b": {"mean": 0.0, "count": 1}}
    assert metrics["multi_turn"]["s2s_exact"]["mean"] == 1.0
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text(encoding="utf-8")) == metrics


def test_silence_and_deafness_count_as_wrong(corpus, tmp_path):
    mute = evaluate_nano(
        Parrot("It is Paris.", np.zeros(0, np.float32)), FixedJudge("it is paris"), corpus, tmp_path / "a"
    )
    scores = mute["heldout_seen_voices"]
    assert scores["s2t_answer"]["mean"] == 0.5
    assert scores["s2s_answer"]["mean"] == 0.0
    assert scores["reply_wer"]["mean"] == 1.0
    assert scores["unspoken_replies"] == 2
    assert "words_per_s" not in scores
    deaf = evaluate_nano(Parrot("It is Paris.", fails=True), FixedJudge("it is paris"), corpus, tmp_path / "b")
    assert deaf["heldout_seen_voices"]["errors"] == 2
    assert deaf["heldout_seen_voices"]["s2t_exact"]["mean"] == 0.0
    assert deaf["heldout_seen_voices"]["transcription_wer"]["mean"] == 1.0


def test_a_second_call_only_does_what_is_new(corpus, tmp_path):
    model, judge = Parrot("It is Paris."), FixedJudge("it is paris")
    first = evaluate_nano(model, judge, corpus, tmp_path / "eval", limit=1)
    assert model.asked == 4
    evaluate_nano(model, judge, corpus, tmp_path / "eval", limit=1)
    assert model.asked == 4
    evaluate_nano(model, judge, corpus, tmp_path / "eval")
    assert model.asked == 9
    # Another judge transcribes again, without the model.
    again = evaluate_nano(model, FixedJudge("it was rome", "other judge"), corpus, tmp_path / "eval")
    assert model.asked == 9
    assert again["multi_turn"]["s2s_exact"]["mean"] == 0.0
    # Other weights never resume the records of the first.
    with torch.no_grad():
        model.model.weight += 1
    assert evaluate_nano(model, judge, corpus, tmp_path / "eval", limit=1)["model"] != first["model"]
    assert model.asked == 13


def test_a_line_cut_off_by_a_kill_is_made_again(corpus, tmp_path):
    model = Parrot("It is Paris.")
    evaluate_nano(model, FixedJudge("it is paris"), corpus, tmp_path / "eval")
    path = tmp_path / "eval" / "typed" / "replies.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    before = model.asked
    metrics = evaluate_nano(model, FixedJudge("it is paris"), corpus, tmp_path / "eval")
    assert model.asked == before + 1
    assert metrics["typed"]["items"] == len(read_lines(path)) == 4


def test_a_whole_model_is_scored(corpus, tmp_path):
    metrics = evaluate_nano(tiny_echox(), FixedJudge("it is paris"), corpus, tmp_path / "eval", limit=1)
    assert 0 <= metrics["heldout_seen_voices"]["s2t_exact"]["mean"] <= 1


def test_an_absent_set_is_named(corpus, tmp_path):
    (corpus / "speech" / "multi_turn.jsonl").unlink()
    with pytest.raises(ValueError, match=r"multi_turn\.jsonl"):
        evaluate_nano(Parrot("a"), FixedJudge("a"), corpus, tmp_path / "eval")


def test_all_turns_are_given(corpus):
    item = dialogue("m", "heldout", "a", True, turns=2)
    heard = messages_of(item, corpus / "speech" / "multi_turn.jsonl")
    assert [message["role"] for message in heard] == ["user", "assistant", "user"]
    assert [isinstance(message["content"], str) for message in heard] == [False, True, False]
    assert heard[2]["content"][0]["audio"].is_file()
    assert [message["content"] for message in messages_of(item, None)] == ["What is it?", "It is Paris.", "What is it?"]


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("black is spelled b l a c k", "B, L, A, C, K", True),
        ("black is spelled b l a k c", "B, L, A, C, K", False),
        ("It's in South America.", "south america", True),
        ("It's in America, South.", "South America", False),
        ("Pariser", "Paris", False),
        ("", "Paris", False),
        ("anything", "", False),
    ],
)
def test_an_answer_is_words_in_a_row(text, answer, right):
    assert contains_words(text, answer) is right


def test_every_beginning_of_the_order_is_balanced():
    items = [("a", i) for i in range(20)] + [("b", i) for i in range(3)] + [("c", i) for i in range(9)]
    order = balanced_order(items, lambda item: item[0], seed=1)
    assert sorted(order) == sorted(items)
    assert sorted(name for name, _ in order[:9]) == list("aaabbbccc")
    assert order == balanced_order(items, lambda item: item[0], seed=1)
    assert order != balanced_order(items, lambda item: item[0], seed=2)
