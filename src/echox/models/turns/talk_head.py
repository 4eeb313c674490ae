"""The talk head: is what a user says talk, or a question of knowledge?

Talk is small talk, what is said of the user or the assistant, and what no model can know. A model that has learned to
talk beside its weights (folder ``talk_adapter``) has that adapter for talk; a question of knowledge is answered by the
language model as it was published, so that it knows what it knew. The head reads the end of the last reply ("How old is
he?" depends on it) and the newest words. Stage "talk_head" trains it in a minute; a folder with a talk adapter and no
head (``talk_head.safetensors``) has the adapter in every turn.

Letters: N tokens of the last reply's end, K inputs of the newest words, H width of the language model.
"""

from __future__ import annotations

import torch
from torch import Tensor

from echox.models.turns.sequence_head import SequenceHead

REPLY_TOKENS, NEWEST_INPUTS = 24, 48
"""Most tokens of the last reply's end, and most inputs of the newest words, that are read."""


class TalkHead(SequenceHead):
    """Yes: it is talk. It reads `talk_inputs`."""

    file, what = "talk_head.safetensors", "talk head"
    without = "the talk adapter is then used in every turn"


def talk_inputs(reply: Tensor, newest: Tensor) -> Tensor:
    """(N + K, H + 1) float32: inputs of the language model, and 1 at those of the newest words.

    Args:
        reply: (any, H) of the last reply; empty: there is none.
        newest: (any, H) of what the user says now; at least one.
    """
    parts = [(reply[-REPLY_TOKENS:], 0.0), (newest[:NEWEST_INPUTS], 1.0)]
    rows = [torch.cat([part.detach().float().cpu(), torch.full((len(part), 1), flag)], 1) for part, flag in parts]
    return torch.cat(rows)
