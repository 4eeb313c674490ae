"""Moonshine from the ONNX-runtime files of its package: frames and transcripts of ONNX runtime, on human speech."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSpeechSeq2Seq, AutoTokenizer

from echox.audio import load_audio
from echox.data.scoring import word_errors
from echox.models.conversion.file_formats.ort_file import read_ort
from echox.models.conversion.moonshine import moonshine_tokenizer
from echox.models.conversion.moonshine_files import find_ort_moonshine, read_tokens
from echox.models.towers.auto import AutoAudioTower, AutoRecogniser
from echox.models.towers.base import finish
from echox.training.loop import run_recipe
from tiny_recogniser import tiny_tokens

PACKAGE = find_spec("moonshine_voice")
ASSETS = Path(PACKAGE.submodule_search_locations[0]) / "assets" if PACKAGE is not None else Path("none")
needs_package = pytest.mark.skipif(
    PACKAGE is None or find_ort_moonshine(ASSETS) is None,
    reason="needs moonshine-voice==0.0.73, which carries the model (pip install --no-deps)",
)
CITIES = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity"
)


def reference_transcript(samples: np.ndarray, most: int) -> tuple[np.ndarray, list[int]]:
    """Frames (F, D), and greedy tokens, by ONNX runtime itself."""
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    folder = find_ort_moonshine(ASSETS)
    encoder, decoder = (
        onnxruntime.InferenceSession(str(folder / name), options)
        for name in ("encoder_model.ort", "decoder_model_merged.ort")
    )
    mask = np.ones((1, len(samples)), np.int64)
    (frames,) = encoder.run(None, {"input_values": samples[None], "attention_mask": mask})
    names = [one.name for one in decoder.get_inputs() if one.name.startswith("past_key_values")]
    outputs = [one.name for one in decoder.get_outputs()]
    past = {name: np.zeros((1, 8, 0, 36), np.float32) for name in names}
    token, written = 1, []
    for step in range(most):
        found = dict(
            zip(
                outputs,
                decoder.run(
                    None,
                    {
                        "input_ids": np.array([[token]]),
                        "encoder_hidden_states": frames,
                        "encoder_attention_mask": mask,
                        "use_cache_branch": np.array([step > 0]),
                        **past,
                    },
                ),
                strict=True,
            )
        )
        token = int(found["logits"][0, -1].argmax())
        if token == 2:
            break
        written.append(token)
        for name in names:
            if step == 0 or ".decoder." in name:
                past[name] = found[name.replace("past_key_values", "present")]
    return frames[0], written


@needs_package
@pytest.mark.slow
@torch.inference_mode()
def test_the_packages_weights_hear_as_in_onnx_runtime(tmp_path):
    recipe = tmp_path / "recogniser.yaml"
    recipe.write_text(f"stage: recogniser\nmodel: package:moonshine_voice\noutput_dir: {tmp_path / 'heard'}\n")
    made = run_recipe(recipe)
    assert made == {"vocabulary": 32768, "parameters": 27_092_736}
    folder = tmp_path / "heard"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tower = AutoAudioTower.from_checkpoint(folder)
    recogniser = AutoRecogniser.from_config(tower.config).eval()
    whole = AutoModelForSpeechSeq2Seq.from_pretrained(folder)
    recogniser.load_state_dict(whole.get_decoder().state_dict())
    for name, seconds, said in (
        ("beckett.wav", 10.0, "Ever tried, ever failed, no matter, try again, fail again, fail better"),
        ("two_cities.wav", 17.0, CITIES),
    ):
        samples = load_audio(ASSETS / name, 16_000)[: int(seconds * 16_000)]
        frames, written = reference_transcript(samples, 120)
        windows = tower.encode_windows(torch.from_numpy(samples)[None], None)
        ours = windows.states[0].numpy()
        assert ours.shape == frames.shape
        cosine = (ours * frames).sum() / np.linalg.norm(ours) / np.linalg.norm(frames)
        assert cosine > 0.998  # ONNX runtime rounds its activations to 8 bits
        (heard,) = finish(recogniser.transcribe_gradually(windows, [120]))
        text, reference = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (heard.token_ids, written))
        assert (
            word_errors([said], [text[: len(said) + 8]]).rate <= word_errors([said], [reference[: len(said) + 8]]).rate
        )
        assert word_errors([reference], [text]).rate < 0.06, (reference, text)


def test_the_tokenizer_writes_as_sentence_piece_does():
    tokenizer = moonshine_tokenizer(tiny_tokens(beginnings=True))
    text = "what is the capital of b\u00e9e? \u20ac"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids)[:3] == ["\u2581what", "\u2581is", "\u2581the"]
    assert tokenizer.convert_ids_to_tokens(ids)[-3:] == ["<0xE2>", "<0x82>", "<0xAC>"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.eos_token_id == 2
    with pytest.raises(ValueError, match="expected <unk>, <s>, </s> first"):
        moonshine_tokenizer([b"a", b"b", b"c"])


def test_lists_of_tokens_are_read_whole_or_refused(tmp_path):
    long = b"x" * 300
    path = tmp_path / "tokenizer.bin"
    path.write_bytes(b"\x02ab" + b"\x00" + bytes([128 + 300 % 128, 300 // 128]) + long)
    assert read_tokens(path) == [b"ab", b"", long]
    for content in (b"\x05ab", b"", b"\x80"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="found one that is cut"):
            read_tokens(path)


def test_what_is_no_ort_file_is_refused(tmp_path):
    path = tmp_path / "encoder_model.ort"
    path.write_bytes(b"\x08\x00\x00\x00ONNX" + bytes(40))
    with pytest.raises(ValueError, match="expected an ONNX-runtime file"):
        read_ort(path)
    for seed in range(60):  # offsets that lead anywhere
        path.write_bytes(b"\x0c\x00\x00\x00ORTM" + np.random.default_rng(seed).bytes(400))
        with pytest.raises(ValueError, match="expected a whole ONNX-runtime file"):
            read_ort(path)


@needs_package
def test_a_cut_or_changed_file_is_refused_and_never_read_beyond(tmp_path):
    content = (find_ort_moonshine(ASSETS) / "encoder_model.ort").read_bytes()
    path = tmp_path / "encoder_model.ort"
    for length in (40, 1000, len(content) // 2, len(content) - 4096):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="install the package again"):
            read_ort(path)
