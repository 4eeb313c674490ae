"""Lines of the documentation fit a screen: prose of at most 120 columns."""

import pytest

from paths import ROOT

WIDTH = 120
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def long_lines(markdown: str) -> list[int]:
    """Numbers of the lines of prose over `WIDTH`: not of tables, code, pictures, or a line that is one address."""
    found, code = [], False
    for number, line in enumerate(markdown.splitlines(), 1):
        if line.lstrip().startswith("```"):
            code = not code
        elif not code and not line.lstrip().startswith(("|", "![")) and len(line) > WIDTH and " " in line.strip():
            found.append(number)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_of_prose_is_too_long(path):
    assert long_lines(path.read_text(encoding="utf-8")) == []


def test_a_long_line_is_found_and_tables_and_code_are_not_prose():
    long = "word " * 30
    assert long_lines(f"short\n{long}\n") == [2]
    assert long_lines(f"| {long} |\n```text\n{long}\n```\n![{long}](a.png)\nhttps://{'x' * 130}\n") == []
