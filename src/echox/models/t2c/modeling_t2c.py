"""T2C (text to codec): the frozen token embedding of the language model, and a unit decoder of any form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from echox.models.pretrained import TypedPreTrainedModel
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.t2c.modeling_prefix import PrefixDecoder
from echox.models.t2c.modeling_t2c_text import TextPrefixDecoder
from echox.models.t2c.modeling_unit_decoder import UnitDecoder, UnitDecoderOutput, UnitSequence
from echox.models.t2c.modeling_word_synchronous import WordSynchronousDecoder

UNIT_DECODERS: dict[str, type[UnitDecoder]] = {
    "word_synchronous": WordSynchronousDecoder,
    "prefix": PrefixDecoder,
    "text_prefix": TextPrefixDecoder,
}
"""The class of each form of `UnitDecoderConfig`."""


def build_unit_decoder(config: UnitDecoderConfig) -> UnitDecoder:
    """The decoder class that the configuration's `form` names."""
    return UNIT_DECODERS[config.form](config)


class T2CForUnitGeneration(TypedPreTrainedModel):
    """Text to codec: the language model's own token embedding, frozen, and a unit decoder (stage II).

    Source: EchoX (arXiv 2509.09174, section 3.2).
    """

    config: UnitDecoderConfig
    config_class = UnitDecoderConfig
    base_model_prefix = "t2c"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        self.text_embedding = nn.Embedding(config.text_vocab_size, config.text_hidden_size)
        self.decoder = build_unit_decoder(config)
        self.post_init()

    def copy_text_embedding(self, weight: Tensor) -> None:
        """Copy the language model's token embedding (text_vocab_size, text_hidden_size).

        Raises:
            ValueError: another shape.
        """
        expected = tuple(self.text_embedding.weight.shape)
        if tuple(weight.shape) != expected:
            raise ValueError(
                f"text embedding: expected shape {expected}, found {tuple(weight.shape)}; "
                "set text_vocab_size and text_hidden_size to the language model's"
            )
        with torch.no_grad():
            self.text_embedding.weight.copy_(weight)

    def embed(self, token_ids: Tensor) -> Tensor:
        """Text embeddings (B, R, H) of token ids (B, R), frozen and without gradient; ids below 0 are padding."""
        return F.embedding(token_ids.clamp(min=0), self.text_embedding.weight.detach())

    def forward(
        self,
        input_ids: Tensor,
        word_ids: Tensor,
        unit_words: Tensor,
        unit_word_of: Tensor,
        word_letters: Tensor | None = None,
        packed: bool = False,
    ) -> UnitDecoderOutput:
        """Teacher forcing of the unit words of a text; arguments as in `UnitDecoder.forward`, with token ids (B, R)."""
        return self.decoder(self.embed(input_ids), word_ids, unit_words, unit_word_of, word_letters, packed)

    def generate(
        self,
        input_ids: Tensor,
        word_ids: Tensor,
        max_unit_words: int | None = None,
        word_letters: Tensor | None = None,
    ) -> list[UnitSequence]:
        """Greedy unit words of a text: token ids and word ids (B, R); see `UnitDecoder.generate`."""
        return self.decoder.generate(
            self.embed(input_ids), word_ids, max_unit_words=max_unit_words, word_letters=word_letters
        )


AutoModel.register(UnitDecoderConfig, T2CForUnitGeneration, exist_ok=True)
