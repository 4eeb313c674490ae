"""Free memory of this machine, of the container that this process is in, and of the GPUs."""

import contextlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_PATIENCE_S = 5.0


def free_bytes() -> dict[str, float]:
    """Free memory by place: this machine (or what the limits of its container leave), and each GPU that torch sees."""
    import torch

    found = {}
    here = free_memory()
    if here is not None:
        found["this machine"] = here
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        with contextlib.suppress(RuntimeError):  # a GPU that torch sees, and cannot use
            found[f"{torch.cuda.get_device_name(index)} (cuda:{index})"] = float(torch.cuda.mem_get_info(index)[0])
    return found


def free_memory(root: Path = _ROOT) -> float | None:
    """Bytes that a process may still take, the caches that the system gives back included; None: nothing says it.

    Args:
        root: where /proc and /sys are.
    """
    meminfo = root / "proc/meminfo"
    if not meminfo.is_file():
        return _free_on_mac()
    lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    kilobytes = {name: int(value.split()[0]) for name, value in lines.items() if value.split()}
    free = kilobytes.get("MemAvailable")  # Linux has it since 3.14, and not everything that looks like Linux
    if free is None:
        free = sum(kilobytes.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    return min([1024.0 * free, *_left_by_groups(root)])


def _left_by_groups(root: Path) -> Iterator[float]:
    """What each limit on this process leaves: of its control group and of those above (containers, systemd).

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html#memory-interface-files
    """
    membership = root / "proc/self/cgroup"
    for line in membership.read_text(encoding="utf-8").splitlines() if membership.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):  # version 1
            top = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = top / path.lstrip("/")  # in a container often a path of the host: then only the top is there
        for folder in (group, *group.parents):
            limit, used = (_number(folder / name) for name in names[:2])
            if limit is not None and used is not None:
                yield max(0.0, limit - used + _field(folder / "memory.stat", names[2]))
            if folder == top:
                break


def _number(path: Path) -> float | None:
    """The number in a file; None: there is none, as where a limit is "max"."""
    try:
        return float(int(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _field(path: Path, name: str) -> float:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) for line in lines if line.split()[:1] == [name]), 0.0)


def _free_on_mac() -> float | None:
    """Pages that are free, and those that the system gives back, as ``vm_stat`` counts them."""
    try:
        done = subprocess.run(["vm_stat"], capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    size = re.search(r"page size of (\d+) bytes", done.stdout)
    pages = [int(count) for count in re.findall(r"Pages (?:free|inactive|speculative): +(\d+)", done.stdout)]
    return float(sum(pages) * int(size[1])) if size and pages else None
