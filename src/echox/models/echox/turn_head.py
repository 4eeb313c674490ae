"""The turn head: has a speaker finished, or will more follow?

A logistic unit on what the language model makes of a question so far. It has heard the pause anyway, where the reply
is begun in it, so the answer costs one product of a vector and a matrix. A model folder may hold one
(``turn_head.safetensors``); without it only the length of silence decides.

Letters: H width of the language model; D = 3 H features.

Source: the idea that the language model of an assistant knows best when a sentence is complete, as in
https://github.com/livekit/agents (turn detector); form, data and weights are ours.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

TURN_HEAD_FILE = "turn_head.safetensors"
STATES = 3
"""States in the features: at the end of the prompt, at the last position of the audio, the mean input of the audio."""


def turn_features(end: Tensor, last_heard: Tensor, heard: Tensor) -> Tensor:
    """(D,) float32 features.

    Args:
        end: (H,) state at the last position of the prompt: it predicts the first token of the reply.
        last_heard: (H,) state at the last position of the audio: it predicts how the sentence goes on.
        heard: (K, H) inputs of the language model for the audio.
    """
    return torch.cat([end.float(), last_heard.float(), heard.float().mean(0)])


class TurnHead:
    """A logistic unit.

    Args:
        weight: (D,).
        bias: ().

    Raises:
        ValueError: other shapes.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        if weight.ndim != 1 or bias.ndim:
            raise ValueError(
                f"turn head: expected weights (D,) and (), found {tuple(weight.shape)} and {tuple(bias.shape)}; "
                "train it again (stage turn_head)"
            )
        self.weight, self.bias = weight.float(), bias.float()

    def __call__(self, features: Tensor) -> float:
        """Probability that the speaker of features (D,) has finished."""
        return float(torch.sigmoid(self.weight @ features.cpu() + self.bias))

    def tensors(self) -> dict[str, Tensor]:
        """What its file in a model folder holds."""
        return {"weight": self.weight, "bias": self.bias}


def load_turn_head(folder: Path, width: int) -> TurnHead | None:
    """The turn head of a model folder; None: it has none.

    Args:
        folder: of the model.
        width: H of its language model.

    Raises:
        ValueError: a damaged file, or the head of another language model.
    """
    path = folder / TURN_HEAD_FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as stored:
            head = TurnHead(stored.get_tensor("weight"), stored.get_tensor("bias"))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: expected a turn head, found: {error}; copy the model folder again") from error
    if head.weight.shape[0] != STATES * width or not bool(torch.isfinite(head.weight).all()):
        raise ValueError(
            f"{path}: expected finite weights for a language model of width {width}, found {tuple(head.weight.shape)}; "
            "remove the file (the length of silence then decides), or train it again (stage turn_head)"
        )
    return head
