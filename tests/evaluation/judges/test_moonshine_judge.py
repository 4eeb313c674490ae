"""Judge "moonshine": its decoder is fed as it was exported, long audio is cut, and people are understood."""

from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from echox.audio import load_audio
from echox.data.scoring import word_errors
from echox.evaluation.judges import asr, moonshine
from echox.evaluation.judges.asr import open_judge
from echox.evaluation.judges.moonshine import MoonshineASR
from echox.evaluation.judges.open_vocabulary import join_letters
from echox.models.conversion.moonshine_files import MOONSHINE_FILES, find_ort_moonshine

TOKENS = [b"<unk>", b"<s>", b"</s>", "\u2581it".encode(), "\u2581was".encode(), b"\xc3", b"\xa9"]
SAID = [3, 4, 5, 6, 2]


class Encoder:
    """One frame for 384 samples."""

    def run(self, _, inputs):
        samples = inputs["input_values"]
        assert samples.shape == inputs["attention_mask"].shape
        return [np.zeros((1, samples.shape[1] // 384, 8), np.float32)]


class Decoder:
    """Writes `SAID`; refuses a memory that is not the one it gave."""

    names = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")

    def get_inputs(self):
        past = [SimpleNamespace(name=f"past_key_values.0.{name}", shape=["batch", 2, "past", 4]) for name in self.names]
        others = ("encoder_attention_mask", "input_ids", "encoder_hidden_states", "use_cache_branch")
        return [*(SimpleNamespace(name=name, shape=["batch"]) for name in others), *past]

    def get_outputs(self):
        return [SimpleNamespace(name=name) for name in ("logits", *(f"present.0.{name}" for name in self.names))]

    def run(self, _, inputs):
        memory = {name: inputs[f"past_key_values.0.{name}"] for name in self.names}
        step = memory["decoder.key"].shape[2]
        frames = inputs["encoder_hidden_states"].shape[1]
        assert bool(inputs["use_cache_branch"][0]) == (step > 0)
        assert inputs["input_ids"].tolist() == [[SAID[step - 1] if step else 1]]
        assert memory["encoder.key"].shape[2] == (frames if step else 0)
        logits = np.zeros((1, 1, len(TOKENS)), np.float32)
        logits[0, 0, SAID[step]] = 1.0
        longer = np.zeros((1, 2, step + 1, 4), np.float32)
        of_frames = np.zeros((1, 2, 0 if step else frames, 4), np.float32)  # later steps return none
        return [logits, longer, longer, of_frames, of_frames]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in MOONSHINE_FILES:
        (tmp_path / name).write_bytes(b"".join(bytes([len(token)]) + token for token in TOKENS))
    monkeypatch.setattr(
        moonshine, "open_session", lambda path, threads, remedy: Encoder() if "encoder" in path.name else Decoder()
    )
    return tmp_path


def test_one_token_a_step_from_the_memory_of_the_steps_before(folder):
    judge = open_judge(folder, "no lexicon")
    assert isinstance(judge, MoonshineASR)
    speech = np.zeros(16000, np.float32)
    assert judge.transcribe([speech, np.zeros(0, np.float32), speech[:40]], 16000) == ["it wasé", "", "it wasé"]
    assert judge.transcribe([np.zeros(24000, np.float32)], 24000) == ["it wasé"]


def test_long_audio_is_cut_into_parts(folder):
    judge = MoonshineASR(folder)
    assert judge.transcribe([np.zeros(16000 * 50, np.float32)], 16000) == ["it wasé it wasé it wasé"]


def test_repetition_ends(folder, monkeypatch):
    monkeypatch.setattr(moonshine, "_LEAST_TOKENS", 2)
    assert MoonshineASR(folder).transcribe([np.zeros(400, np.float32)], 16000) == ["it was"]


def test_what_is_missing_is_named(folder, monkeypatch):
    monkeypatch.setattr(asr, "installed_folder", lambda package: None)
    with pytest.raises(ValueError, match="pip install --no-deps moonshine-voice"):
        open_judge("moonshine", "no lexicon")
    monkeypatch.setattr(asr, "installed_folder", lambda package: folder.parent / "none")
    with pytest.raises(ValueError, match="another version"):
        open_judge("moonshine", "no lexicon")
    (folder / "tokenizer.bin").unlink()
    with pytest.raises(ValueError, match="found no tokenizer.bin"):
        MoonshineASR(folder)


PACKAGE = find_spec("moonshine_voice")
CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity"
)


@pytest.mark.skipif(PACKAGE is None, reason="needs moonshine-voice==0.0.73 (pip install --no-deps)")
def test_a_person_is_understood():
    pytest.importorskip("onnxruntime")
    judge = open_judge("moonshine", "no lexicon")
    assets = find_ort_moonshine(asr.moonshine_folder()).parent
    speech = load_audio(assets / "two_cities.wav", 16000)[: 16000 * 17]
    words = judge.transcribe([speech], 16000)[0].split()
    assert word_errors([CITIES], [" ".join(words[: len(CITIES.split())])]).rate < 0.1


@pytest.mark.parametrize(
    ("heard", "written"),
    [
        ("The Japanese Yen, J. P. Y, is used.", "The Japanese Yen, JPY, is used."),
        ("Iron has the symbol F. E.", "Iron has the symbol FE."),
        ("The U.S. and N. A. are", "The U.S. and NA. are"),
        ("Plan B I like. John F. Kennedy took vitamin C.", "Plan B I like. John F. Kennedy took vitamin C."),
    ],
)
def test_letters_heard_one_by_one_are_a_word(heard, written):
    assert join_letters(heard) == written
