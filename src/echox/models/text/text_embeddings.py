"""Input embeddings and head of a language model, which are not always plain tables.

Gemma multiplies its embeddings after the look-up, so code that reads the table must multiply too. Granite, Cohere and
Gemma 2 change the logits after the head; this package uses the head alone, so such models are refused.

Source: transformers, ``Gemma3TextScaledWordEmbedding``, ``GraniteForCausalLM``, ``CohereForCausalLM``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

_AFTER_HEAD: dict[str, tuple[float | None, ...]] = {
    "logits_scaling": (None, 1, 1.0),  # Granite: divided
    "logit_scale": (None, 1, 1.0),  # Cohere: multiplied
    "lm_head_multiplier": (None, 1, 1.0),  # Falcon-H1: multiplied
    "final_logit_softcapping": (None,),  # Gemma 2: tanh
}
"""Settings that change logits after the head, and the values that have no effect."""


def weight_of(layer: nn.Module) -> Tensor:
    """The weight matrix of an embedding or of a head."""
    assert isinstance(layer.weight, Tensor), f"{type(layer).__name__}: an embedding or a head has one weight"
    return layer.weight


def embedding_scale(embedding: nn.Module) -> float:
    """The factor of an embedding module for the rows of its ``weight``; 1 for a plain table.

    Raises:
        ValueError: it changes them in another way.
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
    """The language model's input vector (V, H) of each token, without gradient."""
    scale = embedding_scale(embedding)
    weight = weight_of(embedding)
    return weight.detach() if scale == 1.0 else weight.detach() * scale


def check_head(text_config: PreTrainedConfig) -> None:
    """Check that a language model's logits are the output of its head, unchanged.

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
