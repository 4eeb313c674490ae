"""Precision, devices and gradient checkpointing, for the training loop and for evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Batch = TypeVar("Batch", bound=Mapping[str, object])


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bfloat16 autocast on CPU and CUDA, or nothing for "fp32"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def on_device(batch: Batch, device: torch.device) -> Batch:
    """A batch with the tensors inside it (also in dicts, lists and tuples) on `device`; other values unchanged."""
    return {name: _moved(value, device) for name, value in batch.items()}  # type: ignore[return-value]  # a dict


def _moved(value: object, device: torch.device) -> object:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return on_device(value, device)
    if isinstance(value, list | tuple):
        return type(value)(_moved(item, device) for item in value)
    return value


def enable_gradient_checkpointing(module: nn.Module) -> None:
    """Switch it on in every outermost Hugging Face model inside `module` that supports it.

    Raises: ValueError when there is none.
    """
    pending, enabled = [module], 0
    while pending:
        part = pending.pop()
        if isinstance(part, PreTrainedModel) and part.supports_gradient_checkpointing:
            if hasattr(part, "activation_checkpointing_enable"):
                part.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            else:  # the older name, in transformers 5.0
                part.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            # transformers makes all inputs require gradients, which only reentrant checkpoints need: backward would
            # pass through the frozen speech encoder and embeddings, and keep their activations.
            part.disable_input_require_grads()
            enabled += 1
        else:
            pending.extend(part.children())
    if not enabled:
        raise ValueError("training.gradient_checkpointing: expected a model that supports it, found none; set false")
