"""A small recurrent network that reads what the language model reads of a turn, and says yes or no: what it means.

Its answer is there before the reply is begun. A model folder may hold some: `turn_head.py` and `talk_head.py` say what
each reads, and what it answers.

Letters: B sequences, K inputs of a sequence, H width of the language model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

Head = TypeVar("Head", bound="SequenceHead")


class SequenceHead(nn.Module):
    """A gated recurrent network over inputs with one number more each, and what its last state says.

    Args:
        width: H.
        hidden_size: units.
        dropout: in training.

    Attributes:
        file: its name in a model folder, after the stage that trains it.
        what: it is, for errors.
        without: what happens in a folder without it, for errors.
        lacking: entries that files of older versions lack, with the values that they then have.
    """

    file: ClassVar[str]
    what: ClassVar[str]
    without: ClassVar[str]
    lacking: ClassVar[Mapping[str, Tensor]] = {}
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
        """(B,) log odds of yes, by inputs (B, K, H + 1), of which lengths (B,) count."""
        scaled = torch.cat([inputs[..., :-1] * self.scale, inputs[..., -1:]], dim=-1)
        states, _ = self.recurrence(self.dropout(self.reading(scaled).relu()))
        last = states[torch.arange(len(states)), lengths - 1]
        return self.answer(self.dropout(self.deciding(self.dropout(last)).relu()))[:, 0]

    @torch.inference_mode()
    def probability(self, inputs: Tensor) -> float:
        """Probability of yes for inputs (K, H + 1)."""
        return float(torch.sigmoid(self(inputs[None], torch.tensor([len(inputs)]))))

    @torch.no_grad()
    def calibrate(self, scale: Tensor, shift: Tensor) -> None:
        """Multiply the log odds by ``scale`` () and add ``shift`` ()."""
        self.answer.weight.mul_(scale)
        self.answer.bias.copy_(self.answer.bias * scale + shift)

    @classmethod
    def load(cls: type[Head], folder: Path, width: int) -> Head | None:
        """The head of a model folder; None: it has none.

        Args:
            folder: of the model.
            width: H of its language model.

        Raises:
            ValueError: a damaged file, or the head of another language model or of an older version.
        """
        path = folder / cls.file
        if not path.is_file():
            return None
        try:
            stored = {**cls.lacking, **load_file(path)}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: expected a {cls.what}, found: {error}; copy the model folder again") from error
        head = cls(width, max(2, stored.get("reading.bias", torch.ones(0)).numel())).eval()
        expected = {name: value.shape for name, value in head.state_dict().items()}
        found = {name: value.shape for name, value in stored.items()}
        if found != expected or not all(bool(torch.isfinite(value).all()) for value in stored.values()):
            raise ValueError(
                f"{path}: expected finite weights of a {cls.what} for a language model of width {width}, found "
                f"{', '.join(f'{name} {tuple(shape)}' for name, shape in sorted(found.items()))}; remove the file "
                f"({cls.without}), or train it again (stage {path.stem})"
            )
        head.load_state_dict({name: value.float() for name, value in stored.items()})
        return head.requires_grad_(False)
