"""docs/files.md: it lists every file of the package, with the first line of its docstring as it is now."""

import importlib.util

import pytest

from paths import ROOT


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("file_map", ROOT / "scripts" / "file_map.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(generator):
    written = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert written == generator.file_map(), "run: python scripts/file_map.py"


def test_every_file_says_what_is_in_it(generator):
    silent = [path.name for path in generator.PACKAGE.rglob("*.py") if not generator.first_line(path)]
    assert not silent, f"no docstring: {', '.join(silent)}"


def test_markdown_of_a_first_line(generator, tmp_path):
    path = tmp_path / "a.py"
    path.write_text('"""Two ``words``: a | b,\nin two lines.\n\nMore.\n"""\n', encoding="utf-8")
    assert generator.first_line(path) == r"Two `words`: a \| b, in two lines."
