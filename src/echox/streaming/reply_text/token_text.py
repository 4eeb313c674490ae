"""Tokens to text, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class _Decoder(Protocol):
    def decode(self, token_ids: list[int], *, skip_special_tokens: bool, **options: bool) -> str | list[str]: ...


class IncrementalDetokenizer:
    """Text of a growing token sequence, piece by piece, never a part of a character.

    A byte-level token may hold a part of a character, and some tokenizers join or strip spaces at the start of a
    sequence. So a few tokens are decoded again with every new one, and text that ends in an unfinished character waits.

    Args:
        tokenizer: anything with the ``decode`` of transformers.
    """

    def __init__(self, tokenizer: _Decoder) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._window = 0  # start of the tokens that are decoded again
        self._num_returned = 0  # tokens whose text has been returned

    def push(self, token_id: int) -> str:
        """Add a token; return the text that is now final ("" while a character is unfinished)."""
        self._ids.append(int(token_id))
        text = self._decode(self._ids[self._window :])
        if text.endswith("\ufffd"):
            return ""
        returned = self._decode(self._ids[self._window : self._num_returned])
        self._window, self._num_returned = self._num_returned, len(self._ids)
        return text[len(returned) :]

    def flush(self) -> str:
        """Return what is left at the end, unfinished characters as U+FFFD."""
        text = self._decode(self._ids[self._window :])
        returned = self._decode(self._ids[self._window : self._num_returned])
        self._window = self._num_returned = len(self._ids)
        return text[len(returned) :]

    def _decode(self, token_ids: Sequence[int]) -> str:
        ids = list(token_ids)
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def token_texts(tokenizer: _Decoder, token_ids: Sequence[int]) -> list[str]:
    """What each token adds to a text, as a reply that is being written has it."""
    detokenizer = IncrementalDetokenizer(tokenizer)
    texts = [detokenizer.push(token_id) for token_id in token_ids]
    if texts:
        texts[-1] += detokenizer.flush()
    return texts
