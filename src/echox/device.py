"""The device to compute on, by its name."""

from __future__ import annotations

import os

import torch


def choose_device(name: str = "auto") -> torch.device:
    """The device with this name; for "auto" the GPU of this process if there is one, else the CPU.

    Raises:
        ValueError: there is no such device.
    """
    if name == "auto":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device: expected auto, cpu, cuda or cuda:N, found {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: expected a CUDA device for {name!r}, found none; use auto or cpu")
    return device
