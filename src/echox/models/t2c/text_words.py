"""The text word of each state, for the word-synchronous unit decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class TextWords:
    """The text words of a batch.

    Attributes:
        local: (B, R) number of each state's word, counted from 0 in its row; -1 where not spoken.
        place: (B, R) place of each state within its word.
        names: (B, W) the caller's id of each word; -1 beyond the row's last.
        counts: (B,) words in each row.
    """

    local: Tensor
    place: Tensor
    names: Tensor
    counts: Tensor

    @classmethod
    def of(cls, word_ids: Tensor) -> TextWords:
        """Number the words of `word_ids` (B, R), -1 where nothing is spoken.

        Raises:
            ValueError: word ids that are not in ascending order within a row.
        """
        before = F.pad(word_ids.cummax(1).values, (1, 0), value=-1)[:, :-1]
        spoken = word_ids >= 0
        if bool((spoken & (word_ids < before)).any()):
            raise ValueError(
                f"word_ids: expected ids in ascending order within a row (-1 = not spoken), found {word_ids.tolist()}"
            )
        opens = spoken & (word_ids > before)
        local = (opens.cumsum(1) - 1).masked_fill(~spoken, -1)
        counts = opens.sum(1)
        width = max(1, int(counts.max())) if len(counts) else 1
        names = word_ids.new_full((len(word_ids), width + 1), -1)
        names.scatter_(1, local.masked_fill(~opens, width), word_ids.masked_fill(~opens, -1))
        index = torch.arange(word_ids.shape[1], device=word_ids.device).expand_as(word_ids)
        place = index - index.masked_fill(~opens, 0).cummax(1).values
        return cls(local, place, names[:, :width], counts)

    def number(self, word_of: Tensor, real: Tensor) -> Tensor:
        """Numbers (B, U) of the words with the ids `word_of` (B, U), 0 where not `real`.

        Raises:
            ValueError: an id that is not among the row's `word_ids`.
        """
        same = word_of.unsqueeze(2) == self.names.unsqueeze(1)  # (B, U, W)
        if not bool((same.any(2) | ~real).all()):
            raise ValueError(
                "unit_word_of: expected ids of words that occur in the row's word_ids, found others; "
                "cut the unit words to the same words as the text"
            )
        return same.int().argmax(2).masked_fill(~real, 0)
