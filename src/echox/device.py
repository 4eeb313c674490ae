"""The device to compute on, by its name."""

from __future__ import annotations

import os

import torch

_EXPECTED = "auto, cpu, mps (on a Mac), cuda or cuda:N"


def choose_device(name: str = "auto") -> torch.device:
    """The device with this name; for "auto" the GPU of this process if there is one, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
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
        return device
    try:
        torch.empty(0, device=device)
    except Exception as error:  # each kind of device has its own
        raise ValueError(f"device: expected {_EXPECTED}, found that this torch has no {name!r}; use auto") from error
    return device
