"""The word-synchronous unit decoder: every step knows its text word.

Letters: B rows, R states of a row, W text words, U unit words, T steps, H width of the states, D width of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echox.models.decoding.lean_llama import LeanSteps
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_unit_decoder import IGNORED, UnitDecoder, UnitDecoderOutput, UnitSequence
from echox.models.t2c.text_words import TextWords


class WordSynchronousDecoder(UnitDecoder):
    """Generates word by word: each step reads the current text word, its neighbours and the previous unit word.

    A word's vector is the mean over its tokens. Input of a step: embedding of the previous output + vector of the
    current word + linear maps of the neighbours' vectors. The end output moves to the next word; after the end of the
    last word the row is finished.

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
        self.post_init()

    def word_vectors(self, states: Tensor, words: TextWords) -> Tensor:
        """One vector per text word (B, W, D), zero beyond the last word of a row."""
        place = words.place.clamp(max=self.config.max_word_tokens - 1)
        tokens = F.gelu(self.token_projection(self._scaled(states)) + self.place_embedding(place))
        numbers = torch.arange(words.names.shape[1], device=states.device)
        belongs = (words.local.unsqueeze(1) == numbers[:, None]).to(tokens.dtype)  # (B, W, R)
        pooled = (belongs / belongs.sum(2, keepdim=True).clamp(min=1)) @ tokens
        # Under autocast the projection is in half precision and the norm's weight is not.
        vectors = self.word_norm(self.word_projection(pooled).to(self.word_norm.weight.dtype))
        return vectors * (words.names >= 0).unsqueeze(2)

    def conditions(self, vectors: Tensor) -> Tensor:
        """The condition of every step of a word (B, W, D): its own vector and its neighbours'."""
        total = vectors
        for distance, projection in enumerate(self.next_projections, 1):
            total = total + projection(F.pad(vectors[:, distance:], (0, 0, 0, min(distance, vectors.shape[1]))))
        for distance, projection in enumerate(self.previous_projections, 1):
            total = total + projection(F.pad(vectors, (0, 0, distance, 0))[:, : vectors.shape[1]])
        return total

    def layout(self, words: TextWords, unit_words: Tensor, unit_word_of: Tensor) -> tuple[Tensor, Tensor]:
        """Targets (B, T) with an end after every word and -100 as padding; the word number (B, T) of every step."""
        real = unit_words != IGNORED
        number = words.number(unit_word_of, real)
        rows, size = unit_words.shape
        width = words.names.shape[1]
        ends = torch.arange(width, device=unit_words.device).expand(rows, width)
        sizes = torch.zeros_like(ends).scatter_add(1, number, real.long())
        end_steps = sizes.cumsum(1) + ends
        exists = words.names >= 0
        steps = size + width
        targets = unit_words.new_full((rows, steps + 1), IGNORED)  # the last column takes what is padding
        word_of_step = torch.zeros_like(targets)
        unit_steps = (torch.arange(size, device=unit_words.device) + number).masked_fill(~real, steps)
        end_steps = end_steps.masked_fill(~exists, steps)
        targets.scatter_(1, unit_steps, unit_words).scatter_(1, end_steps, self.end_id)
        word_of_step.scatter_(1, unit_steps, number).scatter_(1, end_steps, ends)
        used = int((sizes.sum(1) + words.counts).max())
        targets[:, steps] = IGNORED
        return targets[:, :used], word_of_step[:, :used]

    def num_targets(self, word_ids: Tensor, unit_words: Tensor) -> Tensor:
        """Number of unit words, and of words, which have an end each."""
        return (unit_words != IGNORED).sum() + TextWords.of(word_ids).counts.sum()

    def forward(self, states: Tensor, word_ids: Tensor, unit_words: Tensor, unit_word_of: Tensor) -> UnitDecoderOutput:
        """See `UnitDecoder.forward`."""
        self._check(states, word_ids)
        if not len(states):
            return self._empty_output(states)
        words = TextWords.of(word_ids)
        targets, word_of_step = self.layout(words, unit_words, unit_word_of)
        outputs = torch.where(targets == IGNORED, self.end_id, targets)
        previous = self._noisy(F.pad(outputs, (1, 0), value=self.end_id)[:, :-1])
        conditions = self.conditions(self.word_vectors(states, words))
        of_steps = conditions.gather(1, word_of_step.unsqueeze(2).expand(-1, -1, conditions.shape[2]))
        # Padding is on the right and attention looks back: no mask is needed.
        inputs = self.dropout(self.backbone.embed_tokens(previous) + of_steps)
        return self._output(self.backbone(inputs_embeds=inputs, use_cache=False).last_hidden_state, targets)

    def _generate(
        self, states: Tensor, word_ids: Tensor, choose_outputs: Callable[[Tensor], Tensor], limit: int
    ) -> list[UnitSequence]:
        config, words = self.config, TextWords.of(word_ids)
        embedding, head, end = self.backbone.embed_tokens.weight, self.unit_head.weight, self.end_id
        conditions = self.conditions(self.word_vectors(states.to(embedding.dtype), words))
        width, flat = conditions.shape[1], conditions.flatten(0, 1)
        active = (words.counts > 0).nonzero().squeeze(1)
        counts, base = words.counts[active], active * width
        pointer, in_word = torch.zeros_like(active), torch.zeros_like(active)
        previous = torch.full_like(active, end)
        made: list[tuple[Tensor, Tensor]] = []
        steps = LeanSteps(self.backbone, len(active), capacity=64 + 4 * width)
        while len(active) and len(made) < limit + width:
            inputs = embedding[previous] + flat[base + pointer.clamp(max=width - 1)]
            logits = F.linear(steps.advance(inputs.unsqueeze(1)).squeeze(1), head)
            if config.force_sound:
                logits[:, end].masked_fill_(in_word == 0, -torch.inf)
            previous = choose_outputs(logits)
            previous = previous.masked_fill(in_word >= config.max_unit_words_per_word, end)
            made.append((active, previous))
            ended = previous == end
            pointer = pointer + ended
            in_word = (in_word + 1).masked_fill(ended, 0)
            done = pointer >= counts
            finished_rows = int(done.sum())
            if finished_rows == len(active):
                break
            if 2 * finished_rows >= len(active):
                rows = (~done).nonzero().squeeze(1)
                steps.keep_rows(rows)
                active, counts, base, pointer, in_word, previous = (
                    value[rows] for value in (active, counts, base, pointer, in_word, previous)
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
