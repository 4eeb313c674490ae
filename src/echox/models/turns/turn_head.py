"""The turn head: has a speaker finished, or will more follow?

It reads what the language model is about to read of a question so far, an input per token that was heard, and when each
was said. So it knows the words, and where something was said that was not understood. Or it reads the states that the
language model has of these inputs: whoever knows a language knows best where its sentences end, but this takes the
time of some tokens. It has read texts cut at every word, and then speech with pauses (stage "turn_head"). A model
folder may hold one (``turn_head.safetensors``); without it only the length of silence decides.

Letters: K inputs or states of a question, H width of the language model.

Source: that the words say best when a sentence is complete is the idea of https://github.com/livekit/agents (turn
detector); form, data and weights are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from echox.models.turns.sequence_head import SequenceHead

_LONGEST_GAP_S = 1.0  # longer ones say no more


class TurnHead(SequenceHead):
    """Yes: the speaker has finished. It reads `turn_inputs`.

    Args:
        width, hidden_size, dropout: as of `SequenceHead`.
        reads_states: it reads states of the language model; False: inputs.
    """

    file, what = "turn_head.safetensors", "turn head"
    without = "the length of silence then decides"
    lacking: ClassVar[Mapping[str, Tensor]] = {"of_states": torch.zeros(())}
    of_states: Tensor

    def __init__(self, width: int, hidden_size: int = 64, dropout: float = 0.2, reads_states: bool = False) -> None:
        super().__init__(width, hidden_size, dropout)
        self.register_buffer("of_states", torch.tensor(float(reads_states)))

    @property
    def reads_states(self) -> bool:
        """Whether it reads states of the language model, and not its inputs."""
        return bool(self.of_states)


def turn_inputs(embeds: Tensor, begins_s: Sequence[float]) -> Tensor | None:
    """(K, H + 1) float32: the inputs or states of a question, and the time since the one before, s.

    Args:
        embeds: (K, H) inputs of the language model for the audio, or its states.
        begins_s: when the token of each begins, s. If there are others than inputs, nothing can be said: None.
    """
    if not begins_s or len(begins_s) != len(embeds):
        return None
    begins = torch.tensor([0.0, *begins_s])
    gaps = (begins[1:] - begins[:-1]).clamp(0.0, _LONGEST_GAP_S)
    return torch.cat([embeds.detach().float().cpu(), gaps[:, None]], dim=1)
