"""runs/paper.sh --rehearse: the whole road on two simulated nodes, with lost nodes and a killed process."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest
import torch.distributed as dist

from paths import ROOT


def test_steps_that_are_not_rehearsed_are_steps_of_the_road():
    spec = importlib.util.spec_from_file_location("paper_rehearsal", ROOT / "scripts/paper_rehearsal.py")
    rehearsal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rehearsal)
    road = (ROOT / "runs/paper.sh").read_text(encoding="utf-8")
    named = [re.sub(r"\$\{?\w+\}?", "*", name) for name in re.findall(r'once "?([^" ]+)"? ', road)]
    named += [
        name.replace("$size", "3b").replace("/", "-") for name in re.findall(r'^prepare "?([^"\n]+)"?', road, re.M)
    ]
    patterns = [re.compile(name.replace("*", ".+")) for name in named]
    assert [name for name in rehearsal.DONE if not any(pattern.fullmatch(name) for pattern in patterns)] == []
    corpora = re.search(r"for corpus in ([^;]+); do\n  limit", road)[1].split()
    assert {*rehearsal.RECORDED, *rehearsal.SPOKEN, *rehearsal.WITH_REPLIES} == set(corpora)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
def test_the_whole_road_is_rehearsed(tmp_path):
    command = [str(ROOT / "runs/paper.sh"), "--rehearse", str(tmp_path / "road")]
    done = subprocess.run(command, env={**os.environ, "PYTHON": sys.executable}, capture_output=True, text=True)
    logs = "".join(path.read_text() for path in tmp_path.glob("road/node_*.log"))
    assert done.returncode == 0, f"{done.stderr[-2000:]}\n{logs[-6000:]}"
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["continued"] >= 2
    assert [figures[stage]["steps"] for stage in ("s2t", "t2c", "echo")] == [40, 60, 6]
