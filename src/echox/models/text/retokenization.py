"""From the tokens of a recogniser to those of a language model: the same text, and which tokens share characters.

Letters: N tokens of the recogniser, K tokens of the language model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from echox.models.text.control_tokens import special_token_ids
from echox.models.text.tokenization_text import decode_text

_BROKEN = "\ufffd"


@dataclass(frozen=True)
class Retokenized:
    """A transcript in the tokens of a language model.

    Attributes:
        text: the transcript, without white space around it. token_ids: K tokens.
        sources: tokens of the recogniser, from the first to before the last, that each token's characters are from.
    """

    text: str
    token_ids: list[int]
    sources: list[tuple[int, int]]

    def mixture(self, count: int) -> Tensor:
        """(K, count) float32, the mean over each token's sources as a matrix product; ``count``: N."""
        weights = torch.zeros(len(self.sources), count)
        for row, (first, end) in enumerate(self.sources):
            weights[row, first:end] = 1.0 / (end - first)
        return weights


class Retokenizer:
    """Reads tokens of a recogniser as tokens of a language model.

    Args:
        recogniser: its tokenizer.
        language_model: the language model's.
    """

    def __init__(self, recogniser: PreTrainedTokenizerBase, language_model: PreTrainedTokenizerBase) -> None:
        self.recogniser, self.language_model = recogniser, language_model
        self._special = special_token_ids(recogniser)

    def __call__(self, windows: Sequence[Sequence[int]]) -> Retokenized:
        """The transcript of an audio, from the tokens of its windows; windows are joined by a space.

        What is written like a special token of the language model is text, as no user may speak special tokens.
        """
        text = ""
        source_of: list[int] = []  # of each character
        place = 0
        for window in windows:
            written = ""
            for index, token_id in enumerate(window):
                if token_id not in self._special:
                    so_far = self._decode(window[: index + 1])
                    grown = so_far if len(so_far) >= len(written) else written
                    source_of += [place] * (len(grown) - len(written))
                    written = grown
                place += 1
            if window:
                text += written + " "
                source_of.append(place - 1)
        stripped = text.strip()
        skipped = len(text) - len(text.lstrip())
        return self._tokenized(stripped, source_of[skipped : skipped + len(stripped)])

    def _decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, up to the last complete character."""
        text = decode_text(
            self.recogniser, list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text.rstrip(_BROKEN)

    def _tokenized(self, text: str, source_of: list[int]) -> Retokenized:
        if not text:
            return Retokenized("", [], [])
        encoded = self.language_model(
            text, add_special_tokens=False, return_offsets_mapping=True, split_special_tokens=True
        )
        sources = []
        for start, end in encoded["offset_mapping"]:
            start = min(start, len(text) - 1)
            last = max(start, min(end, len(text)) - 1)
            sources.append((source_of[start], source_of[last] + 1))
        return Retokenized(text, list(encoded["input_ids"]), sources)
