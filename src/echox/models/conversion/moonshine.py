"""Moonshine from the files of its package: ONNX-runtime weights and a list of tokens, into transformers' own classes.

The package ``moonshine-voice`` carries ``encoder_model.ort``, ``decoder_model_merged.ort`` and ``tokenizer.bin`` of
Moonshine tiny (English, MIT). Their weights are in 8 bits; they are dequantised, so that training can reach all layers.

Source: Moonshine (https://arxiv.org/abs/2410.15608); https://github.com/moonshine-ai/moonshine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from echox.models.conversion.file_formats.ort_file import module_weights, read_ort
from echox.models.conversion.moonshine_files import DECODER_FILE, ENCODER_FILE, TOKENS_FILE, check_files, read_tokens

HEAD_WIDTH_MULTIPLE = 8
"""Attention heads are padded to a multiple of this, which the exported files do too."""
_UNKNOWN, _BEGIN, _END = "<unk>", "<s>", "</s>"
_SPACE = "\u2581"
_HEADS = {288: 8, 416: 8}
"""Attention heads by width: tiny and base. (The files do not name them.)"""
_MAX_TOKENS = {288: 194, 416: 194}
"""Longest transcript that the released models were trained with, by width."""


def open_ort_moonshine(folder: Path) -> tuple[MoonshineForConditionalGeneration, PreTrainedTokenizerFast]:
    """Model (float32, in eval mode) and tokenizer from the files of the package.

    Raises:
        ValueError: a file is missing or damaged, or its weights are not those of a Moonshine.
    """
    check_files(folder)
    weights = {
        f"model.encoder.{name}": value for name, value in module_weights(read_ort(folder / ENCODER_FILE)).items()
    }
    weights |= module_weights(read_ort(folder / DECODER_FILE))
    config = moonshine_config(weights, folder)
    with torch.device("meta"):
        model = MoonshineForConditionalGeneration(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in weights.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise ValueError(
            f"{folder}: expected the weights of a Moonshine, found {len(wrong)} that are missing, of another shape or "
            f"unknown: {', '.join(wrong[:4])}; name a version of the package that holds this model"
        )
    model = MoonshineForConditionalGeneration(config)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    tokenizer = moonshine_tokenizer(read_tokens(folder / TOKENS_FILE))
    if len(tokenizer) != config.vocab_size:
        raise ValueError(
            f"{folder}: expected {config.vocab_size} tokens in {TOKENS_FILE}, found {len(tokenizer)}; install the "
            "package again"
        )
    return model.eval(), tokenizer


def moonshine_config(weights: Mapping[str, np.ndarray], folder: Path) -> MoonshineConfig:
    """Sizes of a Moonshine by the shapes of its weights.

    Raises:
        ValueError: no Moonshine, or one of an unknown width.
    """
    embedding = weights.get("model.decoder.embed_tokens.weight")
    fc1 = weights.get("model.encoder.layers.0.mlp.fc1.weight")
    if embedding is None or fc1 is None or embedding.shape[1] not in _HEADS:
        raise ValueError(
            f"{folder}: expected a Moonshine of width {' or '.join(map(str, _HEADS))}, found "
            f"{'none' if embedding is None else embedding.shape}; name a folder or hub id of transformers instead"
        )
    vocabulary, width = embedding.shape
    heads = _HEADS[width]
    return MoonshineConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=fc1.shape[0],
        encoder_num_hidden_layers=_layers(weights, "model.encoder.layers."),
        decoder_num_hidden_layers=_layers(weights, "model.decoder.layers."),
        encoder_num_attention_heads=heads,
        decoder_num_attention_heads=heads,
        pad_head_dim_to_multiple_of=HEAD_WIDTH_MULTIPLE,
        max_position_embeddings=_MAX_TOKENS[width],
        pad_token_id=2,
    )


def _layers(weights: Mapping[str, np.ndarray], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix))


def moonshine_tokenizer(tokens: Sequence[bytes]) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE tokenizer of these tokens; ids are ranks of merges, as in SentencePiece's BPE models.

    Raises:
        ValueError: other special tokens at the beginning than Moonshine has.
    """
    special = [token.decode("utf-8", "replace") for token in tokens[:3]]
    if special != [_UNKNOWN, _BEGIN, _END]:
        raise ValueError(f"tokens: expected {_UNKNOWN}, {_BEGIN}, {_END} first, found {', '.join(special)}")
    first_byte = next((place for place, token in enumerate(tokens) if token == b"\x00"), len(tokens))
    pieces = []
    for place, token in enumerate(tokens):
        is_byte = first_byte <= place < first_byte + 256 and token == bytes([place - first_byte])
        pieces.append(f"<0x{place - first_byte:02X}>" if is_byte else token.decode("utf-8"))
    ids = {piece: place for place, piece in enumerate(pieces)}
    if len(ids) != len(pieces):
        raise ValueError(f"tokens: expected each token once, found {len(pieces) - len(ids)} twice")
    added = [piece for piece in pieces if piece in special or piece.startswith("<<ST_")]
    learned = [piece for piece in pieces[first_byte + 256 :] if piece not in set(added)]
    tokenizer = Tokenizer(models.BPE(ids, _merges(learned, ids), unk_token=_UNKNOWN, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=_UNKNOWN,
        bos_token=_BEGIN,
        eos_token=_END,
        pad_token=_END,
        clean_up_tokenization_spaces=False,
    )


def _merges(learned: Sequence[str], ids: Mapping[str, int]) -> list[tuple[str, str]]:
    """Merges in the order of the pieces that they make; each way of splitting a piece into two pieces is one."""
    return [
        (piece[:cut], piece[cut:])
        for piece in learned
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
