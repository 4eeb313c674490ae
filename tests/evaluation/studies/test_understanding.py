"""Study "understanding": what an S2T model without a voice hears, and which of its answers survive hearing."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from echox.audio import save_audio
from echox.evaluation.sets.items import EvalItem, read_items
from echox.evaluation.studies.understanding import (
    Answered,
    Listener,
    ask_all,
    measure_understanding,
    understanding_scores,
)
from echox.training.loop import run_recipe
from tiny_echox import tiny_echox, tone
from tiny_recogniser import tiny_moonshine


def answered(number: int, spoken: str, typed: str, heard: str = "what is it") -> Answered:
    return Answered(str(number), "What is it?", heard, ("a cat",), spoken, typed, 0.5, 2.0)


def test_figures_are_shares_with_intervals_and_the_ratio_is_paired():
    rows = [answered(n, "A cat." if n < 6 else "A dog.", "It is a cat." if n < 8 else "No.") for n in range(10)]
    rows[0] = answered(0, "A cat.", "a cat", heard="what was it")
    scores = understanding_scores(rows)
    assert scores["questions"] == 10
    assert scores["t2t"]["mean"] == 0.8
    assert scores["s2t"]["mean"] == 0.6
    assert scores["s2t_over_t2t"]["mean"] == pytest.approx(0.75)
    assert scores["s2t_over_t2t"]["low"] < 0.75 < scores["s2t_over_t2t"]["high"]
    assert scores["wer"]["mean"] == pytest.approx(1 / 30)
    assert scores["hearing_rtf"] == 0.25


def test_a_joined_model_is_asked_and_a_stopped_study_goes_on(tmp_path):
    plain = tiny_echox(max_positions=2048)
    tokenizer = plain.processor.tokenizer
    plain.model.s2t.language_model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    model, recogniser_tokenizer = tiny_moonshine()
    model.save_pretrained(tmp_path / "recogniser")
    recogniser_tokenizer.save_pretrained(tmp_path / "recogniser")
    (tmp_path / "hearing.yaml").write_text(
        f"stage: hearing\nrecogniser: {tmp_path / 'recogniser'}\nlanguage_model: {tmp_path / 'lm'}\n"
        f"output_dir: {tmp_path / 'hearing'}\n"
    )
    assert set(run_recipe(tmp_path / "hearing.yaml")) == {
        "audio_tower",
        "recogniser",
        "residual_adapter",
        "language_model",
    }
    assert AutoTokenizer.from_pretrained(tmp_path / "hearing").get_vocab() == tokenizer.get_vocab()
    data = tmp_path / "questions"
    data.mkdir()
    for number in range(2):
        save_audio(data / f"{number}.flac", tone(0.8 + number, number), 16_000)
    (data / "questions.tsv").write_text(
        "question\tanswer\taudio\nWhat is the sea?\tblue\t0.flac\nWhat is France?\tParis\t1.flac\n"
    )
    items = read_items(data)
    assert [item.answers for item in items] == [("blue",), ("Paris",)]
    first = measure_understanding(tmp_path / "hearing", items[:1], tmp_path / "out")
    assert first["questions"] == first["wer"]["count"] == 1
    again = measure_understanding(tmp_path / "hearing", items, tmp_path / "out")
    assert again["t2t"]["count"] == again["s2t"]["count"] == 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [item.id for item in items]
    assert all(line["heard"] and line["spoken"] is not None for line in lines)


class Counting(Listener):
    """Hears nothing, and counts what it is asked."""

    def __init__(self, system: str = "", max_new_tokens: int = 8) -> None:
        self.model, self.system, self.max_new_tokens, self.asked = torch.nn.Linear(1, 1), system, max_new_tokens, 0
        torch.nn.init.ones_(self.model.weight)
        torch.nn.init.ones_(self.model.bias)
        self.model.config = SimpleNamespace(to_json_string=str)
        features = SimpleNamespace(sampling_rate=16_000, to_json_string=str)
        self.processor = SimpleNamespace(feature_extractor=features, chat_template="")

    def answer(self, items, sampling_rate, replies):
        self.asked += len(items)
        return [replace(answered(0, "A cat.", "A cat."), id=item.id, answers=item.answers) for item in items]


def test_answers_of_another_study_are_not_its_own(tmp_path):
    items = [EvalItem("0", ({"role": "user", "content": "What is it?"},), "What is it?", ("a cat",))]
    other = [EvalItem("0", ({"role": "user", "content": "Who is it?"},), "Who is it?", ("a cat",))]
    judged = [replace(items[0], answers=("a dog",))]
    weights = Counting()
    with torch.no_grad():
        weights.model.weight += 1
    studies = [
        (Counting, items, True),
        (lambda: weights, items, True),
        (lambda: Counting(system="Be kind."), items, True),
        (lambda: Counting(max_new_tokens=9), items, True),
        (Counting, other, True),
        (Counting, judged, True),
        (Counting, items, False),
    ]
    for asked in (1, 0):  # each once, whatever was measured between
        for make, questions, replies in studies:
            listener = make()
            (found,) = ask_all(listener, questions, tmp_path / "answers.jsonl", replies)
            assert (listener.asked, found.answers) == (asked, questions[0].answers)
            listener.asked = 0


def test_answers_of_an_older_form_are_asked_again(tmp_path):
    (tmp_path / "answers.jsonl").write_text('{"id": "0", "question": ""}\n', encoding="utf-8")
    listener = Counting()
    ask_all(listener, [EvalItem("0", ({"role": "user", "content": "What?"},), "What?")], tmp_path / "answers.jsonl")
    assert listener.asked == 1
