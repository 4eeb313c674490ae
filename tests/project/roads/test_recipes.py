"""Every recipe loads, and says what it is for."""

import re
from pathlib import Path

import pytest

from echox import load_recipe
from echox.config import MUST_CHOOSE
from markdown_commands import check_command
from paths import ROOT

RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
HEADER = ("What", "Needs", "Run", "Override", "Measured")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def load(path: Path, overrides: tuple[str, ...] = ()):
    """Load a recipe, choosing something wherever it leaves the choice (``???``) to its user."""
    chosen = list(overrides)
    for _ in range(path.read_text(encoding="utf-8").count(MUST_CHOOSE)):
        try:
            return load_recipe(path, overrides=chosen)
        except ValueError as error:
            key = re.search(r"([\w.]+) must be chosen", str(error))
            if key is None:
                raise
            chosen.append(f"{key[1]}=chosen")
    return load_recipe(path, overrides=chosen)


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_loads(path):
    load(path)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_refuses_an_unknown_key(path):
    with pytest.raises(ValueError, match="no_such_key"):
        load_recipe(path, overrides=["no_such_key=1"])


def header_of(path: Path) -> str:
    """The comment at its top."""
    return re.match(r"(?:#.*\n)*", path.read_text(encoding="utf-8"))[0]


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_files_that_a_header_names_exist(path):
    for name in re.findall(r"(?<![\w/.*:-])[\w/.-]+\.(?:yaml|sh|md|py)\b", header_of(path)):
        places = (ROOT, path.parent, ROOT / "src/echox")
        assert name.startswith("out/") or any((place / name).is_file() for place in places), name


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_an_extractor_is_one_that_a_recipe_makes(path):
    """Units can also be phones, which nothing extracts from sound (stage phone_units)."""
    recipe = load(path)
    if recipe.stage != "extract_units" or recipe.extractor is None:
        return
    made = [one for one in map(load, RECIPES) if one.stage in ("units", "extract_units")]
    makers = {getattr(one, "save_extractor", None) or getattr(one, "output_dir", None) for one in made}
    assert recipe.extractor in makers


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_header_says_what_needs_run_override_measured(path):
    missing = [field for field in HEADER if not re.search(rf"^#\s*{field}\b", header_of(path), re.MULTILINE)]
    assert not missing, f"{name_of(path)}: the comment at its top lacks {', '.join(missing)}"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_run_line_names_this_file(path):
    assert name_of(path) in path.read_text(encoding="utf-8"), f"{name_of(path)}: its Run line names another file"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_run_line_parses_and_overrides_are_accepted(path):
    text = path.read_text(encoding="utf-8")
    (run,) = re.findall(r"^#\s*Run:?\s+(.+)$", text, re.MULTILINE)
    check_command(re.split(r"\s{2,}|\s\(", run.strip("` "))[0])
    overrides = re.findall(r"^#\s*Override:?\s+(.+)$", text, re.MULTILINE)
    chosen = re.findall(r"(?<![\w.])([a-z_]\w*(?:\.\w+)*=[^\s;,)]+)", " ".join(overrides))
    for override in chosen:
        load(path, (override,))
