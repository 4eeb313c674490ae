"""What makes a release: one version everywhere, workflows that run what exists, forms that GitHub can read."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from markdown_commands import ROOT, check_make

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
sys.path.insert(0, str(ROOT / "scripts"))
from absolute_links import absolute_links  # noqa: E402  (scripts, not modules of the package)
from release_notes import release_notes  # noqa: E402


def workflow(name: str) -> dict:
    found = yaml.safe_load((ROOT / ".github/workflows" / name).read_text(encoding="utf-8"))
    found["on"] = found.pop(True)  # YAML 1.1 reads `on` as a boolean
    return found


def copied(folder, **changed):
    """The files that name the version, with one of them changed."""
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        (folder / name).write_text(changed.get(name.split(".")[0].lower(), str)(text), encoding="utf-8")
    return folder


def test_the_version_has_its_section_in_the_changelog():
    assert release_notes(PROJECT["version"]).startswith("The first release.")


@pytest.mark.parametrize("name", ["pyproject", "citation"])
def test_a_file_with_another_version_stops_a_release(name, tmp_path):
    root = copied(tmp_path, **{name: lambda text: text.replace(PROJECT["version"], "9.9.9")})
    with pytest.raises(ValueError, match=f"(?i){name}.*: expected version 0.1.0, found 9.9.9"):
        release_notes(PROJECT["version"], root)


HEADING = f"## [{PROJECT['version']}] - 2026-11-28\n"


@pytest.mark.parametrize(
    "change",
    [lambda text: text.split(HEADING)[0], lambda text: text.split(HEADING)[0] + HEADING + "\n"],
    ids=["no section", "an empty section"],
)
def test_a_changelog_without_text_for_the_version_stops_a_release(change, tmp_path):
    with pytest.raises(ValueError, match="expected a section"):
        release_notes(PROJECT["version"], copied(tmp_path, changelog=change))


def test_tests_run_on_the_oldest_and_the_newest_python_of_both_systems():
    promised = [word.rsplit(" ", 1)[1] for word in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", word)]
    jobs = workflow("ci.yml")["jobs"]
    for name in ("test", "wheel"):
        assert jobs[name]["strategy"]["matrix"] == {
            "os": ["ubuntu-latest", "macos-latest"],
            "python": [promised[0], promised[-1]],
        }


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_exists(path):
    for job in workflow(path.name)["jobs"].values():
        for line in "\n".join(step.get("run", "") for step in job.get("steps", [])).splitlines():
            if line.startswith("make "):
                check_make(line.split()[1:])
            for script in re.findall(r"\bscripts/\S+", line):
                assert (ROOT / script).is_file(), f"{path.name}: {line}"


def test_continuous_integration_is_the_same_here_and_on_github():
    """Every make target of .ci/run is run by a job, and the other way round."""
    lines = re.findall(r"^\s*make (.+)", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)
    here = {word for line in lines for word in line.split() if word[0] not in "-$"} - {"setup"}
    steps = [step.get("run", "") for job in workflow("ci.yml")["jobs"].values() for step in job["steps"]]
    there = {word for step in steps for word in re.findall(r"make ([\w-]+)", step)}
    there |= {"wheel"} if "python scripts/smoke_wheel.py" in steps else set()
    assert here == there == {"lint", "docs", "latex", "wheel", "test", "test-slow", "smoke"}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lets_python_keep_what_it_compiled():
    """Containers set the variable; every process of a training or test would compile all of torch again."""
    rules = f"include {ROOT}/Makefile\nshow-environment:\n\t@env\n"
    command = ["make", "--silent", "-f", "-", "show-environment"]
    containers = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    printed = subprocess.run(command, input=rules, env=containers, capture_output=True, text=True, check=True).stdout
    assert "PATH=" in printed
    assert "PYTHONDONTWRITEBYTECODE" not in printed


def test_only_a_tag_is_published_and_only_after_all_tests():
    found = workflow("publish.yml")
    assert found["on"] == {"push": {"tags": ["v*"]}}
    jobs = found["jobs"]
    assert jobs["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in workflow("ci.yml")["on"]
    assert set(jobs["pypi"]["needs"]) == {"ci", "build"}
    assert jobs["release"]["needs"] == "pypi"
    rights = {name: job.get("permissions") for name, job in jobs.items()}
    assert rights == {"ci": None, "build": None, "pypi": {"id-token": "write"}, "release": {"contents": "write"}}
    assert any("smoke_wheel.py dist/" in step.get("run", "") for step in jobs["build"]["steps"])


@pytest.mark.parametrize("name", ["bug", "idea"])
def test_issue_forms_have_what_github_needs(name):
    form = yaml.safe_load((ROOT / f".github/ISSUE_TEMPLATE/{name}.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    asked = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in asked)
    assert len({field["id"] for field in asked}) == len(asked)


def test_the_citation_names_the_paper_of_the_readme():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["license"] == PROJECT["license"]
    paper = citation["preferred-citation"]
    assert paper["title"] in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert paper["url"] == PROJECT["urls"]["Paper"]


def test_the_smoke_test_of_the_wheel_explains_itself():
    done = subprocess.run([sys.executable, ROOT / "scripts/smoke_wheel.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "a wheel that was built already" in done.stdout


def test_the_readme_on_pypi_has_no_relative_links():
    readme = absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), "https://example.org/o/n", "v1.2.3")
    targets = re.findall(r"\]\(([^)]*)\)", readme)
    assert len(targets) > 20
    assert [target for target in targets if not target.startswith("https://")] == []
    assert "![" in readme
    assert "(https://example.org/o/n/raw/v1.2.3/docs/images/conversation.png)" in readme
    assert "](https://example.org/o/n/blob/v1.2.3/pyproject.toml)" in readme, "a badge leads to a file"
