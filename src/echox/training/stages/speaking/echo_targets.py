"""Targets of stage "echo": replies cut into segments as in streaming, and unit words for each segment.

Three sources of unit words, one class each: `OnlineTargets` (the method: the frozen T2C reads the model's own reply,
during training), `OfflineTargets` (it reads the reference), both in `echo_teacher.py`; `RecordedTargets` (a recording
of the reference). The last two are for comparison.

Letters: B dialogues, R reply tokens, S segments, U unit words, H width of the language model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from echox.models.echox.modeling_shrinking import gather_rows
from echox.models.t2c.modeling_letters import letters_of_words, pad_letters
from echox.models.t2c.modeling_unit_decoder import UnitDecoderOutput
from echox.models.text.tokenization_text import word_index
from echox.streaming.reply_text.token_text import token_texts
from echox.streaming.reply_text.trigger import Trigger
from echox.training.batches.collate import IGNORE_INDEX, pad_sequences
from echox.training.stages.speaking.label_cache import Label
from echox.training.stages.speaking.t2c import SpokenText


def select(states: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The states that predict the reply's tokens: state i predicts token i + 1.

    With the states *at* the tokens, or those of the question, the losses fall too, but the model never speaks: the
    usual bug of this stage.

    Args:
        states: (B, L, H) last hidden states.
        labels: (B, L) reply tokens at their own positions, -100 elsewhere.

    Returns:
        (B, R, H) states, and (B, R) the tokens they predict, padded on the right with -1.
    """
    predicts = labels[:, 1:] != IGNORE_INDEX
    reply_states, real = gather_rows(states[:, :-1], predicts)
    tokens, _ = gather_rows(labels[:, 1:, None], predicts)
    return reply_states, tokens.squeeze(-1).masked_fill(~real, -1)


@dataclass
class Segments:
    """Pieces of the replies of a batch.

    Attributes:
        token_ids: (S, R) tokens, -1 = padding.
        word_ids: (S, R) text word of each token, from 0 in each segment; -1 = padding or not spoken.
        places: (S, R) where the token's state is in the flattened (B * R) states; 0 at the padding.
        owners: (dialogue, first word of the segment in its reply) of each segment.
        context: number of leading words of each segment that belong to the segment before it and are only read.
        word_letters: (S, W, C) letters of each text word, padded with -1; None: they are not read.
    """

    token_ids: Tensor
    word_ids: Tensor
    places: Tensor
    owners: list[tuple[int, int]]
    context: list[int]
    word_letters: Tensor | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    def of(self, states: Tensor) -> Tensor:
        """The states (S, R, H) of the segments, from those of the replies (B, R, H)."""
        return states.flatten(0, 1)[self.places]

    def kept(self, rows: Sequence[int]) -> Segments:
        """Only these segments."""
        index = torch.tensor(rows, dtype=torch.long, device=self.token_ids.device)
        owners, context = [self.owners[row] for row in rows], [self.context[row] for row in rows]
        letters = None if self.word_letters is None else self.word_letters[index]
        return Segments(self.token_ids[index], self.word_ids[index], self.places[index], owners, context, letters)


def joined(parts: Sequence[Segments]) -> Segments:
    """The segments of several batches, for a teacher to read; their places remain those in their own batches."""
    parts = [part for part in parts if len(part)] or list(parts[:1])
    letters = [part.word_letters for part in parts if part.word_letters is not None]
    return Segments(
        _together([part.token_ids for part in parts], -1),
        _together([part.word_ids for part in parts], -1),
        _together([part.places for part in parts], 0),
        [owner for part in parts for owner in part.owners],
        [count for part in parts for count in part.context],
        _together(letters, -1) if letters else None,
    )


def _together(values: Sequence[Tensor], fill: int) -> Tensor:
    """Rows of several tensors, padded to the longest on every other axis."""
    sizes = [max(value.shape[axis] for value in values) for axis in range(1, values[0].ndim)]
    rows = []
    for value in values:
        missing = [size - have for size, have in zip(sizes, value.shape[1:], strict=True)]
        rows.append(F.pad(value, [count for more in reversed(missing) for count in (0, more)], value=fill))
    return torch.cat(rows)


