"""The unit decoder of the official release: one vocabulary of text and unit words, and a prompt of text tokens.

Input: ``[prefix tokens] [states] [suffix tokens] unit words end``, all of them vectors of the language model's width,
which one Linear maps to the decoder's width. Outputs 0 .. V - 1 are text tokens, V + k is unit word k.

Letters: B rows, R states of a row, U unit words, V text vocabulary, H width of the states, D width of the decoder.

Source: EchoX (arXiv 2509.09174, section 3.2); docs/official-weights.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_prefix import PrefixDecoder
from echox.models.t2c.modeling_unit_decoder import IGNORED, UnitDecoderOutput


class TextPrefixDecoder(PrefixDecoder):
    """`PrefixDecoder` over text and unit words.

    All states of a segment are inputs, also those of special tokens: only padding is left out.

    Args:
        config: sizes, ``prompt_prefix_ids``, ``prompt_suffix_ids``, ``end_token_id``.
    """

    reads_silent_tokens = True

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        self.backbone.register_module("embed_tokens", None)  # its inputs are vectors
        self.text_embedding = nn.Embedding(config.text_vocab_size, config.text_hidden_size)
        self.unit_embedding = nn.Embedding(config.num_unit_words, config.text_hidden_size)
        outputs = config.text_vocab_size + config.num_unit_words
        self.unit_head = nn.Linear(config.hidden_size, outputs, bias=False)
        self.post_init()

    @property
    def prefix_ids(self) -> list[int]:
        """Text tokens before the states."""
        stray = self.config.compatible.stray_unit_prompt_id
        return [*self.config.prompt_prefix_ids, *([] if stray is None else [stray])]

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors (..., H) of text tokens and unit words (...), from two separate tables."""
        text = F.embedding(ids.clamp(max=self.config.text_vocab_size - 1), self.text_embedding.weight.detach())
        units = F.embedding((ids - self.config.text_vocab_size).clamp(min=0), self.unit_embedding.weight)
        return torch.where((ids < self.config.text_vocab_size).unsqueeze(-1), text, units)

    def embed_outputs(self, outputs: Tensor) -> Tensor:
        """Input vectors (..., D) of earlier outputs (...)."""
        return self.state_projection(self.embed(outputs))

    def unit_word_of_output(self, output: int) -> int | None:
        """The unit word; None for a text token."""
        word = output - self.config.text_vocab_size
        return word if word >= 0 else None

    def prompt(self, states: Tensor, word_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt vectors (B, P, D), padded on the left, and their mask (B, P): True where real."""
        rows = len(states)
        around = []
        for ids in (self.prefix_ids, self.config.prompt_suffix_ids):
            vectors = self.embed(torch.tensor(ids, dtype=torch.long, device=states.device))
            around.append(vectors.to(states.dtype).expand(rows, -1, -1))
        prefix, suffix = around
        known = torch.cat([word_ids.new_zeros(prefix.shape[:2]), word_ids, word_ids.new_zeros(suffix.shape[:2])], 1)
        return super().prompt(torch.cat([prefix, states, suffix], 1), known)

    def forward(
        self,
        states: Tensor,
        word_ids: Tensor,
        unit_words: Tensor,
        unit_word_of: Tensor,
        word_letters: Tensor | None = None,
        packed: bool = False,
    ) -> UnitDecoderOutput:
        """See `PrefixDecoder.forward`. Targets and logits are over text and unit words."""
        outputs = torch.where(unit_words == IGNORED, IGNORED, unit_words + self.config.text_vocab_size)
        return super().forward(states, word_ids, outputs, unit_word_of, packed=packed)

    def _noisy(self, outputs: Tensor) -> Tensor:
        first = self.config.text_vocab_size
        units = outputs >= first
        return torch.where(units, first + super()._noisy((outputs - first).clamp(min=0)), outputs)
