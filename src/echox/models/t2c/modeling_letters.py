"""Letters of text words, for unit decoders that spell: tokens alone say nothing about words that training never met.

Letters are bytes of UTF-8, so any script has them, and any tokenizer may stand beside them.

Letters: B rows, W text words, C letters of a word, D width of the decoder.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_LETTERS = 256
"""Values of a byte."""
NO_LETTER = -1
"""Padding of `word_letters`."""
_KERNEL = 5


def letters_of(text: str, limit: int) -> list[int]:
    """The letters of one word, with its punctuation.

    A capital that stands alone is written small, so that a word is spelled the same at the start of a sentence;
    capitals side by side ("USA") stay.

    Args:
        text: the word as it is spoken; white space around it does not count.
        limit: largest number of letters; further ones are left out.
    """
    text = text.strip()[: limit + 1]  # each character is one letter or more; one more tells whether a capital is alone
    small = [
        character.lower() if character.isupper() and not _beside_capital(text, place) else character
        for place, character in enumerate(text)
    ]
    # An accent is a letter of its own, and so are the parts of a Korean syllable.
    plain = unicodedata.normalize("NFKD", "".join(small))
    return list(plain.encode("utf-8", errors="replace")[:limit])


def letters_of_words(texts: Sequence[str], words: Sequence[int], limit: int) -> list[list[int]]:
    """The letters of each text word, in order, from the texts of its tokens.

    Args:
        texts: what each token adds to the text.
        words: the word of each token, ascending; -1 = not spoken.
        limit: largest number of letters of a word.
    """
    spelled: dict[int, str] = {}
    for text, word in zip(texts, words, strict=True):
        if word >= 0:
            spelled[word] = spelled.get(word, "") + text
    return [letters_of(text, limit) for text in spelled.values()]


def _beside_capital(text: str, place: int) -> bool:
    return any(one.isupper() for one in (text[max(0, place - 1) : place] + text[place + 1 : place + 2]))


def pad_letters(rows: Sequence[Sequence[Sequence[int]]]) -> Tensor:
    """``word_letters`` (B, W, C) of the letters of each word of each row, padded with -1."""
    words = max([1, *map(len, rows)])
    letters = max([1, *(len(word) for row in rows for word in row)])
    padded = torch.full((len(rows), words, letters), NO_LETTER)
    for number, row in enumerate(rows):
        for place, word in enumerate(row):
            padded[number, place, : len(word)] = torch.tensor(word, dtype=torch.long)
    return padded


class LetterEncoder(nn.Module):
    """A vector for every letter, which knows the letters around it and its place in the word.

    Args:
        width: D. max_letters: number of different places; num_layers: convolutions over 5 letters each.
        eps: of the norms.
    """

    def __init__(self, width: int, max_letters: int, num_layers: int, eps: float) -> None:
        super().__init__()
        self.letter_embedding = nn.Embedding(NUM_LETTERS, width)
        self.place_embedding = nn.Embedding(max_letters, width)
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=eps) for _ in range(num_layers))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2) for _ in range(num_layers)
        )
        self.output_norm = nn.RMSNorm(width, eps=eps)

    def forward(self, word_letters: Tensor) -> Tensor:
        """Vectors (B, W, C, D) of letters (B, W, C); 0 where there is none."""
        rows, words, count = word_letters.shape
        letters = word_letters.flatten(0, 1)
        real = (letters >= 0).unsqueeze(2)
        x = self.letter_embedding(letters.clamp(min=0)) + self.place_embedding.weight[:count]
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            # Under autocast the convolution is in half precision and the norm's weight is not.
            inputs = norm(x.to(norm.weight.dtype)) * real
            x = x + F.gelu(convolution(inputs.transpose(1, 2)).transpose(1, 2))
        return (self.output_norm(x.to(self.output_norm.weight.dtype)) * real).view(rows, words, count, -1)
