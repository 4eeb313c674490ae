"""Weights are for whoever can read other new files: safetensors alone would keep them for their owner."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
import torch
from transformers import WhisperFeatureExtractor

import echox
from echox.files import write_tensors
from echox.models.turns.turn_head import TurnHead
from echox.training.networks.lora import LoRASettings, add_lora, save_lora
from echox.units.extract import UnitExtractor
from test_loop import run
from tiny_echox import tiny_echox

PACKAGE = Path(echox.__file__).parent
WITHOUT_WEIGHTS = re.compile(r"tokenizer|processor|language$|feature_?extractor|learn\(|peft_config|super\(", re.I)
"""What else has `save_pretrained`: their names, as they stand before it."""
BY_THE_HELPERS = re.compile(r"(self|extractor)$|EchoX\(")
"""Ours, which write their weights so."""


@pytest.fixture
def umask():
    """Not that of this machine, so that no mode is right by chance."""
    before = os.umask(0o027)
    yield
    os.umask(before)


def tensors(folder: Path) -> None:
    write_tensors(folder / "some.safetensors", {"a": torch.zeros(2)})
    write_tensors(folder / "some.safetensors", {"a": torch.ones(2)})


def whole_model(folder: Path) -> None:
    model = tiny_echox()
    model.turn_head = TurnHead(model.model.s2t.config.hidden_size)
    model.save_pretrained(folder)


def adapter(folder: Path) -> None:
    pytest.importorskip("peft")
    model = tiny_echox()
    from peft import LoraConfig

    model.model.s2t.language_model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_adapter(folder)


def lora(folder: Path) -> None:
    pytest.importorskip("peft")
    s2t = tiny_echox().model.s2t
    add_lora(s2t.language_model, LoRASettings(2, 4, 0.0))
    save_lora(s2t, LoRASettings(2, 4, 0.0), folder)


def unit_extractor(folder: Path) -> None:
    tower = tiny_echox().model.s2t.audio_tower
    UnitExtractor(tower, WhisperFeatureExtractor(), torch.randn(5, 16), layer=1).save_pretrained(folder)


def checkpoint(folder: Path) -> None:
    run(folder, steps=1)


@pytest.mark.parametrize("save", [tensors, whole_model, adapter, lora, unit_extractor, checkpoint])
def test_every_file_has_the_mode_of_a_new_one(save, umask, tmp_path):
    (tmp_path / "new").touch()
    save(tmp_path)
    modes = {str(path.relative_to(tmp_path)): path.stat().st_mode for path in tmp_path.rglob("*") if path.is_file()}
    assert any(name.endswith(".safetensors") for name in modes)
    assert set(modes.values()) == {modes["new"]}, modes


def test_weights_are_written_by_the_helpers_only():
    strangers = []
    for path in PACKAGE.rglob("*.py"):
        if path == PACKAGE / "files.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            saved = called.removesuffix(".save_pretrained")
            stranger = saved != called and not WITHOUT_WEIGHTS.search(saved) and not BY_THE_HELPERS.search(saved)
            if stranger or called.split(".")[-1] == "save_file":
                strangers.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {called}: take those of echox.files")
    assert not strangers, "\n".join(strangers)
