"""scripts/setup.sh with a Python that only notes what it is asked: what is installed when, and tried again."""

import shutil
import subprocess

import pytest

from paths import ROOT

PYTHON = """#!/usr/bin/env bash
# Every check passes. Installations are noted; those of mini's parts fail as often as the file "failures" says.
case "$*" in
  *install*) echo "$*" >>installed ;;
  *) exit 0 ;;
esac
case "$*" in
  *requirements/mini.txt*)
    left=$(cat failures)
    if [ "$left" -gt 0 ]; then echo $((left - 1)) >failures; exit 1; fi ;;
esac
"""
FAILED = "setup: the parts of model mini could not be installed; nano answers in its place, the next set-up tries again"
ORDER = ("core", "serve", "dev")


@pytest.fixture
def checkout(tmp_path):
    for name in ("scripts", "requirements"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    parts = tmp_path / "src/echox/assets/mini/parts.json"
    parts.parent.mkdir(parents=True)
    parts.write_text("{}", encoding="utf-8")
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON, encoding="utf-8")
    python.chmod(0o755)
    return tmp_path


def set_up(checkout, kind):
    """Locks (and "-e .") that this call installed, and what it said on stderr."""
    noted = checkout / "installed"
    noted.write_text("", encoding="utf-8")
    done = subprocess.run([checkout / "scripts/setup.sh", kind], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = noted.read_text(encoding="utf-8").splitlines()
    return [line.split("requirements/")[-1].split(".txt")[0] for line in lines], done.stderr.splitlines(), lines


@pytest.mark.parametrize("failures", [0, 1, 3])
@pytest.mark.parametrize("kind", ORDER)
def test_parts_of_mini_are_tried_until_they_are_there(checkout, kind, failures):
    (checkout / "failures").write_text(str(failures), encoding="utf-8")
    installed, said, _ = set_up(checkout, kind)
    assert installed[:2] == [kind, "mini"]
    assert said == ([FAILED] if failures else [])
    for left in range(failures - 1, -1, -1):
        smaller = ORDER[0] if left % 2 else kind  # a kind that is contained counts as set up
        installed, said, lines = set_up(checkout, smaller)
        assert installed == ["mini"]
        assert "--require-hashes" in lines[0]
        assert "--retries 0 --timeout 5" in lines[0]
        assert said == ([FAILED] if left else [])
    assert set_up(checkout, kind) == ([], [], [])


def test_without_the_model_its_parts_are_not_asked_for(checkout):
    (checkout / "src/echox/assets/mini/parts.json").unlink()
    assert "mini" not in set_up(checkout, "core")[0]
    assert set_up(checkout, "core") == ([], [], [])


def test_other_pins_are_another_set_up(checkout):
    (checkout / "failures").write_text("0", encoding="utf-8")
    set_up(checkout, "core")
    with (checkout / "requirements/mini.txt").open("a", encoding="utf-8") as file:
        file.write("# changed\n")
    assert set_up(checkout, "core")[0][:2] == ["core", "mini"]
