"""The most memory that a process had. Imports nothing heavy, so that it can measure what imports nothing heavy."""

from __future__ import annotations

from pathlib import Path


def peak_resident_bytes() -> int | None:
    """The most memory that this process ever had in RAM; None where the system has no such figure (not Linux).

    ``ru_maxrss`` is no substitute: it includes what the parent process had.
    """
    path = Path("/proc/self/status")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
