"""Every recipe loads, and says what it is for."""

import re
from pathlib import Path

import pytest

from echox import load_recipe
from echox.config import MUST_CHOOSE

ROOT = Path(__file__).parent.parent
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
HEADER = ("What", "Needs", "Run", "Override", "Measured")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def must_choose(path: Path) -> list[str]:
    """Values of a recipe that only its user can know."""
    return re.findall(rf"^\s*(\w+):\s*{re.escape(MUST_CHOOSE)}", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_loads(path):
    missing = must_choose(path)
    if missing:
        with pytest.raises(ValueError, match=missing[0]):
            load_recipe(path)
        pytest.skip(f"{name_of(path)} leaves to its user: {', '.join(missing)}")
    load_recipe(path)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_recipe_refuses_an_unknown_key(path):
    with pytest.raises(ValueError, match="no_such_key"):
        load_recipe(path, overrides=["no_such_key=1"])


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_header_says_what_needs_run_override_measured(path):
    comments = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comments.append(line)
    missing = [field for field in HEADER if not re.search(rf"^#\s*{field}\b", "\n".join(comments), re.MULTILINE)]
    assert not missing, f"{name_of(path)}: the comment at its top lacks {', '.join(missing)}"


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_run_line_names_this_file(path):
    assert name_of(path) in path.read_text(encoding="utf-8"), f"{name_of(path)}: its Run line names another file"
