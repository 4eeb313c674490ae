"""Stage "s2t" on a finished model: what is trained, in what proportion, and how the result returns into the whole."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from echox.api.loading import bundled_questions
from echox.audio import load_audio, save_audio
from echox.config import TrainingConfig, load_recipe
from echox.data.features.corpus_features import log_mel
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.data.sampling import BucketBatchSampler
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.speech_detection import find_speech, speech_for_model
from echox.training.batches.stream import BatchStream
from echox.training.checkpoints.checkpoint import TrainingProgress
from echox.training.networks.lora import LoRASettings
from echox.training.stages.dialogue.continued import load_s2t
from echox.training.stages.dialogue.dialogues import spoken_dialogues
from echox.training.stages.hearing.s2t import S2TData, S2TModel, S2TRecipe, S2TStage, open_model
from tiny_echox import tiny_echox

REPLY = Turn("assistant", "Hello.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A whole model in 8 bits, ten typed dialogues, and two spoken ones with silence before and after."""
    folder = tmp_path_factory.mktemp("continued")
    tiny_echox().save_pretrained(folder / "whole", dtype=torch.int8)
    typed = [Dialogue(f"t{number}", (Turn("user", f"Say hello {number}."), REPLY)) for number in range(10)]
    write_dialogues(folder / "typed.jsonl", typed)
    spoken = []
    for number, path in enumerate(bundled_questions()[:2]):
        samples = np.pad(load_audio(path, 16000), 16000)
        save_audio(folder / f"{number}.wav", samples, 16000)
        turn = Turn("user", "Say hello.", f"{number}.wav", len(samples) / 16000, "rms")
        spoken.append(Dialogue(f"s{number}", (turn, REPLY), "train" if number == 0 else "heldout"))
    write_dialogues(folder / "spoken.jsonl", spoken)
    return folder


def stage_in(folder: Path, shares: list[float] | None = None, **training: object) -> S2TStage:
    data = S2TData([str(folder / "typed.jsonl"), str(folder / "spoken.jsonl")], shares, as_served=True, text_turns=0.0)
    rates = {"adapters": 1e-3, "lora": 1e-3}
    chosen = TrainingConfig(str(folder / "s2t"), steps=5, batch_size=4, learning_rates=rates, **training)
    model = S2TModel(start_from=str(folder / "whole"))
    return S2TRecipe("s2t", data, model, chosen, LoRASettings(r=2, alpha=4)).build()


def test_a_finished_model_is_where_training_begins(folder):
    stage = stage_in(folder)
    whole = EchoXForConditionalGeneration.from_pretrained(folder / "whole").s2t.state_dict()
    for name, value in stage.model.state_dict().items():
        if ".lora_" not in name:
            assert torch.equal(value, whole[name.replace(".base_layer", "")]), name
    assert len(stage.dataset()) == 11


def test_shares_are_of_the_whole_run(folder):
    items = stage_in(folder, [0.75, 0.25]).dataset()
    ids = [item.dialogue.id for item in items]
    assert len(ids) == 20
    assert ids.count("s0") == 5
    assert {ids.count(f"t{number}") for number in range(10)} == {1, 2}


def batches_of(stage: S2TStage, world: int) -> list[list[str]]:
    """Dialogues of the batches of a whole run, as its processes take them in turn."""
    training = stage.recipe.training
    count = training.steps * training.accumulation_steps
    ranks = []
    for rank in range(world):
        items, names = stage.dataset(), lambda items, rng: [item.dialogue.id for item in items]
        stream = BatchStream(items, stage.lengths(), names, training, TrainingProgress(), rank, world)
        ranks.append([next(stream).tensors for _ in range(count)])
        stream.close()
    return [batch for step in zip(*ranks, strict=True) for batch in step]


