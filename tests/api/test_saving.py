"""Saved folders: in every precision, and over other models, they hold the model that was saved and nothing else."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import pytest
import torch

from echox import EchoX
from echox.api.about import About
from echox.api.folder_files import OPTIONAL_FILES, OPTIONAL_FOLDERS
from echox.models.decoding.lean_adapter import LeanAdapter
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.quantization.group_int4 import to_group_int4
from echox.models.quantization.low_bits import INT4
from echox.models.turns.talk_head import TalkHead
from echox.models.turns.turn_head import TurnHead
from tiny_echox import tiny_echox
from tiny_recogniser import tiny_hearer

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


def lora(model: EchoX, rank: int) -> LeanAdapter:
    """On all linear layers of the language model."""
    weights = {}
    for name, layer in model.model.s2t.language_model.named_modules():
        if isinstance(layer, torch.nn.Linear) and ".layers." in name:
            weights[f"{name}.lora_A.weight"] = torch.randn(rank, layer.in_features)
            weights[f"{name}.lora_B.weight"] = torch.randn(layer.out_features, rank)
    return LeanAdapter.of(weights, 2.0)


def model_with(what: str) -> EchoX:
    """A tiny model with one thing that others do not have."""
    model = tiny_hearer() if what == "recogniser" else tiny_echox()
    width = model.model.s2t.config.hidden_size
    if what == "record":
        model.training_record = {"stages": [{"stage": "echo", "steps": 7, "metrics": {}}]}
    elif what == "about":
        model.about = About(knows="The sea.", examples=["How deep is it?"])
    elif what == "turn_head":
        model.turn_head = TurnHead(width)
    elif what == "talk_head":
        model.talk_head = TalkHead(width)
    elif what in ("talk", "tools"):
        model.adapters = {what: lora(model, 2 if what == "talk" else 3)}
    elif what == "no_template":
        model.processor = copy.deepcopy(model.processor)
        model.processor.chat_template = model.processor.tokenizer.chat_template = None
    return model


KINDS = ("plain", "record", "about", "turn_head", "talk_head", "talk", "tools", "no_template", "recogniser")


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def each(tmp_path_factory) -> tuple[dict[str, EchoX], dict[str, Path]]:
    """A model of each kind, and a folder of it that nothing was in before."""
    root = tmp_path_factory.mktemp("each")
    models = {kind: model_with(kind) for kind in KINDS}
    for kind, model in models.items():
        model.save_pretrained(root / kind / "model")
    return models, {kind: root / kind / "model" for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_the_model_before_is_left(kind, each, tmp_path):
    models, folders = each
    fresh = content(folders[kind])
    for before, folder in folders.items():
        place = tmp_path / before / "model"
        shutil.copytree(folder, place)
        (place / "notes.txt").write_text("of the user", encoding="utf-8")
        models[kind].save_pretrained(place)
        found = content(place)
        assert found.pop("notes.txt") == b"of the user"
        assert found.keys() == fresh.keys(), before
        assert [name for name in fresh if found[name] != fresh[name]] == [], before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no_template"])  # which cannot talk
def test_a_model_is_saved_over_itself(kind, each, tmp_path):
    _, folders = each
    place = tmp_path / "model"
    shutil.copytree(folders[kind], place)
    EchoX.from_pretrained(place, device="cpu", dtype=torch.float32).save_pretrained(place)
    found, fresh = content(place), content(folders[kind])
    assert found.keys() == fresh.keys()
    weights = [name for name in fresh if name.endswith(".safetensors")]
    assert [name for name in weights if found[name] != fresh[name]] == []
    EchoX.from_pretrained(place, device="cpu")


def test_all_that_some_models_have_is_known(each):
    """What one model has and another has not is removed: a new kind of file has to be added to the list."""
    _, folders = each
    names = [set(content(folder)) for folder in folders.values()]
    some = set.union(*names) - set.intersection(*names)
    assert {name for name in some if name.split("/")[0] not in (*OPTIONAL_FILES, *OPTIONAL_FOLDERS)} == set()
