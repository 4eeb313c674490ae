"""A tiny world for tests of T2C and Echo: a text model with its tokenizer, a unit language, spoken replies."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from echox.data.manifest import Dialogue, Turn, UnitUtterance, write_dialogues, write_unit_utterances
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig, whisper_config
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig

REPLIES = (
    "The capital of France is Paris. It is a fine city.",
    "A dog says woof.",
    "Good morning! How are you?",
    "Seven times six is forty two.",
    "Red is a colour. Green is a colour too. Blue as well.",
    "The opposite of hot is cold.",
)
NUM_UNITS = 12


def tokenizer() -> PreTrainedTokenizerFast:
    return train_text_tokenizer(list(REPLIES) * 3, 340)


def language_model(vocab_size: int, hidden_size: int = 32) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=5,
    )
    return LlamaForCausalLM(config).eval()


def unit_language() -> UnitLanguage:
    words = [(unit,) for unit in range(NUM_UNITS)] + [(0, 1), (2, 3), (4, 5, 6)]
    return UnitLanguage(words, [-2.0] * NUM_UNITS + [-2.5] * 3)


def unit_utterances() -> list[UnitUtterance]:
    """Every word is said in its own way, always the same: three to five units without repeats."""
    items = []
    for number, text in enumerate(REPLIES):
        units: list[int] = []
        word_of: list[int] = []
        for place, word in enumerate(text.split()):
            rng = random.Random(word)
            for _ in range(rng.randint(3, 5)):
                units.append(rng.choice([unit for unit in range(NUM_UNITS) if not units or unit != units[-1]]))
                word_of.append(place)
        split = "heldout" if number == 1 else "train"
        items.append(UnitUtterance(f"r{number}", text, tuple(units), (2,) * len(units), tuple(word_of), split))
    return items


def write_world(folder: Path) -> Path:
    """``lm/``, ``unit_language/``, ``units.jsonl`` and ``dialogues.jsonl`` under `folder`."""
    words = tokenizer()
    words.save_pretrained(folder / "lm")
    language_model(len(words)).save_pretrained(folder / "lm")
    unit_language().save_pretrained(folder / "unit_language")
    write_unit_utterances(folder / "units.jsonl", unit_utterances())
    dialogues = [
        Dialogue(
            f"d{number}",
            (Turn("user", text=f"Tell me {number}."), Turn("assistant", text=text)),
            split="heldout" if number == 1 else "train",
        )
        for number, text in enumerate(REPLIES)
    ]
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    return folder


def tiny_echox_config(form: str = "word_synchronous", vocoder: bool = True, **values) -> EchoXConfig:
    """A whole model of some thousand parameters, on a vocabulary of 340."""
    audio = whisper_config(
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        num_mel_bins=8,
        max_source_positions=100,
    )
    s2t = S2TConfig(
        audio_config=audio, text_config=language_model(340).config, audio_token_id=6, adapter_attention_heads=2
    )
    decoder = UnitDecoderConfig(
        form=form,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=48,
        text_hidden_size=32,
        text_vocab_size=340,
        num_unit_words=15,
        max_unit_words=40,
        max_unit_words_per_word=6,
        initializer_range=0.2,
    )
    light = LightVocoderConfig(
        num_units=NUM_UNITS,
        unit_hidden_size=8,
        unit_intermediate_size=16,
        num_unit_layers=1,
        hidden_size=8,
        intermediate_size=16,
        num_frame_layers=1,
        num_mel_bins=20,
        fft_size=512,
    )
    return EchoXConfig(s2t, decoder, light if vocoder else None, initializer_range=0.2, **values)


def tiny_echox(**values) -> EchoXForConditionalGeneration:
    torch.manual_seed(0)
    return EchoXForConditionalGeneration(tiny_echox_config(**values)).eval()