def test_several_processes_read_what_one_reads_that_accumulates(folder, monkeypatch):
    shares = [0.75, 0.25]
    alone = batches_of(stage_in(folder, shares, accumulation_steps=4), 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert batches_of(stage_in(folder, shares), 4) == alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert batches_of(stage_in(folder, shares, accumulation_steps=2), 2) == alone
    assert sum(batch.count("s0") for batch in alone) == 20  # a quarter, of the whole run


def test_batches_hold_typed_and_spoken_dialogues(folder):
    stage = stage_in(folder, [0.5, 0.5])
    items, lengths = stage.dataset(), stage.lengths()
    batches = list(BucketBatchSampler(lengths, batch_size=10))
    assert all(any(items[place].rows for place in batch) for batch in batches)
    losses = stage.objective.train()(stage.collate([items[place] for place in batches[0]], random.Random(0)))
    losses["loss"].backward()
    for group in stage.parameter_groups().values():
        assert any(value.grad is not None and value.grad.abs().sum() > 0 for value in group)


@pytest.mark.parametrize("shares", [[1.0], [0.5, 0.6]])
def test_shares_that_do_not_fit_are_refused(folder, shares):
    with pytest.raises(ValueError, match=r"data\.shares: expected one share"):
        stage_in(folder, shares)


def test_recordings_are_heard_as_a_loaded_model_hears_them(folder):
    manifest, tower = folder / "spoken.jsonl", stage_in(folder).tower
    plain, served = (spoken_dialogues(manifest, tower, form)[0].features(0) for form in (False, True))
    samples = load_audio(folder / "0.wav", 16000)
    speech = find_speech(samples, 16000)
    expected = log_mel(speech_for_model(samples, speech), 16000, 80).T
    assert len(plain) - len(served) == pytest.approx(200, abs=60)
    np.testing.assert_allclose(np.asarray(served, np.float32), expected.numpy(), atol=2e-3)


def test_either_a_finished_model_or_its_parts(folder):
    for parts in (S2TModel(), S2TModel("encoder"), S2TModel("encoder", "lm", start_from=str(folder / "whole"))):
        with pytest.raises(ValueError, match="either start_from, or speech_encoder and language_model"):
            open_model(parts)


def package_in(folder: Path, s2t: Path, output: Path):
    output.with_suffix(".yaml").write_text(
        f"stage: package\nparts: {{echo: {folder / 'whole'}, s2t: {s2t}, records: [{folder / 'whole'}, {s2t}]}}\n"
        f"output_dir: {output}\n",
        encoding="utf-8",
    )
    return load_recipe(output.with_suffix(".yaml"))


def test_the_result_returns_into_the_whole_model(folder, tmp_path):
    stage = stage_in(folder)
    with torch.no_grad():
        for value in stage.parameter_groups()["lora"]:
            value += 0.05
    (tmp_path / "s2t").mkdir()
    stage.save(tmp_path / "s2t")
    (tmp_path / "s2t" / "training_record.json").write_text('{"stage": "s2t"}', encoding="utf-8")
    record = {"stage": "package", "stages": [{"stage": "lm"}, {"stage": "echo"}]}
    (folder / "whole" / "training_record.json").write_text(json.dumps(record), encoding="utf-8")
    package_in(folder, tmp_path / "s2t", tmp_path / "package").run()
    packaged = EchoXForConditionalGeneration.from_pretrained(tmp_path / "package", dtype=torch.float32)
    original = EchoXForConditionalGeneration.from_pretrained(folder / "whole", dtype=torch.float32)
    continued = load_s2t(tmp_path / "s2t").state_dict()
    changed = 0
    for name, value in packaged.state_dict().items():
        part = name.removeprefix("s2t.")
        expected = continued[part] if part != name else original.state_dict()[name]
        torch.testing.assert_close(value, expected.float(), rtol=0, atol=1e-3 * float(expected.abs().max()))
        changed += part != name and not torch.equal(continued[part], original.s2t.state_dict()[part].float())
    assert changed
    written = json.loads((tmp_path / "package" / "training_record.json").read_text(encoding="utf-8"))
    assert [stage["stage"] for stage in written["stages"]] == ["lm", "echo", "s2t"]


def test_an_s2t_with_other_text_embeddings_is_refused(folder, tmp_path):
    stage = stage_in(folder)
    with torch.no_grad():
        stage.model.get_input_embeddings().weight[3] += 1
    (tmp_path / "s2t").mkdir()
    stage.save(tmp_path / "s2t")
    (tmp_path / "s2t" / "training_record.json").write_text('{"stage": "s2t"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"parts\.s2t: expected the text embeddings"):
        package_in(folder, tmp_path / "s2t", tmp_path / "package").run()
