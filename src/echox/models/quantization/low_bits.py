"""The language model in 8 or 4 bits while it runs: torch's kernels on a CPU, transformers' configs elsewhere.

Only linear layers of the language model are quantised: they hold most of the weights, and other weights are read as
vectors (rows of the head by the trigger, the echo decoder's by its fused steps).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationConfigMixin

from echox.models.quantization.group_int4 import fits
from echox.models.quantization.int4_linear import Int4Linear, int4_kernel, to_int4_linears
from echox.models.quantization.int8_linear import to_int8_linears
from echox.models.quantization.shortlist_head import ShortlistHead

KEPT_IN_FLOAT = (
    "audio_tower",
    "alignment_adapter",
    "shrinking_adapter",
    "ctc_head",
    "ctc_bridge",
    "recogniser",
    "residual_adapter",
    "lm_head",
    "denoising_adapter",
    "embedding_gate",
    "echo_decoder",
    "vocoder",
)
"""Modules of the whole model that stay as they are."""


def loading_options(quantization_config: QuantizationConfigMixin | None, device: torch.device) -> dict[str, object]:
    """Keywords of ``from_pretrained`` for a transformers quantisation config (bitsandbytes, torchao, GPTQ, AWQ ...).

    The config is copied; unless it lists modules itself, only the language model's linear layers are quantised.

    Raises:
        ValueError: it is no such config.
    """
    if quantization_config is None:
        return {}
    if not hasattr(quantization_config, "quant_method"):
        raise ValueError(
            "quantization_config: expected one of transformers' (BitsAndBytesConfig, TorchAoConfig ...), found "
            f"{type(quantization_config).__name__}"
        )
    chosen = copy.deepcopy(quantization_config)
    for name in ("llm_int8_skip_modules", "modules_to_not_convert"):
        if getattr(chosen, name, KEPT_IN_FLOAT) is None:
            setattr(chosen, name, [f".*{part}" for part in KEPT_IN_FLOAT])  # expressions matched from a name's start
    return {"quantization_config": chosen, "device_map": {"": device}}


INT4: torch.dtype = getattr(torch, "int4")  # noqa: B009 - missing in torch's own annotations

LOW_BITS = {torch.int8: to_int8_linears, INT4: to_int4_linears}
"""Types of which weights are on a CPU while the rest of the model is float32, and what replaces the linear layers."""


def quantise_on_cpu(language_model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> int:
    """Replace the linear layers of a language model by ones in 8 or 4 bits; returns their number.

    Args:
        language_model: changed in place; layers that are in few bits already stay as they are.
        device: where it is.
        dtype: a key of `LOW_BITS`.

    Raises:
        ValueError: not on a CPU, or weights that are not finite.
    """
    if device.type != "cpu":
        raise ValueError(
            f"dtype {str(dtype).removeprefix('torch.')}: expected a CPU, found {device}; on a GPU pass "
            "quantization_config=BitsAndBytesConfig(...) or TorchAoConfig(...) of transformers"
        )
    return LOW_BITS[dtype](language_model, keep=language_model.get_output_embeddings())


def fast_head(language_model: PreTrainedModel) -> Callable[[Tensor], Tensor]:
    """The function from states to scores: the head, or a faster one if the layers below it are in 4 bits."""
    head = language_model.get_output_embeddings()
    in_int4 = any(isinstance(layer, Int4Linear) for layer in language_model.modules())
    if in_int4 and type(head) is nn.Linear and fits(head.weight) and int4_kernel():
        return ShortlistHead(head)
    return head
