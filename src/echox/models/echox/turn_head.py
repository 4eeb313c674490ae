"""The turn head: has a speaker finished, or will more follow?

It reads what the language model is about to read of a question so far, an input per token that was heard, and when each
was said. So it knows the words, and where something was said that was not understood. It has read texts cut at every
word, and then speech with pauses (stage "turn_head"). A model folder may hold one (``turn_head.safetensors``); without
it only the length of silence decides.

Letters: K inputs of a question, H width of the language model.

Source: that the words say best when a sentence is complete is the idea of https://github.com/livekit/agents (turn
detector); form, data and weights are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from echox.models.echox.sequence_head import SequenceHead

_LONGEST_GAP_S = 1.0  # longer ones say no more


class TurnHead(SequenceHead):
    """Yes: the speaker has finished. It reads `turn_inputs`."""

    file, what = "turn_head.safetensors", "turn head"
    without = "the length of silence then decides"


def turn_inputs(embeds: Tensor, begins_s: Sequence[float]) -> Tensor | None:
    """(K, H + 1) float32: the inputs of the language model for a question, and the time since the one before, s.

    Args:
        embeds: (K, H) inputs of the language model for the audio.
        begins_s: when the token of each begins, s. If there are others than inputs, nothing can be said: None.
    """
    if not begins_s or len(begins_s) != len(embeds):
        return None
    begins = torch.tensor([0.0, *begins_s])
    gaps = (begins[1:] - begins[:-1]).clamp(0.0, _LONGEST_GAP_S)
    return torch.cat([embeds.detach().float().cpu(), gaps[:, None]], dim=1)
