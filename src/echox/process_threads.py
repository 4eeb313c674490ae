"""Threads of a process that answers on a CPU: how many compute, and what they do while they wait.

The matrix products of a small model take microseconds each, so several threads wait for each other more than they
work; and the threads of OpenMP wait by running, which keeps the processor from whoever has work. Alone on a machine two
threads are a little sooner than one, beside other work three times later. Measured by `benchmarks/thread_counts.py`
(docs/performance.md).
"""

from __future__ import annotations

import os
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

SMALL_BYTES = 2**29
"""Weights of a model that needs no second thread."""


def wait_asleep() -> None:
    """Let threads of OpenMP sleep while they wait, unless the environment says otherwise; before torch is imported.

    Source: https://www.openmp.org/spec-html/5.0/openmpse55.html
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def set_threads(threads: int | None, model: nn.Module) -> None:
    """Set the threads of torch.

    Args:
        threads: their number; None: what the environment says (``OMP_NUM_THREADS``), else one for a small model on a
            CPU (`SMALL_BYTES`), and for others what torch has.
        model: that answers.
    """
    import torch

    if threads is None and "OMP_NUM_THREADS" not in os.environ and _is_small(model):
        threads = 1
    if threads is not None:
        torch.set_num_threads(threads)


def _is_small(model: nn.Module) -> bool:
    weights = list(chain(model.parameters(), model.buffers()))
    return all(one.device.type == "cpu" for one in weights) and sum(one.nbytes for one in weights) < SMALL_BYTES
