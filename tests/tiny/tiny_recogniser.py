"""A tiny Moonshine with random weights, its tokenizer, and a whole EchoX model that hears with it."""

from __future__ import annotations

import torch
from transformers import MoonshineConfig, MoonshineForConditionalGeneration, PreTrainedTokenizerFast

from echox.api import EchoX
from echox.models.conversion.moonshine import moonshine_tokenizer
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.towers.auto import AutoAudioTower
from tiny_echox import tiny_echox

SPACE = "\u2581"
WORDS = ("what", "is", "the", "capital", "of", "france", "paris", "sea", "tell", "me", "about", "a", "dog", "b\u00e9e")
WINDOW_FRAMES = 60
"""Frames that the tiny tower reads at once: 1.4 s."""


def tiny_tokens(beginnings: bool = False) -> list[bytes]:
    """As in Moonshine's file: special tokens, bytes, pieces; with `beginnings`, words merge letter by letter."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + [SPACE, "\u00e9"]
    words = [*(SPACE + word for word in WORDS), *WORDS, "?", "."]
    begun = [word[:length] for word in words for length in range(2, len(word))] if beginnings else []
    pieces = list(dict.fromkeys([*letters, *begun, *words]))
    return [b"<unk>", b"<s>", b"</s>", *(bytes([code]) for code in range(256)), *(one.encode() for one in pieces)]


def tiny_moonshine(seed: int = 0) -> tuple[MoonshineForConditionalGeneration, PreTrainedTokenizerFast]:
    """Model and tokenizer; random transcripts are words rather than bytes."""
    tokenizer = moonshine_tokenizer(tiny_tokens())
    torch.manual_seed(seed)
    config = MoonshineConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        pad_head_dim_to_multiple_of=8,
        pad_token_id=2,
        initializer_range=0.4,
        window_frames=WINDOW_FRAMES,
    )
    model = MoonshineForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.model.encoder.conv1.weight.mul_(6.0)
        model.model.decoder.embed_tokens.weight[: 3 + 256].mul_(0.2)
        model.model.decoder.embed_tokens.weight[2].mul_(4.0)
    return model, tokenizer


def tiny_hearer(seed: int = 3, gate: float = 0.3, **options: object) -> EchoX:
    """`tiny_echox` with aligner "recogniser"; with this seed replies are whole characters, as tests of memory need."""
    plain = tiny_echox(seed, **options)
    recogniser, tokenizer = tiny_moonshine(seed)
    s2t = S2TForConditionalGeneration.from_recogniser(
        recogniser, plain.model.s2t.language_model, plain.model.s2t.audio_token_id, recogniser_tokens_per_s=12.0
    )
    with torch.no_grad():
        part = s2t.get_submodule("residual_adapter")
        part.gate.fill_(gate)
    model = plain.model
    model.s2t = s2t
    model.config.s2t_config = s2t.config
    processor = EchoXProcessor(
        AutoAudioTower.feature_extractor(s2t.config.audio_config),
        plain.processor.tokenizer,
        plain.processor.unit_language,
        recogniser_tokenizer=tokenizer,
    )
    return EchoX(model.eval(), processor, plain.settings)
