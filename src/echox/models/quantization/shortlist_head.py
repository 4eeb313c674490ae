"""Scores of a large vocabulary on a CPU: all tokens by a head in 4 bits, the best of them again by its exact rows.

A head of 50,000 tokens is a fifth of a small language model, and all of it is read for every token that is written.
Read in 4 bits it takes an eighth of the bytes. Its error (a tenth of the spread of the scores) could swap tokens of
nearly equal score, so the best 64 are computed once more with the rows of the head itself: the choice is then that of
the exact scores, unless the best token is not even among the 64.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from echox.models.quantization.int4_linear import Int4Linear

SHORTLIST = 64
"""Tokens whose scores are exact."""


class ShortlistHead:
    """The head of a language model, fast at a few rows.

    Args:
        head: in floats; a copy in 4 bits is made, and its rows are read.
        shortlist: number of exact scores.

    Raises:
        ValueError: weights that are not finite, or a width that is no multiple of 32.
    """

    def __init__(self, head: nn.Linear, shortlist: int = SHORTLIST) -> None:
        self._head, self._number = head, min(shortlist, head.out_features)
        self._all = Int4Linear.of(head)

    def __call__(self, states: Tensor) -> Tensor:
        """(B, V) scores of the tokens that states (B, H) predict."""
        scores: Tensor = self._all(states)
        best = scores.topk(self._number, dim=-1).indices
        exact = torch.einsum("bsh,bh->bs", self._head.weight[best], states.to(self._head.weight.dtype))
        if self._head.bias is not None:
            exact = exact + self._head.bias[best]
        return scores.scatter_(-1, best, exact.to(scores))
