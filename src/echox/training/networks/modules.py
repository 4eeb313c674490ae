"""Precision, devices, transformer blocks and gradient checkpointing, for the training loop and for evaluations."""

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


def set_training(module: nn.Module) -> None:
    """Training mode; evaluation mode in every part of which nothing is trained.

    Frozen layers neither drop states nor skip themselves (HuBERT's ``layerdrop``): what is learned here hears and reads
    what it will in use. They are not in training mode for a moment, as a teacher may be at work in another thread.
    """
    if any(value.requires_grad for value in module.parameters()):
        module.training = True
        for part in module.children():
            set_training(part)
    elif any(True for _ in module.parameters()):
        module.eval()
    else:
        module.train()


def transformer_blocks(module: nn.Module) -> dict[str, nn.Module]:
    """The transformer blocks (``_no_split_modules`` of their models) in `module`, by name."""
    kinds = {name for part in module.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return {name: part for name, part in module.named_modules() if type(part).__name__ in kinds}


def compile_blocks(module: nn.Module) -> int:
    """Compile each transformer block in place; returns how many.

    The layers of a model share one graph, so this takes as long as one layer, where the whole objective would be
    compiled layer by layer, again for every kind of batch. Before `parallel.shard`, whose hooks stay outside of graphs.

    Source: https://docs.pytorch.org/tutorials/recipes/regional_compilation.html

    Raises:
        ValueError: there is none.
    """
    blocks = transformer_blocks(module)
    if not blocks:
        raise ValueError("training.compile: expected a model with transformer blocks, found none; set false")
    for block in blocks.values():
        block.compile(dynamic=True)
    return len(blocks)


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
