"""A 0 with a gradient for each weight: of a batch in which a part of a model has nothing to do.

Processes that train together exchange the gradients of the same weights in every step, so a part that is trained must
have some in each process (PyTorch's DDP waits for them; FSDP2 sums what is there, and must find as much everywhere).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def zero_loss(parameters: Iterable[Tensor], device: torch.device) -> Tensor:
    """0, whose gradient is 0 in each of `parameters` that is trained; a scalar."""
    trained = (value.sum() * 0 for value in parameters if value.requires_grad)
    return sum(trained, start=torch.zeros((), device=device))
