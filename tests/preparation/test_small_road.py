"""recipes/small: what one recipe writes is what the next one reads, and it fits a consumer GPU."""

import json

import pytest
from typer.testing import CliRunner

from echox.cli.main import app
from echox.config import load_recipe
from paths import RECIPES

SMALL = RECIPES / "small"
NAMES = (
    "language_model",
    "replies",
    "spoken_replies",
    "phone_units",
    "unit_language",
    "s2t",
    "t2c",
    "echo",
    "package",
)


def test_the_road_hands_on_what_it_makes():
    lm, replies, spoken, units, language, s2t, t2c, echo, package = (load_recipe(SMALL / f"{n}.yaml") for n in NAMES)
    assert lm.output_dir == replies.language_model == s2t.model.language_model == t2c.data.language_model
    assert replies.output == spoken.dialogues
    assert [replies.output] == s2t.data.manifests == echo.data.speech
    assert spoken.output == units.speech
    assert units.output_dir == language.data.extractor
    assert f"{units.output_dir}/replies.jsonl" == language.data.units == t2c.data.units
    assert language.output_dir == t2c.data.unit_language
    assert (s2t.training.output_dir, t2c.training.output_dir) == (echo.model.s2t, echo.model.t2c)
    assert (echo.training.output_dir, echo.model.vocoder) == (package.parts.echo, package.parts.vocoder)


def test_units_and_vocoder_are_those_of_mini():
    units, spoken, echo = (load_recipe(SMALL / f"{name}.yaml") for name in ("phone_units", "spoken_replies", "echo"))
    mini_units, mini_echo = (load_recipe(RECIPES / "mini" / f"{name}.yaml") for name in ("phone_units", "echo"))
    assert spoken.voice == load_recipe(RECIPES / "mini" / "spoken_replies.yaml").voice
    assert units.numbers_of == mini_units.output_dir
    assert echo.model.vocoder == mini_echo.model.vocoder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "overrides", "gigabytes"),
    [("s2t", [], 12), ("s2t", ["training.batch_size=8", "training.accumulation_steps=4"], 8), ("echo", [], 8)],
)
def test_training_fits_the_gpu_that_the_documents_name(stage, overrides, gigabytes):
    """By the project's estimator, from sizes alone (recipes/small/config.json); docs/scaling.md."""
    recipe, lengths = str(SMALL / f"{stage}.yaml"), ["--tokens", "256", "--audio-s", "8"]
    found = CliRunner().invoke(app, ["estimate-memory", recipe, *overrides, "--json", *lengths], catch_exceptions=False)
    assert 2e9 < json.loads(found.stdout)["total_bytes"] < 0.95e9 * gigabytes
