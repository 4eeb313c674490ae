"""Write docs/files.md: every file of the package, folder by folder, with the first line of its docstring.

    python scripts/file_map.py

Run it after a file was added or moved, or its docstring changed; tests/project/documents/test_file_map.py
says when it was forgotten.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "echox"
PAGE = ROOT / "docs" / "files.md"
HEAD = """\
# Files of the package

Every file of `src/echox`, with the first line of its docstring. [Architecture](architecture.md) has the floors of the
folders and the words. Written by `python scripts/file_map.py`; change the docstrings, not this page.
"""

DOCSTRING = re.compile(r'\s*(?:#[^\n]*\n\s*)*r?"""(.*?)"""', re.DOTALL)


def file_map() -> str:
    """The page as Markdown."""
    folders: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        folders.setdefault(path.parent.relative_to(PACKAGE.parent).as_posix(), []).append(path)
    return "\n".join([HEAD, *(_section(name, paths) for name, paths in sorted(folders.items()))])


def first_line(path: Path) -> str:
    """The first paragraph of a file's docstring, or "" if it has none."""
    found = DOCSTRING.match(path.read_text(encoding="utf-8"))
    text = inspect.cleandoc(found[1]) if found else ""
    line = " ".join(text.split("\n\n")[0].split())
    return re.sub(r"``([^`]+)``", r"`\1`", line).replace("|", r"\|")


def _section(name: str, paths: list[Path]) -> str:
    """A folder: its own docstring, then a row for each file."""
    lines = [f"## {name}", ""]
    rows = [f"| `{path.name}` | {first_line(path)} |" for path in paths if path.name != "__init__.py"]
    purpose = [first_line(path) for path in paths if path.name == "__init__.py" and first_line(path)]
    if purpose:
        lines += [*purpose, ""]
    if rows:
        lines += ["| file | what is in it |", "|---|---|", *rows, ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(file_map(), encoding="utf-8")
    print(PAGE)
