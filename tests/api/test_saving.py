"""Saved folders: in every precision, and over other models, they hold the model that was saved and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from echox import EchoX
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.quantization.group_int4 import to_group_int4
from echox.models.quantization.low_bits import INT4
from tiny_echox import tiny_echox

IDS = torch.tensor([[5, 60, 70, 80, 90, 100]])
STORED = (None, torch.float16, torch.int8)
LOADED = (None, torch.float32, torch.int8, INT4)
ROUNDING = 0.3
"""Of scores, after weights and inputs of a random model were rounded to few bits; of two models it is 1.4."""


def logits(model: EchoX) -> torch.Tensor:
    with torch.inference_mode():
        return model.model.s2t.language_model(IDS).logits.float()


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative to the expected scores."""
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model whose matrices have values that 4 bits can hold."""
    model = tiny_echox(hidden_size=64)
    for layer in model.model.s2t.language_model.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data = to_group_int4(layer.weight).floats()
    folder = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def same_kernel(monkeypatch) -> None:
    """Of all CPUs, for 8 bits: the integer kernel also rounds inputs."""
    monkeypatch.setattr("echox.models.quantization.int8_linear.best_kernel", lambda: "weight_only")


def assert_loads_in_all_ways(folder: Path, expected: torch.Tensor) -> None:
    for loaded in LOADED:
        again = EchoX.from_pretrained(folder, device="cpu", dtype=loaded)
        assert difference(logits(again), expected) < ROUNDING, loaded
    plain = EchoXForConditionalGeneration.from_pretrained(folder)
    with torch.inference_mode():
        assert difference(plain.s2t.language_model(IDS).logits.float(), expected) < ROUNDING


@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16, torch.int8, INT4], ids=str)
def test_every_precision_is_saved_in_every_form(held, stored, folder, same_kernel, tmp_path):
    model = EchoX.from_pretrained(folder, device="cpu", dtype=held)
    model.save_pretrained(tmp_path / "saved", dtype=stored)
    assert_loads_in_all_ways(tmp_path / "saved", logits(model))


def test_four_bits_are_stored_as_they_are_and_floats_as_floats(folder, tmp_path):
    model = EchoX.from_pretrained(folder, device="cpu", dtype=INT4)
    sizes = {}
    for stored in (*STORED, torch.float32):
        model.save_pretrained(tmp_path / str(stored), dtype=stored)
        sizes[stored] = (tmp_path / str(stored) / "model.safetensors").stat().st_size
    assert sizes[torch.int8] < sizes[torch.float16] < sizes[None] < sizes[torch.float32]
    for stored in (None, torch.int8):
        again = EchoX.from_pretrained(tmp_path / str(stored), device="cpu", dtype=INT4).model.state_dict()
        for name, value in model.model.state_dict().items():
            if name.endswith(("_codes", "_scale", "_minimum")):
                assert torch.equal(again[name].float(), value.float()), name
    with pytest.raises(ValueError, match=r"dtype: expected a type of floats, torch\.int8 or None, found torch\.int4"):
        model.save_pretrained(tmp_path / "none", dtype=INT4)
