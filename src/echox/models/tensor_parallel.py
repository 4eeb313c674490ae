"""A language model split over several processes, by the plan that transformers has for its kind.

Every process holds a part of each layer's matrices and the whole of the rest: embeddings, norms, and the head, whose
rows are read elsewhere (the trigger, losses in chunks). All processes make the same calls and get the same results.

Source: Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053 (section 3); computed by torch,
https://docs.pytorch.org/docs/stable/distributed.tensor.parallel.html
"""

from __future__ import annotations

import re

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from echox.models.pretrained import CausalLM

STYLES: dict[str, type[ParallelStyle]] = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
"""Style in transformers' plans -> torch's: rows or columns of a linear layer."""
WHOLE = "replicated_with_grad_allreduce"
"""Norms of single heads: whole everywhere, and right as long as they are not trained."""


def split_language_model(language_model: CausalLM, mesh: DeviceMesh) -> None:
    """Split the linear layers of a language model over the processes of a mesh, in place; all call this.

    Args:
        language_model: of transformers, whole in every process.
        mesh: of one dimension.

    Raises:
        ValueError: a kind of model without a plan, with one that asks for more than split linear layers, or sizes that
            the number of processes does not divide.
    """
    backbone = language_model.base_model
    config = language_model.config.get_text_config()
    kind, found = type(language_model).__name__, getattr(config, "base_model_tp_plan", None)
    if not found:
        raise ValueError(
            f"{kind}: expected a language model with a tensor-parallel plan in transformers (base_model_tp_plan), "
            "found none; serve it on one GPU, in 8 or 4 bits where it does not fit"
        )
    plan: dict[str, ParallelStyle] = {}
    for name, module in backbone.named_modules():
        style = next((style for pattern, style in found.items() if _fits(pattern, name)), None)
        if style in (None, WHOLE):
            continue
        if style not in STYLES or type(module) is not nn.Linear:
            raise ValueError(
                f"{kind}: expected linear layers that are split by {' or '.join(STYLES)}, found {style!r} of "
                f"{type(module).__name__} for {name}; merge an adapter first, and split no quantised weights"
            )
        plan[name] = STYLES[style]()
    for size in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        if getattr(config, size) % mesh.size():
            raise ValueError(
                f"{size}: expected a multiple of {mesh.size()} processes, found {getattr(config, size)}; start fewer"
            )
    parallelize_module(backbone, mesh, plan)


def _fits(pattern: str, name: str) -> bool:
    return re.fullmatch(pattern.replace(".", r"\.").replace("*", r"\d+"), name) is not None
