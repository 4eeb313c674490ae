"""What other evaluation tools are given: a registry that is there and names classes that exist."""

import importlib.util

import yaml
from typer.testing import CliRunner

from echox.cli.main import app
from echox.evaluation.interop.plugins import ultraeval_registry


def test_the_registry_is_there_and_names_our_classes():
    files = sorted(ultraeval_registry().rglob("*.yaml"))
    assert {file.parent.name for file in files} >= {"model", "process"}
    entries = [entry for file in files for entry in yaml.safe_load(file.read_text(encoding="utf-8")).values()]
    ours = [entry["class"] for entry in entries if entry.get("class", "").startswith("echox.")]
    assert len(ours) >= 3
    for name in ours:
        module, _, cls = name.rpartition(".")
        source = importlib.util.find_spec(module).loader.get_source(module)  # it imports their package: not run here
        assert f"\nclass {cls}(" in source, name


def test_the_command_prints_the_registry():
    assert CliRunner().invoke(app, ["eval", "plugins"]).stdout.strip() == str(ultraeval_registry())
