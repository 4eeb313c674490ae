"""Free memory: as the system, the limits of a container, or macOS say it; what `doctor` says of GPUs."""

import pytest
import torch

from echox.cli.common.machine import free_memory
from echox.cli.doctor import devices

GIB = 2**30
MEMINFO = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\nHugePages_Total:  0\n"


def write(root, files):
    for name, text in {"proc/meminfo": MEMINFO, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


V2 = "sys/fs/cgroup/"
V1 = "sys/fs/cgroup/memory/"
CASES = {
    "no groups": ({}, 8),
    "no limit": ({"proc/self/cgroup": "0::/\n", f"{V2}memory.max": "max\n", f"{V2}memory.current": "5\n"}, 8),
    "a container": (
        {
            "proc/self/cgroup": "0::/\n",
            f"{V2}memory.max": f"{4 * GIB}\n",
            f"{V2}memory.current": f"{3 * GIB}\n",
            f"{V2}memory.stat": f"anon {2 * GIB}\ninactive_file {GIB}\nactive_file 7\n",
        },
        2,
    ),
    "more than the machine has": (
        {"proc/self/cgroup": "0::/\n", f"{V2}memory.max": f"{64 * GIB}\n", f"{V2}memory.current": "0\n"},
        8,
    ),
    "a limit two groups above": (
        {
            "proc/self/cgroup": "0::/a.slice/b.service/c\n",
            f"{V2}a.slice/memory.max": f"{2 * GIB}\n",
            f"{V2}a.slice/memory.current": f"{GIB}\n",
            f"{V2}a.slice/b.service/memory.max": "max\n",
            f"{V2}a.slice/b.service/memory.current": f"{GIB}\n",
        },
        1,
    ),
    "version 1, a path of the host": (
        {
            "proc/self/cgroup": "12:cpu,cpuacct:/docker/1234\n5:memory:/docker/1234\n0::/\n",
            f"{V1}memory.limit_in_bytes": f"{3 * GIB}\n",
            f"{V1}memory.usage_in_bytes": f"{GIB}\n",
        },
        2,
    ),
    "version 1, no limit": (
        {
            "proc/self/cgroup": "5:memory:/\n",
            f"{V1}memory.limit_in_bytes": "9223372036854771712\n",
            f"{V1}memory.usage_in_bytes": "5\n",
        },
        8,
    ),
    "over its limit": (
        {"proc/self/cgroup": "0::/\n", f"{V2}memory.max": f"{GIB}\n", f"{V2}memory.current": f"{2 * GIB}\n"},
        0,
    ),
    "a kernel without MemAvailable": (
        {"proc/meminfo": "MemTotal: 4194304 kB\nMemFree: 1048576 kB\nBuffers: 524288 kB\nCached: 524288 kB\n"},
        2,
    ),
    "hardly a kernel": ({"proc/meminfo": "MemTotal: 4194304 kB\n\n"}, 0),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_free_memory(files, expected, tmp_path):
    write(tmp_path, files)
    assert free_memory(tmp_path) == expected * GIB


VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              100000.
Pages active:                            200000.
Pages inactive:                           50000.
Pages speculative:                        10000.
Pages wired down:                         90000.
"""


@pytest.mark.parametrize(("said", "expected"), [(VM_STAT, 160_000 * 16384), ("vm_stat: failed", None), (None, None)])
def test_free_memory_of_a_mac(said, expected, tmp_path, monkeypatch):
    if said is not None:
        program = tmp_path / "vm_stat"
        program.write_text(f"#!/bin/sh\ncat <<'E'\n{said}\nE\n", encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert free_memory(tmp_path / "no-proc") == expected


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """nvidia-smi lists a GPU, and torch sees none."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Tesla T4, 535.129.03, 7.5'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(("cuda", "why"), [(None, "the build for CPUs"), ("13.0", "built for CUDA 13.0")])
def test_a_gpu_that_torch_does_not_see_is_said(cuda, why, listed, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", cuda)
    unused, used = devices()
    assert unused.startswith("not used: Tesla T4 (compute capability 7.5, driver 535.129.03), which this torch cannot")
    assert why in unused
    assert used == "cpu"


@pytest.mark.parametrize("broken", [(), (0,), (1,), (0, 1)])
def test_the_first_gpu_is_used_or_said(broken, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("echox.device.fault_of", lambda device: "a fault" if device.index in broken else None)
    assert devices() == ["not used: a fault"] * len(broken) + ["cpu" if 0 in broken else "cuda:0"]
