"""What a language model's decoder reads for a token, and what its head is: not always the bare tables.

Gemma multiplies its embeddings where they are looked up, so whoever reads the table must multiply too. Granite, Cohere
and Gemma 2 change the logits after the head; here states go through the head alone, so such models are refused.

Source: transformers, ``Gemma3TextScaledWordEmbedding``, ``GraniteForCausalLM``, ``CohereForCausalLM``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_AFTER_HEAD: dict[str, tuple[Any, ...]] = {
    "logits_scaling": (None, 1, 1.0),  # Granite: divided
    "logit_scale": (None, 1, 1.0),  # Cohere: multiplied
    "lm_head_multiplier": (None, 1, 1.0),  # Falcon-H1: multiplied
    "final_logit_softcapping": (None,),  # Gemma 2: tanh
}
"""Numbers of configurations that act on logits, and the values at which they do nothing."""


def weight_of(layer: nn.Module) -> Tensor:
    """The weight matrix of an embedding or of a head."""
    assert isinstance(layer.weight, Tensor), f"{type(layer).__name__}: an embedding or a head has one weight"
    return layer.weight


def embedding_scale(embedding: nn.Module) -> float:
    """What an embedding module multiplies the rows of its ``weight`` by; 1 for a plain table.

    Raises:
        ValueError: it does something else to them.
    """
    if type(embedding) is nn.Embedding:
        return 1.0
    weight = weight_of(embedding)
    with torch.no_grad():
        rows = torch.arange(min(16, len(weight)), device=weight.device)
        table, read = weight[rows].float(), embedding(rows).float()
    norm = float(table.square().sum())
    scale = float((table * read).sum()) / norm if norm else 1.0
    if not torch.allclose(read, scale * table, rtol=1e-2, atol=1e-6):
        raise ValueError(
            f"language model: expected input embeddings that are rows of a table times one number, found "
            f"{type(embedding).__name__}, which changes them otherwise; use another language model"
        )
    return scale


def text_embedding_table(embedding: nn.Module) -> Tensor:
    """(V, H): for each token what the language model reads, without gradient."""
    scale = embedding_scale(embedding)
    weight = weight_of(embedding)
    return weight.detach() if scale == 1.0 else weight.detach() * scale


def check_head(text_config: Any) -> None:
    """Check that a language model's logits are its head's output and nothing more.

    Raises:
        ValueError: its configuration changes them afterwards.
    """
    config = text_config.get_text_config()
    for name, neutral in _AFTER_HEAD.items():
        value = getattr(config, name, None)
        if value not in neutral:
            raise ValueError(
                f"language model ({config.model_type}): expected logits that are the output of the head alone, found "
                f"{name}={value} in its configuration; use a language model without it, such as Llama, Qwen3, Gemma 3 "
                "or SmolLM3"
            )