def cut_replies(
    token_ids: Tensor,
    scores: Tensor,
    trigger: Trigger,
    tokenizer: PreTrainedTokenizerBase,
    context_words: int = 0,
    max_word_letters: int = 0,
) -> Segments:
    """Cut replies where streaming would: at the trigger's peaks, at word borders, and at the end of a turn.

    Args:
        token_ids: (B, R) tokens of the replies, -1 = padding.
        scores: (B, R) trigger score of each token.
        trigger: the segment decision.
        tokenizer: of the tokens; needed to find their words.
        context_words: number of words of the segment before it (of the same turn) with which a segment begins.
        max_word_letters: of the decoders that speak the segments; 0: they do not read letters.

    Returns:
        Segments with at least one word.
    """
    width = token_ids.shape[1]
    pieces: list[tuple[list[int], list[int], list[int]]] = []
    owners: list[tuple[int, int]] = []
    context: list[int] = []
    letters: list[list[list[int]]] = []
    for row, (padded, row_scores) in enumerate(zip(token_ids.tolist(), scores.tolist(), strict=True)):
        tokens = [token for token in padded if token >= 0]
        words = word_index(tokenizer, tokens)
        texts = token_texts(tokenizer, tokens) if max_word_letters else [""] * len(tokens)
        for start, end in _turns(words):
            turn = words[start:end]
            opens = [place == 0 or word != turn[place - 1] for place, word in enumerate(turn)]
            for segment in trigger.segment(row_scores[start:end], opens):
                first, last = start + segment.start, start + segment.end
                own_word = words[first]
                while first > start and own_word - words[first - 1] <= context_words:
                    first -= 1
                context.append(own_word - words[first])
                names = [word - words[first] for word in words[first:last]]
                pieces.append((tokens[first:last], names, list(range(row * width + first, row * width + last))))
                letters.append(letters_of_words(texts[first:last], names, max_word_letters))
                owners.append((row, words[first]))
    device = token_ids.device
    if not pieces:
        empty = torch.zeros(0, 1, dtype=torch.long, device=device)
        return Segments(empty, empty, empty, [], [])
    tokens_of, words_of, places_of = zip(*pieces, strict=True)
    return Segments(
        pad_sequences(tokens_of, -1).to(device),
        pad_sequences(words_of, -1).to(device),
        pad_sequences(places_of, 0).to(device),
        owners,
        context,
        pad_letters(letters).to(device) if max_word_letters else None,
    )


def without_context(echo: UnitDecoderOutput, segments: Segments, unit_word_of: Tensor) -> UnitDecoderOutput:
    """The loss on the segments' own words only: the unit words of context words are given, not learned.

    Args:
        echo: output of a word-synchronous decoder, whose steps are the words' unit words, an end after each.
        segments: S segments.
        unit_word_of: (S, U) word of each unit word, -1 = padding.
    """
    assert echo.targets is not None
    assert echo.logits is not None
    given = given_steps(segments, unit_word_of)
    steps = torch.arange(echo.targets.shape[1], device=given.device)
    targets = echo.targets.masked_fill(steps < given[:, None], IGNORE_INDEX)
    total = F.cross_entropy(echo.logits.float().flatten(0, 1), targets.flatten(), reduction="sum")
    loss = total / (targets != IGNORE_INDEX).sum().clamp(min=1)
    return UnitDecoderOutput(loss, echo.logits, targets, echo.input_mask)


def given_steps(segments: Segments, unit_word_of: Tensor) -> Tensor:
    """(S,) steps of a word-synchronous decoder for the segments' context words, an end after each."""
    context = torch.tensor(segments.context, dtype=torch.long, device=unit_word_of.device)
    return ((unit_word_of >= 0) & (unit_word_of < context[:, None])).sum(1) + context


