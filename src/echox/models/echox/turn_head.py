"""The turn head: has a speaker finished, or will more follow?

A small recurrent network reads what the language model is about to read of a question so far, an input per token that
was heard, and when each was said. So it knows the words, and where something was said that was not understood. It has
read texts cut at every word, and then speech with pauses (stage "turn_head"). It needs no state of the language model:
the answer is there as soon as the speech is encoded, before the reply is begun. A model folder may hold one
(``turn_head.safetensors``); without it only the length of silence decides.

Letters: B questions, K inputs of a question, H width of the language model.

Source: that the words say best when a sentence is complete is the idea of https://github.com/livekit/agents (turn
detector); form, data and weights are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

TURN_HEAD_FILE = "turn_head.safetensors"
_LONGEST_GAP_S = 1.0  # longer ones say no more


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


class TurnHead(nn.Module):
    """A gated recurrent network over `turn_inputs`, and what its last state says.

    Args:
        width: H.
        hidden_size: units.
        dropout: in training.
    """

    scale: Tensor

    def __init__(self, width: int, hidden_size: int = 64, dropout: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))  # of the inputs: their root mean square is 1 afterwards
        self.reading = nn.Linear(width + 1, hidden_size)
        self.recurrence = nn.GRU(hidden_size, hidden_size, batch_first=True)
        self.deciding = nn.Linear(hidden_size, hidden_size // 2)
        self.answer = nn.Linear(hidden_size // 2, 1)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """(B,) log odds that the speakers have finished, by inputs (B, K, H + 1), of which lengths (B,) count."""
        scaled = torch.cat([inputs[..., :-1] * self.scale, inputs[..., -1:]], dim=-1)
        states, _ = self.recurrence(self.dropout(self.reading(scaled).relu()))
        last = states[torch.arange(len(states)), lengths - 1]
        return self.answer(self.dropout(self.deciding(self.dropout(last)).relu()))[:, 0]

    @torch.inference_mode()
    def probability(self, inputs: Tensor) -> float:
        """Probability that the speaker of inputs (K, H + 1) has finished."""
        return float(torch.sigmoid(self(inputs[None], torch.tensor([len(inputs)]))))

    @torch.no_grad()
    def calibrate(self, scale: Tensor, shift: Tensor) -> None:
        """Multiply the log odds by ``scale`` () and add ``shift`` ()."""
        self.answer.weight.mul_(scale)
        self.answer.bias.copy_(self.answer.bias * scale + shift)


def load_turn_head(folder: Path, width: int) -> TurnHead | None:
    """The turn head of a model folder; None: it has none.

    Args:
        folder: of the model.
        width: H of its language model.

    Raises:
        ValueError: a damaged file, or the head of another language model or of an older version.
    """
    path = folder / TURN_HEAD_FILE
    if not path.is_file():
        return None
    try:
        stored = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a turn head, found: {error}; copy the model folder again") from error
    head = TurnHead(width, max(2, stored.get("reading.bias", torch.ones(0)).numel())).eval()
    expected = {name: value.shape for name, value in head.state_dict().items()}
    found = {name: value.shape for name, value in stored.items()}
    if found != expected or not all(bool(torch.isfinite(value).all()) for value in stored.values()):
        raise ValueError(
            f"{path}: expected finite weights of a turn head for a language model of width {width}, found "
            f"{', '.join(f'{name} {tuple(shape)}' for name, shape in sorted(found.items()))}; remove the file (the "
            "length of silence then decides), or train it again (stage turn_head)"
        )
    head.load_state_dict({name: value.float() for name, value in stored.items()})
    return head.requires_grad_(False)
