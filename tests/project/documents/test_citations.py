"""Documents and code that the code, the recipes and the guides name can be opened by a reader of this repository."""

import re
import subprocess

import pytest

from paths import ROOT

NAME = re.compile(r"(?<![\w/:.*{}-])(?:[\w.-]+/)*[\w-]+\.md\b")
WRITTEN = {"summary.md", "report.md", "trigger.md", "latency.md", "model_card_nano.md", "card.md"}
"""Files that commands write."""
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "docs/files.md", ROOT / "CHANGELOG.md"})
"""docs/files.md is made from the files; CHANGELOG.md also names what went."""
SITE_PAGES = "scripts/site_hooks.py"  # names the pages of the site by their addresses there
CODE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|sh))(?:::(\w+))?`")
PLACES = ("src", "recipes", "runs", "scripts", "benchmarks", "examples", "docs", "README.md", "CONTRIBUTING.md")


def missing_documents(text: str, beside: str) -> list[str]:
    """Markdown files that a text names and that are neither here, in docs/, beside it, nor written by a command."""
    found = []
    for name in NAME.findall(text):
        places = (ROOT / name, ROOT / "docs" / name, ROOT / beside / name)
        if not any(place.is_file() for place in places) and name.rsplit("/", 1)[-1] not in WRITTEN:
            found.append(name)
    return found


def test_documents_that_are_named_exist():
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", *PLACES], capture_output=True, text=True, check=True
    ).stdout.split("\0")
    missing = []
    for name in listed:
        path = ROOT / name
        if name != SITE_PAGES and path.suffix in {".py", ".md", ".yaml", ".sh", ".ipynb"}:
            text = re.sub(r"https?://\S+", "", path.read_text(encoding="utf-8"))
            missing += [f"{name}: {one}" for one in missing_documents(text, str(path.parent.relative_to(ROOT)))]
    assert not missing, "\n".join(missing)


def test_a_document_that_nobody_can_open_is_found():
    assert missing_documents("Source: METHOD.md, section 3; docs/paper_map.md and [data](data.md).", "docs") == [
        "METHOD.md"
    ]


def missing_code(text: str) -> list[str]:
    """Scripts, modules and ``module.py::Name`` in backticks that are neither here nor in src/echox."""
    found = []
    for name, part in CODE.findall(text):
        path = next((place for place in (ROOT / name, ROOT / "src/echox" / name) if place.is_file()), None)
        defined = rf"^(?:class|def) {part}\b|^{part}\b.* = "
        if path is None or (part and not re.search(defined, path.read_text(encoding="utf-8"), re.MULTILINE)):
            found.append(f"{name}::{part}" if part else name)
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_that_is_named_exists(path):
    assert not missing_code(path.read_text(encoding="utf-8"))


def test_code_that_was_moved_or_renamed_is_found():
    named = "`streaming/session.py::Session`, `streaming/session.py::Cut`, `session.py`, `make x.py`, `runs/nano.sh`"
    assert missing_code(named) == ["streaming/session.py::Cut", "session.py"]
