"""The prefix unit decoder, the paper's form: all states first, then all unit words.

Letters: B rows, R states of a row, P prompt vectors, U unit words, H width of the states, D width of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from echox.models import packing
from echox.models.decoding.lean_llama import LeanSteps
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_unit_decoder import IGNORED, UnitDecoder, UnitDecoderOutput, UnitSequence


class PrefixDecoder(UnitDecoder):
    """The paper's form: ``[prefix] [states] [separator] unit words end``, the states through one Linear.

    Only spoken states (``word_ids >= 0``) enter. `UnitSequence.word_of` is an estimate by proportion: this form
    has no alignment.

    Source: EchoX (arXiv 2509.09174, section 3.2).
    """

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        self.state_projection = nn.Linear(config.text_hidden_size, config.hidden_size)
        self.prefix = nn.Parameter(torch.empty(config.num_prefix_vectors, config.hidden_size))
        self.separator = nn.Parameter(torch.empty(config.num_separator_vectors, config.hidden_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, PrefixDecoder):
            init.normal_(module.prefix, std=module.config.embedding_std)
            init.normal_(module.separator, std=module.config.embedding_std)

    def prompt(self, states: Tensor, word_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt vectors (B, P, D), padded on the left, and their mask (B, P): True where real."""
        spoken = word_ids >= 0
        counts = spoken.sum(1)
        length = max(1, int(counts.max()))
        # States that are not spoken move to the left; the others keep their order.
        order = spoken.long().argsort(dim=1, stable=True)[:, -length:]
        chosen = states.gather(1, order.unsqueeze(2).expand(-1, -1, states.shape[2]))
        real = spoken.gather(1, order)
        rows = len(states)
        # The prefix must be directly before the first real state, so in padded rows it moves behind the padding.
        prefix = self.prefix.expand(rows, -1, -1)
        body = torch.cat([prefix, self.state_projection(self._scaled(chosen))], 1)
        mask = torch.cat([real.new_ones(rows, prefix.shape[1]), real], 1)
        if prefix.shape[1]:
            order = mask.long().argsort(dim=1, stable=True)
            body = body.gather(1, order.unsqueeze(2).expand_as(body))
            mask = mask.gather(1, order)
        separator = self.separator.expand(rows, -1, -1)
        ones = mask.new_ones(rows, separator.shape[1])
        return torch.cat([body, separator.to(body.dtype)], 1), torch.cat([mask, ones], 1)

    def num_targets(self, word_ids: Tensor, unit_words: Tensor) -> Tensor:
        """Number of unit words, and of rows, which have an end each."""
        return (unit_words != IGNORED).sum() + len(unit_words)

    def forward(
        self,
        states: Tensor,
        word_ids: Tensor,
        unit_words: Tensor,
        unit_word_of: Tensor,
        word_letters: Tensor | None = None,
        packed: bool = False,
    ) -> UnitDecoderOutput:
        """See `UnitDecoder.forward`; `unit_word_of` and `word_letters` are not used."""
        self._check(states, word_ids)
        if not len(states):
            return self._empty_output(states)
        real = unit_words != IGNORED
        targets = F.pad(unit_words, (0, 1), value=IGNORED)
        targets = targets.scatter(1, real.sum(1, keepdim=True), self.end_id)
        prompt, prompt_mask = self.prompt(states, word_ids)
        previous = self._noisy(unit_words.masked_fill(~real, self.end_id))
        inputs = torch.cat([prompt, self.embed_outputs(previous).to(prompt.dtype)], 1)
        inputs, input_mask = self.dropout(inputs), torch.cat([prompt_mask, real], 1)
        if packed:
            hidden = packing.run(self.backbone, inputs, input_mask)
        else:
            mask = torch.cat([prompt_mask, prompt_mask.new_ones(unit_words.shape)], 1)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            hidden = self.backbone(
                inputs_embeds=inputs, attention_mask=mask.long(), position_ids=positions, use_cache=False
            ).last_hidden_state
        return self._output(hidden[:, prompt.shape[1] - 1 :], targets, input_mask)

    def _generate(
        self,
        states: Tensor,
        word_ids: Tensor,
        choose_outputs: Callable[[Tensor], Tensor],
        limit: int,
        word_letters: Tensor | None,
    ) -> list[UnitSequence]:
        made: list[tuple[Tensor, Tensor]] = []
        prompt, mask = self.prompt(states.to(self.dtype), word_ids)
        lengths = mask.sum(1)
        # Prompts are padded on the left to train; rows of a memory begin at its first position.
        order = (~mask).long().argsort(dim=1, stable=True)
        prompt = prompt.gather(1, order.unsqueeze(2).expand_as(prompt))
        active = torch.arange(len(states), device=states.device)
        steps = LeanSteps(self.backbone, len(states), capacity=prompt.shape[1] + 256)
        hidden = steps.advance(prompt, lengths.tolist())[active, lengths - 1]
        while len(active):
            output = choose_outputs(self.output_logits(hidden))
            made.append((active, output))
            done = output == self.end_id
            finished_rows = int(done.sum())
            if finished_rows == len(active) or len(made) > limit:
                break
            if 2 * finished_rows >= len(active):
                rows = (~done).nonzero().squeeze(1)
                steps.keep_rows(rows)
                active, output = active[rows], output[rows]
            hidden = steps.advance(self.embed_outputs(output).unsqueeze(1)).squeeze(1)
        return self._collect(made, word_ids, limit)

    def _collect(self, made: list[tuple[Tensor, Tensor]], word_ids: Tensor, limit: int) -> list[UnitSequence]:
        sequences = [UnitSequence([], [], finished=False) for _ in range(len(word_ids))]
        rows, outputs = (torch.cat(parts).tolist() for parts in zip(*made, strict=True)) if made else ([], [])
        for row, output in zip(rows, outputs, strict=True):
            sequence = sequences[row]
            if output == self.end_id:
                sequence.finished = True
            elif not sequence.finished and len(sequence.unit_words) < limit:
                unit_word = self.unit_word_of_output(output)
                if unit_word is not None:
                    sequence.unit_words.append(unit_word)
        for sequence, ids in zip(sequences, word_ids.tolist(), strict=True):
            spoken = [word for word in ids if word >= 0] or [-1]
            count = len(sequence.unit_words)
            sequence.word_of = [spoken[place * len(spoken) // count] for place in range(count)]
        return sequences
