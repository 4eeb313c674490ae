"""Stage "direct_units": a language model learns to write recorded units, can still be asked in text, and is scored."""

import json
import random

import numpy as np
import pytest
import torch

from echox.config import TrainingConfig
from echox.evaluation.sets.items import EvalItem
from echox.evaluation.studies.batched_scores.direct_scores import direct_scores
from echox.evaluation.studies.batched_scores.echo_scores import UnitTranscriber
from echox.evaluation.studies.batched_scores.questions import QuestionSet, reply_loss, typed_scores, write_texts
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.vocoder.auto import AutoUnitVocoder
from echox.training.control.health import check_gradients, check_trainable
from echox.training.stages.speaking.direct_units import DirectUnitsModel, DirectUnitsRecipe, UnitWriter
from echox.training.stages.speaking.echo import EchoData
from test_echo_stage import echo_recipe
from test_echo_stage import world as world
from tiny_speaker import REPLIES


def stage_of(world, t2c=None, **data):
    options = {
        "text": [str(world / "dialogues.jsonl")],
        "audio_fraction": 0.0,
        "recordings": str(world / "units.jsonl"),
    } | data
    return DirectUnitsRecipe(
        "direct_units",
        EchoData(**options),
        DirectUnitsModel(str(world / "s2t"), str(world / "unit_language"), t2c),
        TrainingConfig(
            output_dir=str(world / "direct"),
            steps=2,
            batch_size=4,
            learning_rates={"language_model": 1e-2, "units": 1e-2},
            precision="fp32",
        ),
    ).build()


