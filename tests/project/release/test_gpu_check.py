"""scripts/gpu_check.sh runs as a whole on a CPU, and mini's parts are packed into bundles that their recipes read."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from echox.audio import load_audio, save_audio
from echox.config import load_recipe
from echox.data.manifest import (
    UnitUtterance,
    Utterance,
    read_unit_utterances,
    read_utterances,
    write_unit_utterances,
    write_utterances,
)
from echox.models.text.tokenization_text import train_text_tokenizer
from paths import ROOT
from tiny_echox import TEXTS

sys.path.insert(0, str(ROOT / "scripts"))
from pack_mini import ROOM_BYTES, pack


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_step_in_small_leaves_its_result(tmp_path):
    environment = {**os.environ, "BUNDLES": str(tmp_path / "none")}
    done = subprocess.run([str(ROOT / "scripts/gpu_check.sh"), "--tiny", str(tmp_path)], env=environment, check=False)
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [(step["step"], step["status"]) for step in steps] == [
        (name, 0) for name in ("tests", "8b", "train_s2t", "train_t2c", "train_echo")
    ]
    assert done.returncode == 0
    for name in ("s2t", "t2c", "echo"):
        figures = json.loads((tmp_path / f"train_{name}.json").read_text())["figures"]
        assert figures["step_tflop"] > 0
        assert figures["eager"]["tokens_per_s"] > 0


def test_a_step_that_fails_stops_no_other(tmp_path):
    """`python` is a program that fails: every step is tried, and the status says so."""
    script = (ROOT / "scripts/gpu_check.sh").read_text().replace("python=.venv/bin/python", "python=false")
    copy = tmp_path / "scripts/gpu_check.sh"
    copy.parent.mkdir()
    copy.write_text(script.replace('[ -x "$python" ] || python=python\n', ""))
    command = ["bash", str(copy), "--tiny", str(tmp_path / "found")]
    done = subprocess.run(command, env={**os.environ, "STEPS": "tests train_t2c"}, check=False, capture_output=True)
    steps = [json.loads(line) for line in (tmp_path / "found/steps.jsonl").read_text().splitlines()]
    assert [(step["step"], step["status"]) for step in steps] == [("tests", 1), ("train_t2c", 1)]
    assert done.returncode == 1


@pytest.fixture
def mini(tmp_path):
    """A folder with the parts of out/mini that are packed: three spoken replies and a text."""
    folder = tmp_path / "mini"
    for name in ("units", "unit_language", "speech"):
        (folder / name).mkdir(parents=True)
    (folder / "unit_language/unit_language.json").write_text("{}")
    rng = np.random.default_rng(0)
    spoken, units = [], []
    for number in range(3):
        save_audio(folder / f"speech/{number}.wav", 0.1 * rng.standard_normal(8000).astype(np.float32), 16000)
        spoken.append(Utterance(f"r{number}", f"{number}.wav", "Yes.", "joe", 0.5))
        units.append(UnitUtterance(f"r{number}", "Yes.", (1, 2), (10, 15), (0, 0)))
    write_utterances(folder / "speech/replies.jsonl", spoken)
    write_unit_utterances(folder / "units/replies.jsonl", units)
    write_unit_utterances(folder / "units/texts.jsonl", [UnitUtterance("t", "No.", (3,), (), (0,))])
    tokenizer = train_text_tokenizer(TEXTS, vocab_size=340)
    tokenizer.save_pretrained(folder / "language_model")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "language_model")
    return folder


def test_a_bundle_of_the_t2c_has_all_that_its_stage_reads_of_the_language_model(mini, tmp_path):
    bundle = tmp_path / "bundle"
    pack("t2c", mini, bundle)
    data = load_recipe(bundle / "t2c.yaml").data
    assert data.units == str(bundle / "units/replies.jsonl")
    assert len(read_unit_utterances(data.unspoken)) == 1
    whole, packed = (
        AutoModelForCausalLM.from_pretrained(path) for path in (mini / "language_model", bundle / "language_model")
    )
    expected = whole.get_input_embeddings().weight.to(torch.bfloat16)
    assert torch.equal(packed.get_input_embeddings().weight.to(torch.bfloat16), expected)
    with pytest.raises(ValueError, match="expected a new folder"):
        pack("t2c", mini, bundle)


def test_a_bundle_of_the_vocoder_has_the_recordings_that_fit_unchanged(mini, tmp_path):
    bundle = tmp_path / "bundle"
    pack("vocoder", mini, bundle, limit_bytes=ROOM_BYTES + 36_000)  # 16 kB of noise each
    data = load_recipe(bundle / "vocoder.yaml").data
    kept = read_utterances(data.speech)
    assert [item.id for item in kept] == ["r0", "r1"]
    assert [row.id for row in read_unit_utterances(data.units)] == ["r0", "r1"]
    whole, packed = (load_audio(path, 16000) for path in (mini / "speech/1.wav", bundle / "speech" / kept[1].audio))
    assert np.array_equal(whole, packed)
    with pytest.raises(ValueError, match="that does"):
        pack("vocoder", mini, tmp_path / "small", limit_bytes=ROOM_BYTES + 100)
    assert not (tmp_path / "small").exists()
