from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from echox.config import TrainingConfig, dump_recipe, load_recipe, recipe, to_dict


@dataclass
class Part:
    form: Literal["short", "long"] = "short"
    sizes: tuple[int, ...] = (1, 2)
    names: list[str] = field(default_factory=list)
    limit_s: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@recipe("test_stage")
@dataclass
class Toy:
    stage: str
    data: str
    part: Part
    training: TrainingConfig


GOOD = {
    "stage": "test_stage",
    "data": "here",
    "training": {"output_dir": "out", "steps": 3, "batch_size": 2, "learning_rates": {"all": 1e-3}},
}


def write(folder, values):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_values_defaults_and_overrides(tmp_path):
    overrides = ["part.form=long", "training.learning_rates.all=2e-3", "part.limit_s=3", "part.settings.a.b=[1, x]"]
    loaded = load_recipe(write(tmp_path, GOOD), overrides)
    assert loaded.part == Part(form="long", limit_s=3.0, settings={"a": {"b": [1, "x"]}})
    assert loaded.training.learning_rates == {"all": 2e-3}  # YAML 1.1 reads 2e-3 as a string
    assert loaded.training.betas == (0.9, 0.98)


def test_round_trip(tmp_path):
    loaded = load_recipe(write(tmp_path, GOOD), ["part.sizes=[4, 5, 6]"])
    dump_recipe(loaded, tmp_path / "again.yaml")
    assert load_recipe(tmp_path / "again.yaml") == loaded
    assert to_dict(loaded)["part"]["sizes"] == [4, 5, 6]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepz=3", r"unknown key 'training.stepz' \(did you mean 'steps'\?\)"),
        ("dta=3", r"unknown key 'dta' \(did you mean 'data'\?\)"),
        ("training.steps=2.5", "training.steps: expected int, found 2.5"),
        ("training.steps=true", "training.steps: expected int, found True"),
        ("training.steps=0", "training.steps: expected a positive number, found 0"),
        ("training.resume=1", "training.resume: expected bool, found 1"),
        ("part.form=medium", "part.form: expected .*short.*found 'medium'"),
        ("part.names=[1]", r"part.names\[0\]: expected str, found 1"),
        ("part.limit_s=soon", "part.limit_s: expected float"),
        ("training.betas=[0.9]", "training.betas: expected"),
        ("training=3", "training: expected a mapping"),
        ("data=???", "data must be chosen: add data=..."),
        ("nonsense", "expected key=value"),
        ("stage=test_stagee", "unknown stage 'test_stagee'"),
        ("stage=vocodr", "did you mean 'vocoder'"),
    ],
)
def test_bad_values_name_file_and_key(tmp_path, override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(tmp_path, GOOD), [override])


def test_missing_key(tmp_path):
    with pytest.raises(ValueError, match="missing key 'data'"):
        load_recipe(write(tmp_path, {name: value for name, value in GOOD.items() if name != "data"}))


@pytest.mark.parametrize("text", ["a: [", "- 1", "data: here", ""])
def test_not_a_recipe(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="bad.yaml: expected"):
        load_recipe(path)


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="cannot read the recipe"):
        load_recipe(tmp_path / "none.yaml")
