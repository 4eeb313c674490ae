"""The processes that torchrun started, for a model that is split over them."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def mesh_of_processes(device: torch.device) -> DeviceMesh:
    """All processes in a row; joins their group where this process has not.

    Args:
        device: of this process.

    Raises:
        ValueError: torchrun did not start this process.
    """
    if not dist.is_initialized():
        if "WORLD_SIZE" not in os.environ:
            raise ValueError(
                "expected several processes that torchrun started, found one alone; start the same script with "
                "torchrun --nproc-per-node N"
            )
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return init_device_mesh(device.type, (dist.get_world_size(),))
