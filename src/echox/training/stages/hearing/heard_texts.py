"""Texts as they might be heard, cut at any word: what a turn head reads before it reads speech.

A model's transcripts have errors: words are lost, others come in their place, commas appear. Where a word was lost its
time stays. All of this is imitated here with text embeddings, so a head learns from every beginning of every question
which of them are complete, without a second of speech. In real transcripts the mark at the end says nothing (the model
writes one in every pause), so any stands there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from echox.data.scoring import normalize_words
from echox.models.turns.turn_head import turn_inputs

_ADDRESS = re.compile(r",\s+\S+(\s\S+)?$")
NOISE = 0.5
"""Of an embedding, relative to it: its direction is that of what was heard, and little else is."""
_LOUDNESS = (0.8, 1.2)  # of the embeddings of a question
_LETTER_S = (0.05, 0.08)  # time that a letter takes, of slow and fast speakers
_BEGINS_S = 0.25  # margin before the speech
_LOST_SHARES = (0.0, 0.0, 0.04, 0.12)  # of the tokens of a question that are lost
_COMMA_SHARE, _COMMA_S = 0.3, 0.04  # of the lost ones, how many more have a comma behind them, and how soon
_END_S = (0.03, 0.15)  # between the last word and the mark at the end


@dataclass(frozen=True)
class CutText:
    """A question or its beginning, without a mark at its end; ``complete``: whether nothing follows."""

    text: str
    complete: bool


def key(text: str) -> str:
    """Words of a question: two with the same words are the same."""
    return " ".join(normalize_words(text))


def without_address(text: str) -> str:
    """A question without the "please" or "my friend" behind its last comma: it is complete before that."""
    return _ADDRESS.sub("", text.rstrip(".?!"))


def pause_places(text: str, known: Collection[str]) -> list[int]:
    """Numbers of words after which a pause leaves a text incomplete.

    A beginning that is a question of its own says nothing, and neither does one that ends a sentence, or one after
    which only "please" follows.

    Args:
        text: a question.
        known: questions, without punctuation (`key`).
    """
    words, enough = text.split(), len(without_address(text).split())
    return [n for n in range(1, enough) if words[n - 1][-1] not in ".?!" and key(" ".join(words[:n])) not in known]


def cut_texts(texts: Iterable[str], known: Collection[str]) -> list[CutText]:
    """All beginnings of questions, and themselves; in capitals as a model writes them."""
    found = []
    for text in dict.fromkeys(text[:1].upper() + text[1:] for text in texts):
        words = text.split()
        found += [CutText(one, True) for one in dict.fromkeys((text.rstrip(".?!"), without_address(text)))]
        found += [CutText(" ".join(words[:n]).rstrip(","), False) for n in pause_places(text, known)]
    return found


class HeardTexts:
    """Makes inputs of a turn head (`turn_inputs`) of texts.

    Args:
        token_ids: tokenizes a text.
        decode: a token as text.
        embeddings: (V, H) of the language model.
        rng: decides what is misheard.
        noise: in the embeddings, relative to them.
        read: makes of embeddings and their times what the head reads.
    """

    def __init__(
        self,
        token_ids: Callable[[str], list[int]],
        decode: Callable[[int], str],
        embeddings: Tensor,
        rng: random.Random,
        noise: float = NOISE,
        read: Callable[[Tensor, Sequence[float]], Tensor | None] = turn_inputs,
    ) -> None:
        self._token_ids, self._decode, self._embeddings, self._rng = token_ids, decode, embeddings, rng
        self._noise, self._read = noise * float(embeddings.std()), read
        self._comma, self._marks = token_ids("So,")[-1], [token_ids(one)[-1] for one in ("So.", "So?")]

    def __call__(self, text: str) -> Tensor:
        """(K, H + 1) of a text, heard with errors; other ones each time."""
        rng, letter_s, now_s = self._rng, self._rng.uniform(*_LETTER_S), _BEGINS_S
        lost = rng.choice(_LOST_SHARES)
        heard: list[tuple[int, float]] = []
        for token in self._token_ids(text):
            now_s += letter_s * max(2, len(self._decode(token).strip()))
            draw = rng.random()
            if draw < lost:
                continue
            other = draw > 1.0 - lost / 2
            heard.append((rng.randrange(len(self._embeddings)) if other else token, now_s))
            if draw < (1.0 + _COMMA_SHARE) * lost:
                heard.append((self._comma, now_s + _COMMA_S))
        heard.append((rng.choice(self._marks), now_s + rng.uniform(*_END_S)))
        embeds = self._embeddings[torch.tensor([token for token, _ in heard])] * rng.uniform(*_LOUDNESS)
        inputs = self._read(embeds + self._noise * torch.randn(embeds.shape), [begin_s for _, begin_s in heard])
        assert inputs is not None, "as many times as inputs"
        return inputs