def _turns(words: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of spoken tokens, between tokens without a word (the end of a turn, a token out of place)."""
    turns: list[tuple[int, int]] = []
    start = 0
    for place in range(len(words) + 1):
        if place == len(words) or words[place] < 0:
            if place > start:
                turns.append((start, place))
            start = place + 1
    return turns


class EchoBatch(TypedDict, total=False):
    """A batch of stage "echo".

    Attributes:
        s2t: inputs of S2T with labels.
        reply_texts: the reply of each dialogue; empty for a dialogue with several replies.
        said: what the model says, once the batch is prepared. made: targets, once they are made.
    """

    s2t: dict[str, Tensor]
    reply_texts: list[str]
    said: Said
    made: MadeTargets


Labelled = tuple[Segments, Tensor, Tensor]
"""The segments of a batch that have a target, their unit words (S, U), -100 padded, and the words those belong to."""
Asked = Sequence[tuple[Segments, EchoBatch]]
"""The segments of several batches, and the batches."""


class Targets(ABC):
    """Where unit words come from."""

    @abstractmethod
    def reply_ids(self, own_ids: Tensor, reference: Tensor) -> Tensor:
        """The tokens (B, R) to speak: the model's own, or the reference's."""

    @abstractmethod
    def begin(self, asked: Asked, ahead: bool = False) -> Callable[[], list[Labelled]]:
        """Begin to make the targets of several batches; the function that is returned waits for them.

        Args:
            asked: segments, and their batches.
            ahead: make them in another thread, where that takes time.
        """

    @abstractmethod
    def num_known(self, segments: Segments) -> int:
        """Number of segments whose target is at hand: nothing has to be decoded for them."""

    def __call__(self, segments: Segments, batch: EchoBatch) -> Labelled:
        """The targets of one batch, now."""
        (found,) = self.begin([(segments, batch)])()
        return found


@dataclass
class Said:
    """Replies of a batch, cut into segments.

    Attributes:
        reply_ids: (B, R) tokens to speak, padded with -1.
        segments: all of them.
    """

    reply_ids: Tensor
    segments: Segments


@dataclass
class MadeTargets:
    """The targets of a batch of replies.

    Attributes:
        reply_ids: (B, R) tokens to speak, padded with -1.
        segments: S segments of them that have a target.
        unit_words: (S, U), -100 padded. unit_word_of: (S, U) word of each, -1 padded.
        seconds: the time that was waited for them. known_share: part of the replies' segments whose target was at hand.
    """

    reply_ids: Tensor
    segments: Segments
    unit_words: Tensor
    unit_word_of: Tensor
    seconds: float
    known_share: float

    def num_given(self) -> Tensor:
        """Number of targets of the segments' context words, ends included, which are not part of the loss."""
        return given_steps(self.segments, self.unit_word_of).sum()


class RecordedTargets(Targets):
    """For comparison: a recording of the reference reply, cut where the segments are.

    Args:
        recordings: spoken texts; a reply without one has no target.
    """

    def __init__(self, recordings: Sequence[SpokenText]) -> None:
        self._recordings = {recording.text: recording for recording in recordings}

    def reply_ids(self, own_ids: Tensor, reference: Tensor) -> Tensor:
        """The reference's tokens."""
        return reference

    def begin(self, asked: Asked, ahead: bool = False) -> Callable[[], list[Labelled]]:
        """Look up ``batch["reply_texts"]``; takes no time."""
        found = [self._of(segments, batch) for segments, batch in asked]
        return lambda: found

    def _of(self, segments: Segments, batch: EchoBatch) -> Labelled:
        found: list[Label | None] = []
        for (row, first), words in zip(segments.owners, segments.word_ids.tolist(), strict=True):
            recording = self._recordings.get(batch["reply_texts"][row])
            if recording is None:
                found.append(None)
                continue
            cut = recording.cut(first, first + max(words))
            found.append((list(cut.unit_words), [word - first for word in cut.unit_word_of]))
        return padded(segments, found)

    def num_known(self, segments: Segments) -> int:
        """All of them."""
        return len(segments)


def padded(segments: Segments, found: Sequence[Label | None]) -> Labelled:
    """The segments that have a target, and their targets as tensors; see `Labelled`."""
    rows = [row for row, target in enumerate(found) if target is not None and target[0]]
    if len(rows) < len(segments):
        segments = segments.kept(rows)
    device = segments.token_ids.device
    targets = [target for target in found if target is not None and target[0]]
    if not targets:
        empty = torch.zeros(0, 1, dtype=torch.long, device=device)
        return segments, empty, empty
    return (
        segments,
        pad_sequences([words for words, _ in targets], IGNORE_INDEX).to(device),
        pad_sequences([word_of for _, word_of in targets], -1).to(device),
    )
