"""The sizes of a unit decoder of some thousand parameters, for tests of its parts."""

from __future__ import annotations

from echox.models.t2c.configuration_t2c import UnitDecoderConfig


def tiny_decoder(form: str = "word_synchronous", **sizes: object) -> UnitDecoderConfig:
    """The configuration; `sizes` replace or join these."""
    usual: dict[str, object] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "text_hidden_size": 24,
        "text_vocab_size": 40,
        "num_unit_words": 20,
        "initializer_range": 0.2,
    }
    return UnitDecoderConfig(form=form, **(usual | sizes))
