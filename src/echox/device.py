"""The device to compute on, by its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass

import torch

_EXPECTED = "auto, cpu, mps (on a Mac), cuda or cuda:N"
_PATIENCE_S = 20.0  # for nvidia-smi, which wakes a GPU that sleeps


def choose_device(name: str = "auto") -> torch.device:
    """The device with this name; for "auto" the GPU of this process if torch can compute on it, else the CPU.

    A GPU that is here and is not used by "auto" is said, in one line on stderr.

    Raises:
        ValueError: there is no such device, or torch cannot compute on it.
    """
    if name == "auto":
        return _automatic()
    name = str(name)  # also of a torch.device
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: expected {_EXPECTED}, found {name!r}") from error
    if str(device) != name or device.type == "meta":  # large numbers come out as others; "meta" holds no values
        raise ValueError(f"device: expected {_EXPECTED}, found {name!r}")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count}, numbered from 0" if count else "none"
            raise ValueError(f"device: expected a CUDA device for {name!r}, found {found}; use auto or cpu")
        fault = fault_of(device)
        if fault is not None:
            raise ValueError(f"device: expected to compute on {name!r}, found {fault}; use auto or cpu")
        return device
    try:
        torch.empty(0, device=device)
    except Exception as error:  # each kind of device has its own
        raise ValueError(f"device: expected {_EXPECTED}, found that this torch has no {name!r}; use auto") from error
    return device


def _automatic() -> torch.device:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about a driver that is too old: said below
        available = torch.cuda.is_available()
    if not available:
        if torch.version.cuda is not None and (gpus := nvidia_gpus()):  # a build for GPUs, and a GPU
            _say_unused(why_unused(gpus[0]))
        return torch.device("cpu")
    rank = os.environ.get("LOCAL_RANK")
    if rank is not None:  # one of several processes: on another device than the others it would only fail later
        return choose_device(f"cuda:{rank}")
    device = torch.device("cuda:0")
    fault = fault_of(device)
    if fault is None:
        return device
    _say_unused(fault)
    return torch.device("cpu")


def _say_unused(why: str) -> None:
    print(f"device: expected to compute on the GPU, found {why}; computing on the CPU", file=sys.stderr)


def fault_of(device: torch.device) -> str | None:
    """Why torch cannot compute on a GPU that it sees: it is tried. None: it can, or its memory is full."""
    try:
        run_kernel(device)
    except torch.OutOfMemoryError:
        return None  # another remedy: whoever loads a model there is told
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        major, minor = torch.cuda.get_device_capability(device)
        built = ", ".join(torch.cuda.get_arch_list()) or "none"
        return f"{torch.cuda.get_device_name(device)} is of sm_{major}{minor}, this torch is built for {built} ({said})"
    return None


def run_kernel(device: torch.device) -> None:
    """Compute one sum on a device, and wait for it.

    Raises:
        RuntimeError: the device, its driver or torch's build does not allow it.
    """
    torch.ones(1, device=device).add_(1).item()


@dataclass(frozen=True)
class Gpu:
    """A GPU of NVIDIA, as its driver describes it.

    Attributes:
        name: for users.
        driver: version of the driver.
        capability: compute capability, like "7.5"; "": an old driver does not say it.
    """

    name: str
    driver: str
    capability: str

    def __str__(self) -> str:
        capability = f"compute capability {self.capability}, " if self.capability else ""
        return f"{self.name} ({capability}driver {self.driver})"


def nvidia_gpus() -> list[Gpu]:
    """The GPUs that ``nvidia-smi`` lists, whatever torch is installed; none where they are hidden from programs."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    rows = _nvidia_smi("name,driver_version,compute_cap") or [f"{row}, " for row in _nvidia_smi("name,driver_version")]
    return [Gpu(*row.rsplit(", ", 2)) for row in rows]


def _nvidia_smi(fields: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):  # no driver; an old one that does not know a field
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def why_unused(gpu: Gpu) -> str:
    """Why torch does not use a GPU that is here, where ``torch.cuda.is_available()`` is false."""
    if torch.version.cuda is None:
        return f"{gpu}, which this torch cannot use: it is the build for CPUs"
    return f"{gpu}, which this torch cannot use: it is built for CUDA {torch.version.cuda}; a newer driver may help"
