"""The scripts under runs/: they parse, and the launcher for plain SSH says to every machine what it was told."""

from __future__ import annotations

import os
import subprocess

import pytest

from paths import ROOT

RUNS = ROOT / "runs"


@pytest.mark.parametrize("script", sorted(RUNS.rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_parse(script):
    assert script.read_text().startswith("#!/usr/bin/env bash\n")
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


@pytest.fixture
def launch(tmp_path):
    """Run the launcher with an `ssh` that stays here and a `torchrun` that writes down its arguments."""
    programs = {
        "ssh": 'exec bash -c "${@: -1}"',
        "torchrun": 'echo "$(printf "<%s>" "$@")"; exit ${CODE:-0}',  # a line in one write
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        known = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TORCHRUN": str(tmp_path / "torchrun"), "PAUSE_S": "0"}
        command = [str(RUNS / "launch" / "ssh.sh"), *arguments]
        return subprocess.run(command, env={**os.environ, **known, **environment}, capture_output=True, text=True)

    return run


def test_every_machine_gets_the_whole_command(launch):
    done = launch("recipes/3b/s2t.yaml", "data.manifests=[a, b c]", HOSTS="one two", GPUS="4")
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert len(lines) == 2
    for line in lines:
        assert "<--nnodes><2><--nproc-per-node><4>" in line
        assert "<--rdzv-endpoint><one:29500>" in line
        assert line.endswith("<-m><echox.training.loop><recipes/3b/s2t.yaml><data.manifests=[a, b c]>")


def test_it_tries_again_and_gives_up(launch):
    failed = launch("recipe.yaml", HOSTS="one two", TRIES="2", CODE="3")
    assert failed.returncode == 1
    assert failed.stderr.count("all start again") == 2
    assert launch(HOSTS="one").returncode == 2
    assert "expected host names" in launch("recipe.yaml", HOSTS="").stderr
