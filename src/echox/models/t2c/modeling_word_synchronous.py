"""The word-synchronous unit decoder: every step knows its text word, and may look at its letters.

Letters: B rows, R states of a row, W text words, C letters of a word, U unit words, T steps, I inputs, H width of the
states, D width of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from echox.models import packing
from echox.models.decoding.lean_llama import LeanSteps
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_letters import LetterEncoder
from echox.models.t2c.modeling_unit_decoder import IGNORED, UnitDecoder, UnitDecoderOutput, UnitSequence
from echox.models.t2c.text_words import TextWords

READ_TOGETHER = 3
"""`generate` reads letters as soon as one in this many rows has some to read: every reading advances all rows."""


@dataclass
class Layout:
    """The steps of a batch, one for each unit word and one for the end after each word.

    Attributes:
        targets: (B, T) outputs; -100 as padding.
        word_of_step: (B, T) number of each step's word; at the padding the row's last.
        in_word: (B, T) number of the step in its word.
        first_steps: (B, W) the first step of each word.
    """

    targets: Tensor
    word_of_step: Tensor
    in_word: Tensor
    first_steps: Tensor


@dataclass
class TextVectors:
    """What the decoder knows of the words of a text.

    Attributes:
        words: (B, W, D), what each word is; 0 beyond the last word of a row.
        conditions: (B, W, D), part of the input of every step of a word: itself and its neighbours.
        letters: (B, W, C, D) inputs before the first step of each word; C = 0 without letters.
        letter_counts: (B, W) numbers of those that are real; they come first.
    """

    words: Tensor
    conditions: Tensor
    letters: Tensor
    letter_counts: Tensor


class WordSynchronousDecoder(UnitDecoder):
    """Generates word by word: each step reads the current text word, its neighbours and the previous unit word.

    A word's vector is the mean over its tokens. Input of a step: embedding of the previous output + vector of the
    current word + linear maps of the neighbours' vectors. The end output moves to the next word; after the end of the
    last word the row is finished.

    With ``max_word_letters`` the inputs of a word begin with its letters, which every step of the word can attend to,
    and their mean is part of the word's vector, also for its neighbours. Words that training never met are spoken so.

    This form is ours; docs/ablations.md, row e, compares it with the paper's.
    """

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        width = config.hidden_size

        def neighbours(count: int) -> nn.ModuleList:
            return nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(count))

        self.token_projection = nn.Linear(config.text_hidden_size, width)
        self.place_embedding = nn.Embedding(config.max_word_tokens, width)
        self.word_projection = nn.Linear(width, width)
        self.word_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.next_projections = neighbours(config.lookahead_words)
        self.previous_projections = neighbours(config.lookback_words)
        if config.max_word_letters:
            self.letter_encoder = LetterEncoder(
                width, config.max_word_letters, config.num_letter_layers, config.rms_norm_eps
            )
            self.letter_projection = nn.Linear(width, width, bias=False)
            self.step_embedding = nn.Embedding(config.max_unit_words_per_word + 1, width)
        self.post_init()

    @property
    def reads_letters(self) -> bool:
        """Whether `word_letters` are inputs."""
        return self.config.max_word_letters > 0

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LetterEncoder):  # letters must stay apart below the convolutions
            init.normal_(module.letter_embedding.weight, std=1.0)

    def word_vectors(self, states: Tensor, words: TextWords, spelling: Tensor | None = None) -> Tensor:
        """One vector per text word (B, W, D), zero beyond the last word of a row.

        Args:
            states: (B, R, H).
            words: of the states.
            spelling: (B, W, D) mean of the vectors of each word's letters, for a decoder that reads letters.
        """
        place = words.place.clamp(max=self.config.max_word_tokens - 1)
        tokens = F.gelu(self.token_projection(self._scaled(states)) + self.place_embedding(place))
        numbers = torch.arange(words.names.shape[1], device=states.device)
        belongs = (words.local.unsqueeze(1) == numbers[:, None]).to(tokens.dtype)  # (B, W, R)
        pooled = (belongs / belongs.sum(2, keepdim=True).clamp(min=1)) @ tokens
        if self.training and self.config.word_token_dropout:
            shown = torch.rand(pooled.shape[:2], device=pooled.device) >= self.config.word_token_dropout
            pooled = pooled * shown.unsqueeze(2)
        projected = self.word_projection(pooled)
        if spelling is not None:
            projected = projected + self.letter_projection(spelling.to(projected.dtype))
        # Under autocast the projection is in half precision and the norm's weight is not.
        vectors = self.word_norm(projected.to(self.word_norm.weight.dtype))
        return vectors * (words.names >= 0).unsqueeze(2)

    def conditions(self, vectors: Tensor) -> Tensor:
        """The condition of every step of a word (B, W, D): its own vector and its neighbours'."""
        total = vectors
        for distance, projection in enumerate(self.next_projections, 1):
            total = total + projection(F.pad(vectors[:, distance:], (0, 0, 0, min(distance, vectors.shape[1]))))
        for distance, projection in enumerate(self.previous_projections, 1):
            total = total + projection(F.pad(vectors, (0, 0, distance, 0))[:, : vectors.shape[1]])
        return total

    def read_letters(self, word_letters: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, W, C, D) of letters (B, W, C), 0 where there is none, and the mean of those of each word."""
        letters = self.letter_encoder(word_letters)
        return letters, letters.sum(2) / (word_letters >= 0).sum(2, keepdim=True).clamp(min=1)

    def text_vectors(self, states: Tensor, words: TextWords, word_letters: Tensor | None) -> TextVectors:
        """All that is known of the words of a text; arguments as in `forward`.

        Raises:
            ValueError: letters that are missing, or of fewer words than the text has, or too many of a word.
        """
        rows, width = words.names.shape
        if not self.reads_letters:
            vectors = self.word_vectors(states, words)
            none = vectors.new_zeros(rows, width, 0, self.config.hidden_size)
            return TextVectors(vectors, self.conditions(vectors), none, words.names.new_zeros(rows, width))
        limit = self.config.max_word_letters
        found = () if word_letters is None else tuple(word_letters.shape)
        if word_letters is None or len(found) != 3 or found[0] != rows or found[1] < width or found[2] > limit:
            raise ValueError(
                f"word_letters: expected the letters of each word, ({rows}, {width} or more, up to {limit}), found "
                f"{found or None}: this decoder reads letters (max_word_letters)"
            )
        word_letters = word_letters[:, :width]
        letters, spelling = self.read_letters(word_letters)
        vectors = self.word_vectors(states, words, spelling)
        return TextVectors(vectors, self.conditions(vectors), letters, (word_letters >= 0).sum(2))

    def step_inputs(self, previous: Tensor, conditions: Tensor, in_word: Tensor) -> Tensor:
        """Inputs (..., D) of steps.

        Args:
            previous: (...) output before each step.
            conditions: (..., D) of the steps' words.
            in_word: (...) number of each step in its word.
        """
        inputs = self.embed_outputs(previous) + conditions
        if self.reads_letters:
            inputs = inputs + self.step_embedding(in_word.clamp(max=self.config.max_unit_words_per_word))
        return inputs

    def layout(self, words: TextWords, unit_words: Tensor, unit_word_of: Tensor) -> Layout:
        """The steps of a text with known unit words; arguments as in `forward`."""
        real = unit_words != IGNORED
        number = words.number(unit_word_of, real)
        rows, size = unit_words.shape
        width = words.names.shape[1]
        ends = torch.arange(width, device=unit_words.device).expand(rows, width)
        sizes = torch.zeros_like(ends).scatter_add(1, number, real.long())
        end_steps = sizes.cumsum(1) + ends
        first_steps = end_steps - sizes
        exists = words.names >= 0
        steps = size + width
        targets = unit_words.new_full((rows, steps + 1), IGNORED)  # the last column takes what is padding
        word_of_step = torch.full_like(targets, width - 1)
        unit_steps = (torch.arange(size, device=unit_words.device) + number).masked_fill(~real, steps)
        end_steps = end_steps.masked_fill(~exists, steps)
        targets.scatter_(1, unit_steps, unit_words).scatter_(1, end_steps, self.end_id)
        word_of_step.scatter_(1, unit_steps, number).scatter_(1, end_steps, ends)
        used = int((sizes.sum(1) + words.counts).max())
        word_of_step = word_of_step[:, :used].masked_fill(targets[:, :used] == IGNORED, width - 1)
        in_word = torch.arange(used, device=unit_words.device) - first_steps.gather(1, word_of_step)
        return Layout(targets[:, :used], word_of_step, in_word.clamp(min=0), first_steps)

    def num_targets(self, word_ids: Tensor, unit_words: Tensor) -> Tensor:
        """Number of unit words, and of words, which have an end each."""
        return (unit_words != IGNORED).sum() + TextWords.of(word_ids).counts.sum()

    def forward(
        self,
        states: Tensor,
        word_ids: Tensor,
        unit_words: Tensor,
        unit_word_of: Tensor,
        word_letters: Tensor | None = None,
        packed: bool = False,
    ) -> UnitDecoderOutput:
        """See `UnitDecoder.forward`."""
        self._check(states, word_ids)
        if not len(states):
            return self._empty_output(states)
        words = TextWords.of(word_ids)
        steps = self.layout(words, unit_words, unit_word_of)
        outputs = torch.where(steps.targets == IGNORED, self.end_id, steps.targets)
        previous = self._noisy(F.pad(outputs, (1, 0), value=self.end_id)[:, :-1])
        text = self.text_vectors(states, words, word_letters)
        conditions = text.conditions.gather(1, _wide(steps.word_of_step, text.conditions.shape[2]))
        inputs, places = _with_letters(self.step_inputs(previous, conditions, steps.in_word), steps, text)
        inputs = self.dropout(inputs)
        counts = (steps.targets != IGNORED).sum(1) + text.letter_counts.sum(1)
        input_mask = torch.arange(inputs.shape[1], device=inputs.device) < counts[:, None]
        if packed:
            hidden = packing.run(self.backbone, inputs, input_mask)
        else:  # padding is on the right and attention looks back: no mask is needed
            hidden = self.backbone(inputs_embeds=inputs, use_cache=False).last_hidden_state
        if places is not None:
            hidden = hidden.gather(1, _wide(places, hidden.shape[2]))
        return self._output(hidden, steps.targets, input_mask)

    def _generate(
        self,
        states: Tensor,
        word_ids: Tensor,
        choose_outputs: Callable[[Tensor], Tensor],
        limit: int,
        word_letters: Tensor | None,
    ) -> list[UnitSequence]:
        config, words = self.config, TextWords.of(word_ids)
        head, end = self.unit_head.weight, self.end_id
        text = self.text_vectors(states.to(head.dtype), words, word_letters)
        width, flat = text.conditions.shape[1], text.conditions.flatten(0, 1)
        letters, letter_counts = text.letters.flatten(0, 1), text.letter_counts.flatten()
        active = (words.counts > 0).nonzero().squeeze(1)
        counts, base = words.counts[active], active * width
        pointer, in_word = torch.zeros_like(active), torch.zeros_like(active)
        previous = torch.full_like(active, end)
        unread = letter_counts[base]  # letters of the present word that are not inputs yet
        left = limit + counts  # outputs, the ends included
        made: list[tuple[Tensor, Tensor]] = []
        steps = LeanSteps(self.backbone, len(active), capacity=64 + (4 + letters.shape[1]) * width)
        while len(active):
            word = base + pointer.clamp(max=width - 1)  # rows that are done stay until half of them are
            # Rows at the beginning of a word wait for each other, so that their letters are read together.
            reading = unread > 0
            if int(reading.sum()) * READ_TOGETHER >= len(active):
                steps.advance(letters[word, : int(unread.max())], unread.tolist())
                unread = torch.zeros_like(unread)
                continue
            inputs = self.step_inputs(previous, flat[word], in_word)
            hidden = steps.advance(inputs.unsqueeze(1), (~reading).long().tolist()).squeeze(1)
            logits = F.linear(hidden, head)
            if config.force_sound:
                logits[:, end].masked_fill_(in_word == 0, -torch.inf)
            output = choose_outputs(logits)
            output = output.masked_fill(in_word >= config.max_unit_words_per_word, end)
            previous = torch.where(reading, previous, output)
            made.append((active[~reading], output[~reading]))
            ended = (previous == end) & ~reading
            pointer = pointer + ended
            in_word = torch.where(reading, in_word, (in_word + 1).masked_fill(ended, 0))
            left = left - (~reading).long()
            done = (pointer >= counts) | (left <= 0)
            unread = torch.where(
                ended & ~done, letter_counts[(base + pointer).clamp(max=len(letter_counts) - 1)], unread
            )
            finished_rows = int(done.sum())
            if finished_rows == len(active):
                break
            if 2 * finished_rows >= len(active):
                rows = (~done).nonzero().squeeze(1)
                steps.keep_rows(rows)
                active, counts, base, pointer, in_word, previous, unread, left = (
                    value[rows] for value in (active, counts, base, pointer, in_word, previous, unread, left)
                )
        return self._collect(made, words, limit)

    def _collect(self, made: list[tuple[Tensor, Tensor]], words: TextWords, limit: int) -> list[UnitSequence]:
        names = words.names.tolist()
        counts = words.counts.tolist()
        sequences = [UnitSequence([], [], finished=count == 0) for count in counts]
        pointers = [0] * len(counts)
        cut = [False] * len(counts)  # longer than the limit: never finished, even if it ends later
        if not made:
            return sequences
        rows, outputs = (torch.cat(parts).tolist() for parts in zip(*made, strict=True))
        for row, output in zip(rows, outputs, strict=True):
            sequence = sequences[row]
            if sequence.finished or cut[row]:
                continue
            if output == self.end_id:
                pointers[row] += 1
                sequence.finished = pointers[row] == counts[row]
            elif len(sequence.unit_words) >= limit:
                cut[row] = True
            else:
                sequence.unit_words.append(output)
                sequence.word_of.append(names[row][pointers[row]])
        return sequences


def _wide(places: Tensor, width: int) -> Tensor:
    """Places (B, T) to gather or scatter vectors (B, T, D) with."""
    return places.unsqueeze(2).expand(-1, -1, width)


def _with_letters(inputs: Tensor, steps: Layout, text: TextVectors) -> tuple[Tensor, Tensor | None]:
    """The inputs (B, I, D) of steps (B, T, D) with the letters of every word before its first, and their places (B, T).

    Without letters, the same inputs and None.
    """
    count, width = text.letters.shape[2:]
    if not count:
        return inputs, None
    read = text.letter_counts.cumsum(1)  # (B, W) up to and with each word
    places = torch.arange(inputs.shape[1], device=inputs.device) + read.gather(1, steps.word_of_step)
    total = inputs.shape[1] + int(read[:, -1].max())
    numbers = torch.arange(count, device=inputs.device)
    of_letters = (steps.first_steps + read - text.letter_counts).unsqueeze(2) + numbers  # (B, W, C)
    of_letters = of_letters.masked_fill(numbers >= text.letter_counts.unsqueeze(2), total)  # a column for the padding
    joint = inputs.new_zeros(len(inputs), total + 1, width)
    joint = joint.scatter(1, _wide(of_letters.flatten(1), width), text.letters.flatten(1, 2).to(inputs.dtype))
    return joint.scatter(1, _wide(places, width), inputs)[:, :total], places
