"""The README and its relatives stay true: commands parse, paths exist, links lead somewhere, snippets compile."""

import ast
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

import echox
import forked
from markdown_commands import ROOT, check_command, command_lines, fenced_blocks

DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "examples/README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = [
    pytest.param(line, id=f"{path.name}: {line.strip()[:60]}")
    for path in DOCUMENTS
    for block in fenced_blocks(path, "bash")
    for line in command_lines(block)
]
SNIPPETS = [
    pytest.param(block, id=f"{path.name}[{number}]")
    for path in DOCUMENTS
    for number, block in enumerate(fenced_blocks(path, "python"))
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_parses(line):
    check_command(line)


@pytest.mark.parametrize(
    "line", ["echox reply --no-such-option", "echox sing", "make coffee", "python absent.py", "sing"]
)
def test_false_commands_are_found_out(line):
    with pytest.raises(AssertionError):
        check_command(line)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_compiles_and_names_what_exists(snippet):
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom) and node.module == "echox":
            for alias in node.names:
                assert hasattr(echox, alias.name), f"from echox import {alias.name}: no such name"


def test_readme_has_its_six_lines():
    (snippet,) = fenced_blocks(ROOT / "README.md", "python")
    assert len([line for line in snippet.splitlines() if line.strip()]) <= 6


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    # Pages of GitHub beside the files: ../../actions/workflows/ci.yml shows the runs of .github/workflows/ci.yml.
    targets = [re.sub(r"^\.\./\.\./actions/(.*?)(/badge\.svg)?$", r".github/\1", target) for target in targets]
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not missing, f"{path.name} links to what is not there: {', '.join(missing)}"


def test_file_map_is_true():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^## File map\n+```text\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    named = [line.split()[0] for line in block.splitlines() if line.strip()]
    missing = [name for name in named if not (ROOT / name).exists()]
    assert not missing, f"the file map names what is not there: {', '.join(missing)}"
    folders = {f"src/echox/{entry.name}/" for entry in (ROOT / "src/echox").iterdir() if any(entry.glob("*.py"))}
    assert folders <= set(named), f"the file map lacks {', '.join(sorted(folders - set(named)))}"


@pytest.mark.slow
def test_picture_and_sound_are_what_nano_says(tmp_path):
    """They are made again by their script: the reply is the same, and both are small enough for a page."""
    done = forked.run([ROOT / "scripts/readme_sample.py", "--output", tmp_path], ROOT)
    assert done.returncode == 0, done.stderr.decode()
    name = "audio/conversation.mp3"
    shown, made = (soundfile.read(folder / name)[0] for folder in (ROOT / "docs", tmp_path))
    assert len(shown) == len(made)
    assert np.corrcoef(shown, made)[0, 1] > 0.999
    name = "images/conversation.png"
    with Image.open(ROOT / "docs" / name) as picture, Image.open(tmp_path / name) as made_picture:
        assert picture.size == made_picture.size
    assert (ROOT / "docs" / name).stat().st_size < 200_000
