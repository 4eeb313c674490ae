"""A finished or stopped run is that of exactly one recipe: whatever changes in it is noticed."""

import copy
import json

import pytest

from echox.config import TrainingConfig, changed_settings, load_recipe, to_dict
from paths import RECIPES

TRAININGS = [path for path in sorted(RECIPES.rglob("*.yaml")) if "\ntraining:" in path.read_text(encoding="utf-8")]
ADDED = "an_added_key"


def plain(path) -> dict:
    return json.loads(json.dumps(to_dict(load_recipe(path))))


def changes(value, key=""):
    """Each change of one thing in a recipe: a leaf, a key more or less of a free mapping, a part that comes or goes."""
    if isinstance(value, dict):
        for name in value:
            for changed in changes(value[name], f"{key}.{name}"):
                yield value | {name: changed}
        if not value:
            yield {ADDED: 3}
        if key and value:
            yield None
    elif isinstance(value, bool):
        yield not value
    elif value is None:
        yield {"r": 3}
    elif isinstance(value, list):
        yield [*value, "more"]
    else:
        yield f"{value} changed"


@pytest.mark.parametrize("path", TRAININGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_change_of_a_recipe_is_noticed(path):
    recipe = plain(path)
    assert changed_settings(recipe, recipe) == {}
    seen = 0
    for changed in changes({name: part for name, part in recipe.items() if name != "stage"}):
        now = {"stage": recipe["stage"], **changed}
        assert changed_settings(recipe, now), now
        assert changed_settings(now, recipe), now
        seen += 1
    assert seen > 20


def test_keys_of_free_mappings_are_part_of_the_setting():
    recipe = plain(RECIPES / "mini" / "t2c.yaml")
    for options in ({}, recipe["model"]["options"] | {ADDED: 1}, {"max_word_letters": 0}):
        other = copy.deepcopy(recipe)
        other["model"]["options"] = options
        assert changed_settings(recipe, other) == {"model.options": (recipe["model"]["options"], options)}


def test_a_setting_newer_than_the_run_has_its_default():
    recipe = plain(RECIPES / "mini" / "t2c.yaml")
    older = copy.deepcopy(recipe)
    del older["training"]["packing"]
    assert changed_settings(older, recipe) == {}
    packed = recipe | {"training": recipe["training"] | {"packing": True}}
    assert changed_settings(older, packed) == {"training.packing": (False, True)}


def test_a_setting_that_is_gone_is_no_difference():
    recipe = plain(RECIPES / "mini" / "t2c.yaml")
    assert changed_settings(recipe | {"once": 1}, recipe) == {}


def test_stages_of_others_are_compared_too():
    training = to_dict(TrainingConfig("out", 1, 1, {"all": 1.0}))
    saved = {"stage": "of somebody else", "training": training, "model": {"width": 3}}
    assert changed_settings(saved, saved) == {}
    other = {
        **saved,
        "model": {"width": 3, "depth": 1},
        "training": training | {"learning_rates": {"all": 1.0, "b": 1}},
    }
    assert sorted(changed_settings(saved, other)) == ["model", "training.learning_rates"]
