"""Records name the files that made them: another model file under the same name judges and rates again."""

import json
import shutil
import types

import pytest
import torch
import transformers

from echox.audio import save_audio
from echox.evaluation.judges import naturalness
from echox.evaluation.judges.asr import TransformersASR, open_judge
from echox.evaluation.rating import rate_run
from echox.evaluation.run import run_tasks, score_run
from echox.evaluation.scoring.records import read_lines
from echox.evaluation.sets.tasks import open_tasks
from echox.files import write_lines
from echox.streaming.events import Reply
from tiny_echox import tone


class Speaker:
    """Answers with a tone."""

    name, key, folder = "speaker", "speaker", None

    def answer(self, messages, speak=True):
        return Reply("It is Paris.", tone(0.1), 16000, "", {})


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr("echox.evaluation.summary.draw_run", lambda *_: [])
    save_audio(tmp_path / "0.wav", tone(0.3), 16000)
    write_lines(tmp_path / "items.jsonl", [{"audio": "0.wav", "answers": "Paris"}])
    again(tmp_path)
    return tmp_path / "run"


def again(tmp_path):
    run_tasks(open_tasks("qa", tmp_path / "items.jsonl"), Speaker(), None, tmp_path / "run")


def mos_file(path, score):
    class Constant(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("score", torch.tensor(score))

        def forward(self, waveform: torch.Tensor) -> torch.Tensor:
            return self.score + 0 * waveform.mean(1)

    torch.jit.script(Constant()).save(path)
    return path


def utmos(run):
    return score_run(run)["tasks"]["qa"].get("utmos")


def test_another_file_of_a_predictor_rates_again(run, tmp_path):
    files = {score: mos_file(tmp_path / f"{score}.pt", score) for score in (3.5, 2.0)}
    for score in (3.5, 2.0, 3.5):
        rate_run(run, shutil.copy(files[score], tmp_path / "mos.pt"), None)
        assert utmos(run) == pytest.approx(score)
        again(tmp_path)  # without a predictor: its ratings are kept
        assert utmos(run) == pytest.approx(score)
    assert len(read_lines(run / "qa" / "naturalness.jsonl")) == 2  # that of the first file was used again
    assert json.loads((run / "summary.json").read_text())["raters"]["utmos"].startswith("utmos:")


def test_ratings_of_before_count_until_a_named_file_rates(run, tmp_path):
    (key,) = json.loads((run / "run.json").read_text())["tasks"][0]["keys"]
    write_lines(run / "qa" / "naturalness.jsonl", [{"id": "0", "key": f"{key} utmos", "rating": 4.0}])
    assert utmos(run) == 4.0
    rate_run(run, mos_file(tmp_path / "a.pt", 3.5), None)
    assert utmos(run) == pytest.approx(3.5)


@pytest.mark.parametrize("open_rater", [naturalness.open_dnsmos, naturalness.open_p808])
def test_predictors_are_named_after_their_files(tmp_path, monkeypatch, open_rater):
    session = types.SimpleNamespace(get_inputs=lambda: [types.SimpleNamespace(name="input")])
    monkeypatch.setattr(naturalness, "open_session", lambda *_: session)
    names = []
    for content in ("one", "two", "one"):
        (tmp_path / "model.onnx").write_text(content)
        names.append(open_rater(tmp_path / "model.onnx").name)
    assert names[0] == names[2] != names[1]
    assert all(" " not in name for name in names)  # it ends a key


def test_a_recogniser_in_a_folder_is_named_after_its_files(tmp_path, monkeypatch):
    config = types.SimpleNamespace(_commit_hash="0123456789abcdef")
    pipeline = types.SimpleNamespace(model=types.SimpleNamespace(config=config))
    monkeypatch.setattr(transformers, "pipeline", lambda *_, **__: pipeline)
    folder = tmp_path / "whisper"
    folder.mkdir()
    names = []
    for weights in ("one", "two", "one"):
        (folder / "config.json").write_text('{"model_type": "whisper"}')
        (folder / "model.safetensors").write_text(weights)
        names.append(open_judge(folder, "").name)
    assert names[0] == names[2] != names[1]
    shutil.copytree(folder, tmp_path / "elsewhere" / "whisper")
    assert TransformersASR(str(tmp_path / "elsewhere" / "whisper")).name == names[2]
    assert TransformersASR("openai/whisper-tiny").name == "openai/whisper-tiny (revision 0123456789ab)"
    config._commit_hash = None
    assert TransformersASR("openai/whisper-tiny").name == "openai/whisper-tiny"