def test_it_learns_recorded_units_and_says_them_after_loading(world, tmp_path):
    stage = stage_of(world)
    check_trainable("direct_units", stage.objective, stage.parameter_groups(), stage.recipe.training)
    items = list(stage.dataset())
    assert len(items) == len(stage.lengths())
    batch = stage.collate(items, random.Random(0))
    optimizer = torch.optim.AdamW([value for values in stage.parameter_groups().values() for value in values], lr=1e-2)
    losses = []
    for _ in range(60):
        losses.append(stage.objective(batch)["loss"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    check_gradients("direct_units", stage.objective, stage.parameter_groups(), 60)
    assert losses[-1] < 0.1 * losses[0]
    stage.save(tmp_path / "direct")
    loaded = UnitWriter.from_pretrained(tmp_path / "direct")
    wanted = [[word for word in row if word >= 0] for row in batch["unit_words"].tolist()]
    assert loaded.write(*loaded.prompts(batch["prompt"])) == wanted
    with torch.inference_mode():
        figures = stage.evaluate()
    assert set(figures) == {
        f"text_heldout_{name}" for name in ("unit_loss", "unit_accuracy", "unit_error", "text_exact")
    }


def test_a_prompt_in_a_batch_is_written_as_alone(world):
    stage = stage_of(world)
    batch = stage.collate(list(stage.dataset()), random.Random(0))
    embeds, mask = stage.model.eval().prompts(batch["prompt"])
    together = stage.model.write(embeds, mask, limit=6)
    alone = [
        stage.model.write(row[seen.bool()][None], seen[seen.bool()][None], limit=6)[0]
        for row, seen in zip(embeds, mask)
    ]
    assert together == alone
    states, targets = stage.model(batch["prompt"], batch["unit_words"])
    first = [row[0] for row in together if row]
    counts = ((batch["unit_words"] >= 0).sum(1) + 1).tolist()
    starts = [sum(counts[:place]) for place in range(len(counts))]
    predicted = stage.model.unit_head(states[starts]).argmax(-1).tolist()
    assert first == [word for word in predicted if word != stage.model.end_id]
    assert targets[starts].tolist() == batch["unit_words"][:, 0].tolist()


def test_spoken_questions_are_scored_aloud_and_in_writing(world):
    stage = stage_of(world, speech=[str(world / "speech" / "dialogues.jsonl")], audio_fraction=0.5)
    language = AutoUnitLanguage.from_pretrained(world / "unit_language")

    class Deaf:
        sampling_rate = 16000

        def transcribe(self, waveforms, sampling_rate):
            return ["" for _ in waveforms]

        def as_heard(self, text):
            return text

    voice = UnitTranscriber(AutoUnitVocoder.from_pretrained(world / "vocoder"), Deaf())
    questions = QuestionSet.of_manifest(world / "speech" / "dialogues.jsonl", "heldout_seen_voices", 1, stage.tower)
    found = direct_scores(stage.model.eval(), stage.tokenizer, language, voice, questions)
    assert found["s2s_answer"] == 0.0
    assert found["right"] == {"s2t_answer": str(int(found["s2t_answer"])), "s2s_answer": "0"}
    assert 0 <= found["unfinished"] <= 1
    json.dumps(found)
    assert not np.isnan(found["reply_wer"])


def test_questions_of_a_task_are_asked_in_writing_and_aloud(world, tmp_path):
    stage = stage_of(world)
    (spoken,) = sorted((world / "speech").rglob("*.wav"))[:1]
    reply = REPLIES[1]
    items = [
        EvalItem("right", [{"role": "user", "content": "Tell me 1."}], "Tell me 1.", ("no", reply.split()[0])),
        EvalItem("wrong", [{"role": "user", "content": "Tell me 1."}], "Tell me 1.", ("never said",)),
    ]
    asked = QuestionSet.of_task(items, "Be short.")
    assert [turn.role for turn in asked.items[0].dialogue.turns] == ["system", "user", "assistant"]
    scores = typed_scores(asked, [reply, reply])
    assert (scores["t2t_answer"], sorted(scores["right"]["t2t_answer"])) == (0.5, ["0", "1"])
    texts = write_texts(stage.model.s2t, stage.tokenizer, asked)
    halves = [write_texts(stage.model.s2t, stage.tokenizer, part)[0] for part in asked.parts(1)]
    assert texts == halves
    assert reply_loss(stage.model.s2t, stage.tokenizer, asked.items) > 0
    with pytest.raises(ValueError, match="expected words and accepted answers of every question, found none of 'bad'"):
        QuestionSet.of_task([EvalItem("bad", items[0].messages, "Tell me 1.")], "")
    for audio in (spoken, spoken.read_bytes()):
        aloud = EvalItem("aloud", [{"role": "user", "content": [{"type": "audio", "audio": audio}]}], "", ("x",))
        heard = QuestionSet.of_task(
            [aloud], "Be short." if audio is spoken else "", stage.tower, tmp_path / type(audio).__name__
        )
        (embeds,), _ = heard.encoded(stage.model.s2t)
        assert len(embeds)
    again = heard.encoded(stage.model.s2t)[0][0]
    assert again is embeds
    with torch.no_grad():  # another language model's embeddings: nothing kept is used for it
        stage.model.s2t.get_input_embeddings().weight += 1
    assert heard.encoded(stage.model.s2t)[0][0] is not embeds


def test_a_t2c_reads_what_nobody_recorded(world):
    stage = stage_of(world, t2c=str(world / "t2c"), recordings=None)
    items = list(stage.dataset())[:3]
    first = stage.collate(items, random.Random(0))["unit_words"]
    alone = [stage.collate([item], random.Random(0))["unit_words"][0].tolist() for item in items]
    assert [[word for word in row if word >= 0] for row in first.tolist()] == alone
    assert any(alone)
    fresh = stage_of(world, t2c=str(world / "t2c"), recordings=None)  # what is remembered is what is read
    assert torch.equal(fresh.collate(items[1:], random.Random(0))["unit_words"], stage._batch(items[1:])["unit_words"])
    with pytest.raises(ValueError, match=r"expected a manifest of units \(stage units\), or model.t2c"):
        stage_of(world, t2c=str(world / "t2c"))


def test_without_recordings_of_the_replies_there_is_nothing_to_learn(world):
    with pytest.raises(ValueError, match=r"data.recordings: expected a manifest of units"):
        stage_of(world, recordings=None)
    empty = world / "no_units.jsonl"
    lines = (world / "units.jsonl").read_text(encoding="utf-8").splitlines()
    other = [json.loads(line) for line in lines[:1]]
    for one in other:
        one["text"] = " ".join("x" for _ in one["text"].split())
    empty.write_text("".join(json.dumps(one) + "\n" for one in other), encoding="utf-8")
    with pytest.raises(ValueError, match="expected recordings of the replies of"):
        stage_of(world, recordings=str(empty))
    assert echo_recipe(world).build().dataset()  # echo training needs none
