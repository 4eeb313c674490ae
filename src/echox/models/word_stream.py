"""Speech word by word: the word-synchronous decoder while its text is still being written.

A `WordStream` says a word as soon as the words it looks ahead to are complete, rather than waiting for a segment. What
it says is what `WordSynchronousDecoder.generate` says for the whole text at once; a test holds the two equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from echox.models.modeling_t2c import WordSynchronousDecoder
from echox.models.modeling_unit_backbone import LeanSteps, choose
from echox.models.text_words import TextWords


@dataclass(frozen=True)
class SpokenWord:
    """One text word, said.

    Attributes:
        word: its id, as pushed.
        unit_words: what was said.
    """

    word: int
    unit_words: list[int]


class WordStream:
    """The state of one piece of speech in the making; the decoder itself holds none.

    Example::

        stream = WordStream(model.echo_decoder)
        for state, word in tokens:                      # as the language model writes
            for spoken in stream.push(state, word): ...
        for spoken in stream.finish(): ...

    Args:
        decoder: in evaluation mode; its weights must not change meanwhile.
        do_sample, temperature, top_p, generator: as in `UnitDecoder.generate`.
    """

    def __init__(
        self,
        decoder: WordSynchronousDecoder,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.decoder = decoder
        self.choices = (do_sample, temperature, top_p, generator)
        self.steps = LeanSteps(decoder.backbone, rows=1)
        self.finished = False
        self._previous = decoder.end_id
        self._names: list[int] = []  # ids of the words whose vectors are known
        self._vectors: list[Tensor] = []  # (D,) each
        self._open: list[Tensor] = []  # states (H,) of the word that is being written
        self._open_name = -1
        self._spoken = 0

    @torch.no_grad()
    def push(self, state: Tensor, word: int) -> list[SpokenWord]:
        """Add a token's denoised state (H,) and its word's id (-1: not spoken); return the words that can now be said.

        Raises:
            ValueError: after `finish`, or a word id that falls.
        """
        if self.finished:
            raise ValueError("expected no more tokens after finish(); open a new stream for the next piece")
        if word < 0:
            return []
        if word < self._open_name:
            raise ValueError(f"word: expected ids that never fall, found {word} after {self._open_name}")
        if word > self._open_name:
            self._close_word()
            self._open_name = word
        self._open.append(state)
        return self._speak()

    @torch.no_grad()
    def finish(self) -> list[SpokenWord]:
        """The text is complete: say the rest."""
        self._close_word()
        self.finished = True
        return self._speak()

    def _close_word(self) -> None:
        if not self._open:
            return
        states = torch.stack(self._open)[None].to(self.decoder.dtype)
        words = TextWords.of(torch.zeros(1, len(self._open), dtype=torch.long, device=states.device))
        self._vectors.append(self.decoder.word_vectors(states, words)[0, 0])
        self._names.append(self._open_name)
        self._open = []

    def _speak(self) -> list[SpokenWord]:
        ahead = 0 if self.finished else self.decoder.config.lookahead_words
        said = []
        while self._spoken + ahead < len(self._vectors):
            said.append(SpokenWord(self._names[self._spoken], self._say(self._spoken)))
            self._spoken += 1
        return said

    def _say(self, number: int) -> list[int]:
        """Unit words of a word, up to its end."""
        decoder, config = self.decoder, self.decoder.config
        embedding, head, end = decoder.backbone.embed_tokens.weight, decoder.unit_head.weight, decoder.end_id
        first = max(0, number - config.lookback_words)
        around = torch.stack(self._vectors[first : number + config.lookahead_words + 1])[None]
        told = decoder.conditions(around)[:, number - first]  # (1, D)
        unit_words: list[int] = []
        while True:
            hidden = self.steps.advance((embedding[self._previous] + told)[:, None])[:, 0]
            logits = F.linear(hidden, head)
            if config.force_sound and not unit_words:
                logits[:, end] = -torch.inf
            choice = int(choose(logits, *self.choices))
            self._previous = end if len(unit_words) >= config.max_unit_words_per_word else choice
            if self._previous == end:
                return unit_words
            unit_words.append(choice)
