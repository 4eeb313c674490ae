"""Two machines with a network of their own each, as far as their processes can tell: namespaces joined by a cable.

Neither sees the other's loopback device, so everything they agree on goes over addresses, as between real machines.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist
import yaml

from paths import TESTS
from test_fsdp import losses
from waiting import wait_until

STEPS = 30
ADDRESSES = ("10.213.7.1", "10.213.7.2")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=30)


@pytest.fixture
def machines() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces, whose devices ``cable`` reach each other."""
    if not sys.platform.startswith("linux") or shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and iproute2 to make network namespaces")
    names = (f"echox-{os.getpid()}-1", f"echox-{os.getpid()}-2")
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.decode().strip()}")
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


def start(machine: str, number: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start torchrun on one machine, with one process that trains."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=2"]
    command += ["--rdzv-backend=c10d", f"--rdzv-endpoint={ADDRESSES[0]}:29711", "--rdzv-id=two"]
    command += [f"--rdzv-conf=is_host={int(number == 0)}", f"--local-addr={ADDRESSES[number]}"]
    command += [str(TESTS / "training" / "test_kill.py"), str(folder / "recipe.yaml"), "--debug"]
    shared = os.pathsep.join([str(TESTS), str(TESTS / "tiny"), *filter(None, [os.environ.get("PYTHONPATH")])])
    known = {"PYTHONPATH": shared, "GLOO_SOCKET_IFNAME": "cable", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with (folder / f"log_{number}.txt").open("ab") as log:
        return subprocess.Popen(
            ["ip", "netns", "exec", machine, *command], env={**os.environ, **known}, stdout=log, stderr=log
        )


def trainers(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that train on a machine."""
    children = psutil.Process(launcher.pid).children(recursive=True)
    return [
        one for one in children if "torch.distributed.run" not in one.cmdline() and "test_kill" in str(one.cmdline())
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed part")
def test_two_machines_train_and_survive_a_killed_process(machines, tmp_path):
    training = {
        "output_dir": str(tmp_path / "out"),
        "steps": STEPS,
        "batch_size": 4,
        "precision": "fp32",
        "learning_rates": {"head": 0.05, "norm": 0.01},
        "log_every_steps": 1,
        "save_every_steps": 4,
        "save_in_background": True,
        "parallel": "hybrid",
        "device": "cpu",
        "threads": 1,
        "tensorboard": False,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stage": "slow_toy", "training": training}))
    running = [start(machine, number, tmp_path) for number, machine in enumerate(machines)]

    def said() -> str:
        return "".join(path.read_text()[-3000:] for path in sorted(tmp_path.glob("log_*.txt")))

    try:
        checkpoints = tmp_path / "out" / "checkpoints"
        wait_until(
            lambda: any(checkpoints.glob("step_*")) or any(one.poll() is not None for one in running),
            "a checkpoint of both machines",
            400,
        )
        assert [one.poll() for one in running] == [None, None], said()
        trainers(running[1])[0].kill()
        assert [one.wait(400) for one in running] == [0, 0], said()
    finally:
        for one in running:
            if one.poll() is None:
                for process in [*psutil.Process(one.pid).children(recursive=True), psutil.Process(one.pid)]:
                    with suppress(psutil.NoSuchProcess):
                        process.kill()
            one.wait()
    assert "continuing after step" in said() or "continuing after step" in (tmp_path / "log_0.txt").read_text()
    assert len(losses(tmp_path / "out")) == STEPS, "every step once"
    record = json.loads((tmp_path / "out" / "training_record.json").read_text())
    assert record["environment"]["world_size"] == 2
