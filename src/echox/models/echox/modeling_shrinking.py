"""From CTC frames to about one state per token: frames to keep, shrinking adapter, CTC bridge.

Letters: A audios, C CTC frames (25/s), K kept frames, H width of the language model, V its vocabulary.

Source: Soundwave (https://arxiv.org/abs/2502.12900, section 3); the CTC bridge is ours (docs/paper_map.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def keep_mask(token_ids: Tensor, mask: Tensor, blank_id: int | None = None) -> Tensor:
    """The frames to keep: the first of each run of one CTC label; with ``blank_id`` no blank runs.

    Args:
        token_ids: (A, C) CTC argmax.
        mask: (A, C) bool, true frames first.
        blank_id: also drop frames of this label; a row that would lose all frames keeps its first.

    Returns:
        (A, C) bool, at least one True in each row.
    """
    keep = mask.clone()
    keep[:, 1:] &= token_ids[:, 1:] != token_ids[:, :-1]
    if blank_id is not None:
        keep &= token_ids != blank_id
        keep[:, 0] |= ~keep.any(dim=1)
    return keep


class ShrinkingAdapter(nn.Module):
    """Keeps one frame per CTC run, and adds information of the dropped frames by cross-attention (look-back).

    With ``at_kept`` (see `Compatibility`) it attends to the kept frames instead.
    """

    def __init__(self, hidden_size: int, attention_heads: int, dropout: float = 0.1, at_kept: bool = False) -> None:
        super().__init__()
        self.at_kept = at_kept
        self.look_back = nn.MultiheadAttention(hidden_size, attention_heads, dropout=dropout, batch_first=True)
        self.layer_norm = nn.LayerNorm(hidden_size)

    def forward(self, frames: Tensor, mask: Tensor, keep: Tensor) -> tuple[Tensor, Tensor]:
        """(A, C, H), (A, C) bool true frames, (A, C) bool kept frames -> (A, K, H), (A, K) bool, padded on the right.

        In a row without dropped frames, frames pass the residual connection and the LayerNorm only.
        """
        kept, kept_mask = gather_rows(frames, keep)
        if self.at_kept:
            seen, _ = self.look_back(kept, kept, kept, key_padding_mask=~kept_mask, need_weights=False)
            return self.layer_norm(kept + seen), kept_mask
        dropped = mask & ~keep
        alone = ~dropped.any(dim=1)
        # Attention without keys is NaN: such a row attends to all frames, and the result is discarded.
        seen, _ = self.look_back(kept, frames, frames, key_padding_mask=~(dropped | alone[:, None]), need_weights=False)
        seen = seen.masked_fill(alone[:, None, None], 0.0)
        return self.layer_norm(kept + seen), kept_mask


class CTCBridge(nn.Module):
    """Kept frames as mixtures of text embeddings, weighted by their CTC distribution, plus a gated look-back.

    The gate starts at 0: before training the language model reads a soft transcript. ShrinkingAdapter's LayerNorm
    scales the look-back like text embeddings (see `from_parts`).
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.zeros(hidden_size))

    def forward(
        self, logits: Tensor, looked_back: Tensor, embedding: Tensor, blank_id: int | None, scale: float = 1.0
    ) -> Tensor:
        """(A, K, V), (A, K, H), (V, H) -> (A, K, H); with ``blank_id`` this label has weight 0.

        ``scale``: factor of the language model for the rows of ``embedding``; see `embedding_scale`.
        """
        logits = logits.float()
        if blank_id is not None:
            logits = logits.index_fill(-1, torch.tensor([blank_id], device=logits.device), float("-inf"))
        text = scale * (logits.softmax(dim=-1).to(embedding.dtype) @ embedding)
        return text + self.gate * looked_back


def gather_rows(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen steps of each row, in order: (A, C, ...), (A, C) bool -> (A, K, ...), (A, K) bool, padded right."""
    counts = chosen.sum(dim=1)
    longest = int(counts.max())
    order = chosen.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    gathered = values.gather(1, order[..., None].expand(-1, -1, values.shape[-1]))
    return gathered, torch.arange(longest, device=chosen.device) < counts[:, None]
