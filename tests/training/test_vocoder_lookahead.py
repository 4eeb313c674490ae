"""Stage "vocoder_lookahead": a vocoder that waits less, and speaks as before."""

from pathlib import Path

import pytest
import torch

from echox.config import TrainingConfig
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig
from echox.models.vocoder.modeling_light_vocoder import LightVocoder
from echox.training.batches.normalisation import denominators_of_step
from echox.training.stages.voice.vocoder_lookahead import (
    LookaheadModel,
    QuestionData,
    VocoderLookaheadObjective,
    VocoderLookaheadRecipe,
    with_lookaheads,
)
from echox.training.stages.voice.vocoder_recipe import VocoderLossWeights
from tiny_echox import tiny_echox


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return LightVocoder(LightVocoderConfig(num_units=9, hidden_size=32, intermediate_size=48, num_frame_layers=2))


def distance(student, teacher, units):
    with torch.no_grad():
        return float(VocoderLookaheadObjective(student, teacher, VocoderLossWeights())({"units": units})["loss"])


def test_what_is_still_seen_is_read_as_before(teacher):
    units = torch.randint(0, 9, (2, 20))
    same = with_lookaheads(teacher, LookaheadModel("", 12, 6, 3))
    assert torch.equal(same.duration_predictor(units), teacher.duration_predictor(units))
    shorter = with_lookaheads(teacher, LookaheadModel("", 3, 2, 1))
    # Without what comes later both read the same: a teacher whose kernels never looked further.
    with torch.no_grad():
        for new, old in zip(shorter.modules(), teacher.modules(), strict=True):
            if hasattr(old, "depthwise"):
                old.depthwise.weight[..., old.depthwise.weight.shape[-1] - (old.lookahead - new.lookahead) :] = 0
    torch.testing.assert_close(shorter.duration_predictor(units), teacher.duration_predictor(units))
    durations = torch.full_like(units, 3)
    for mine, theirs in zip(
        shorter.features(units, durations)[:3], teacher.features(units, durations)[:3], strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_a_duration_waits_for_three_units(teacher):
    shorter = with_lookaheads(teacher, LookaheadModel("", 3, 2, 1)).eval()
    units = torch.arange(20)[None] % 9
    other = units.clone()
    other[0, 10] = 0
    changed = (shorter.duration_predictor(units) != shorter.duration_predictor(other))[0]
    assert not changed[:7].any()
    assert changed[7:11].any()


def test_a_longer_lookahead_is_refused(teacher):
    with pytest.raises(ValueError, match="at most 3 in a layer, found 4"):
        with_lookaheads(teacher, LookaheadModel("", 13, 2, 1))


def test_the_student_comes_near_to_the_teacher(teacher):
    units = torch.randint(0, 9, (4, 30), generator=torch.Generator().manual_seed(0))
    student = with_lookaheads(teacher, LookaheadModel("", 3, 2, 1))
    objective = VocoderLookaheadObjective(student, teacher, VocoderLossWeights())
    optimizer = torch.optim.Adam(student.parameters(), lr=2e-3)
    before, weights = distance(student, teacher, units), [one.clone() for one in teacher.parameters()]
    for _ in range(40):
        optimizer.zero_grad()
        objective({"units": units})["loss"].backward()
        optimizer.step()
    assert distance(student, teacher, units) < before / 2
    assert all(map(torch.equal, weights, teacher.parameters()))


def test_the_teacher_is_asked_once_for_batches_that_are_accumulated(teacher, monkeypatch):
    asked, predict = [], teacher.predict_durations
    monkeypatch.setattr(teacher, "predict_durations", lambda units: asked.append(len(units)) or predict(units))
    student = with_lookaheads(teacher, LookaheadModel("", 3, 2, 1)).eval()
    objective = VocoderLookaheadObjective(student, teacher, VocoderLossWeights())
    units = torch.randint(0, 9, (3, 30), generator=torch.Generator().manual_seed(0))
    units[1:, 12:] = -1
    whole = objective({"units": units})["loss"]
    asked.clear()
    parts = [{"units": units[:1]}, {"units": units[1:, :12]}]
    parts = objective.begin_targets([objective(part, prepare=True) for part in parts], False)()
    shared = denominators_of_step(objective, parts, torch.device("cpu"))
    together = sum(objective(part, shared)["loss"] for part in parts)
    assert asked == [1, 2]
    torch.testing.assert_close(together, whole)


@pytest.mark.slow
def test_the_stage_asks_the_model_and_measures(tmp_path: Path):
    model = tiny_echox()
    model.save_pretrained(tmp_path / "whole")
    dialogues = [
        Dialogue(f"d{number}", (Turn("user", f"What is {number}?"), Turn("assistant", "It is.")), split)
        for number, split in enumerate(["train"] * 6 + ["heldout"] * 2)
    ]
    write_dialogues(tmp_path / "dialogues.jsonl", dialogues)
    recipe = VocoderLookaheadRecipe(
        "vocoder_lookahead",
        QuestionData(str(tmp_path / "dialogues.jsonl"), replies=4, heldout_replies=2),
        LookaheadModel(str(tmp_path / "whole"), 1, 2, 1),
        TrainingConfig(str(tmp_path / "out"), steps=2, batch_size=2, learning_rates={"vocoder": 1e-3}),
    )
    stage = recipe.build()
    (first, *_) = stage.dataset()
    assert first == list(model.generate([{"role": "user", "content": "What is 0?"}]).units)
    with torch.inference_mode():
        measured = stage.evaluate()
    assert set(measured) == {"durations_that_differ", "mel_error_db", "f0_error_hz", "voicing_error"}
    stage.save(tmp_path / "saved")
    assert LightVocoder.from_pretrained(tmp_path / "saved").config.duration_lookahead_units == 1
