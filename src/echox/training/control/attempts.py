"""How often what started this process has started it before, after something died or a job was requeued.

torchrun counts the restarts of its processes, SLURM those of a job, and `runs/launch/ssh.sh` its tries.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist

LAUNCHER_COUNT = "ECHOX_RESTART_COUNT"
"""Environment variable: launches before this one, by a launcher that has no count of its own."""
_COUNTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT", LAUNCHER_COUNT)


def first_attempt(device: torch.device) -> bool:
    """Whether no process of this run was started before. On several machines each torchrun counts its own restarts."""
    count = torch.tensor(max(int(os.environ.get(name) or 0) for name in _COUNTS), device=device)
    if dist.is_initialized():
        dist.all_reduce(count, dist.ReduceOp.MAX)
    return int(count) == 0
