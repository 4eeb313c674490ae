"""`kill -9` at random moments: a run that is started again has the losses, and the weights, of one that never stopped.

As a script it is the job that is killed: ``torchrun --nproc-per-node 2 tests/training/test_kill.py RECIPE``.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import yaml

from echox.config import TrainingConfig, recipe
from echox.training.loop import main
from paths import TESTS
from test_fsdp import ShardedStage, losses

KILLS = int(os.environ.get("ECHOX_KILLS", "3"))
STEPS_PER_KILL = 15


class SlowStage(ShardedStage):
    """Slow enough to be hit in the middle of a step."""

    def collate(self, items, rng):
        time.sleep(0.02)
        return super().collate(items, rng)


@recipe("slow_toy")
@dataclass
class SlowRecipe:
    stage: str
    training: TrainingConfig

    def build(self) -> SlowStage:
        return SlowStage()


class Job:
    """Two processes under torchrun, started again after every kill."""

    def __init__(self, folder: Path, save_in_background: bool) -> None:
        self.folder = folder
        training = {
            "output_dir": str(folder / "out"),
            "steps": STEPS_PER_KILL * KILLS,
            "batch_size": 4,
            "precision": "fp32",
            "learning_rates": {"head": 0.05, "norm": 0.01},
            "log_every_steps": 1,
            "save_every_steps": 4,
            "save_in_background": save_in_background,
            "ema_decay": 0.9,
            "parallel": "fsdp",
            "device": "cpu",
            "threads": 1,
            "tensorboard": False,
        }
        folder.mkdir()
        (folder / "recipe.yaml").write_text(yaml.safe_dump({"stage": "slow_toy", "training": training}))
        self.start()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            f"--max-restarts={KILLS}",
            __file__,
            str(self.folder / "recipe.yaml"),
            "--debug",
        ]
        imported = [str(TESTS), str(TESTS / "tiny"), *filter(None, [os.environ.get("PYTHONPATH")])]
        shared = os.pathsep.join(imported)
        with (self.folder / "log.txt").open("a") as log:
            environment = {**os.environ, "PYTHONPATH": shared}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def steps(self) -> int:
        """Steps in the log."""
        path = self.folder / "out" / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return json.loads(lines[-1])["step"] if lines and lines[-1].endswith("}") else 0

    def ranks(self) -> list[psutil.Process]:
        """The processes that train."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if any("test_kill.py" in part for part in child.cmdline())]

    def kill_one(self, chance: random.Random) -> None:
        """Kill a process that trains; torchrun starts both again."""
        ranks = self.ranks()
        if ranks:
            chance.choice(ranks).kill()

    def kill_all(self) -> None:
        """Kill everything, as when the machine goes down, and start the job again."""
        doomed = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
        for process in doomed:
            process.kill()
        self.process.wait()
        psutil.wait_procs(doomed, timeout=30)
        self.start()

    def wait(self) -> None:
        code = self.process.wait(timeout=600)
        assert code == 0, (self.folder / "log.txt").read_text()[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
def test_a_killed_run_ends_as_if_it_had_not_been(tmp_path):
    whole = Job(tmp_path / "whole", save_in_background=False)
    whole.wait()
    chance = random.Random(0)
    job = Job(tmp_path / "killed", save_in_background=True)
    kills = []
    for number in range(KILLS):
        everything, at_start = chance.random() < 0.5, chance.random() < 0.2
        after = 0 if at_start else chance.randint(STEPS_PER_KILL * number, STEPS_PER_KILL * (number + 1) - 2)
        deadline = time.monotonic() + 300
        while job.steps() < after and job.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 8.0 if at_start else 0.2))
        assert job.process.poll() is None, (job.folder / "log.txt").read_text()[-3000:]
        kills.append((job.steps(), "job" if everything else "rank"))
        if everything:
            job.kill_all()
        else:
            job.kill_one(chance)
    job.wait()
    print(f"killed {KILLS} times, at steps {kills} of {STEPS_PER_KILL * KILLS}")
    expected, found = losses(whole.folder / "out"), losses(job.folder / "out")
    assert len(expected) == STEPS_PER_KILL * KILLS
    assert found == expected
    first, second = (torch.load(one.folder / "out" / "model.pt", weights_only=True) for one in (whole, job))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


if __name__ == "__main__":
    sys.exit(main())
