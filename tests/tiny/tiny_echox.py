"""A whole EchoX model with random weights: small enough for a test, complete enough to hear, write and speak."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlamaConfig, PreTrainedTokenizerFast, WhisperFeatureExtractor

from echox.api import EchoX
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig, whisper_config
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig
from echox.streaming import GenerationSettings

TEXTS = [
    "What is the capital of France?",
    "The capital of France is Paris.",
    "Tell me about the sea. It is wide and blue and deep.",
    "A dog barks. A cat meows. A cow moos.",
]
torch.set_num_threads(1)  # models this small only lose by threads, and lose everything on a busy machine

WINDOW_S = 2.0  # what the tiny encoder sees at once


def tiny_echox(
    seed: int = 0,
    form: str = "word_synchronous",
    max_positions: int = 512,
    unit_words_per_word: int = 80,
    hidden_size: int = 24,
    tokenizer: PreTrainedTokenizerFast | None = None,
    **config: object,
) -> EchoX:
    """Build it; the same seed gives the same weights. The form "spelling" is word-synchronous and reads letters.

    Fewer `unit_words_per_word` make shorter speech, which costs less.
    """
    torch.manual_seed(seed)
    letters, form = (16, "word_synchronous") if form == "spelling" else (0, form)
    tokenizer = tokenizer or train_text_tokenizer(TEXTS, vocab_size=340)
    words = [(unit,) for unit in range(12)] + [(1, 2), (3, 4, 5)]
    language = UnitLanguage(words, [float(np.log(1 / len(words)))] * len(words))
    audio = whisper_config(
        num_mel_bins=80,
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        max_source_positions=int(WINDOW_S * 50),
        dropout=0.0,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=max_positions,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.5,  # large, so that replies differ and no step hangs on a tie
    )
    s2t = S2TConfig(
        audio,
        text,
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio|>"),
        adapter_attention_heads=2,
        drop_blanks=True,
        initializer_range=0.3,
    )
    echo = UnitDecoderConfig(
        form=form,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        text_hidden_size=hidden_size,
        text_vocab_size=len(tokenizer),
        num_unit_words=len(language),
        max_unit_words=200,
        max_unit_words_per_word=unit_words_per_word,
        max_word_letters=letters,
    )
    vocoder = LightVocoderConfig(
        num_units=12,
        unit_hidden_size=8,
        unit_intermediate_size=8,
        num_unit_layers=1,
        hidden_size=8,
        intermediate_size=8,
        num_frame_layers=1,
        fft_size=512,
        num_mel_bins=20,
    )
    trigger = {
        "trigger_min_tokens": 3,
        "trigger_max_tokens": 6,
        "trigger_lookahead_tokens": 2,
        "trigger_threshold": -0.5,
    }
    model = EchoXForConditionalGeneration(EchoXConfig(s2t, echo, vocoder, **{**trigger, **config}))
    _prefer_words(model, tokenizer)
    extractor = WhisperFeatureExtractor(feature_size=80)
    # Unit words are sampled: decoded greedily, random weights only repeat themselves.
    settings = GenerationSettings(max_new_tokens=24, temperature=1.0, echo_temperature=1.0, max_question_s=20.0)
    return EchoX(model, EchoXProcessor(extractor, tokenizer, language), settings)


def _prefer_words(model: EchoXForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Make tokens that begin a word likelier than single bytes, so that random replies have words and segments."""
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    scale = torch.tensor([1.5 if piece.startswith("Ġ") and len(piece) > 1 else 0.3 for piece in pieces])
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(scale[:, None])


def tone(duration_s: float = 1.0, seed: int = 0, sampling_rate: int = 16000) -> np.ndarray:
    """Something to hear: a gliding tone with noise, float32 (S,)."""
    rng = np.random.default_rng(seed)
    times_s = np.arange(int(duration_s * sampling_rate)) / sampling_rate
    glide = 0.3 * np.sin(2 * np.pi * (200 + 300 * times_s / max(duration_s, 1e-9)) * times_s * (1 + 0.1 * seed))
    return (glide + 0.02 * rng.standard_normal(len(times_s))).astype(np.float32)


def of(kind: type | tuple[type, ...], events: list) -> list:
    """Events of a kind."""
    return [event for event in events if isinstance(event, kind)]
