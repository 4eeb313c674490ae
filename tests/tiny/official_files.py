"""Folders in the official release's layout, made of the fixtures in ../shared/golden (golden/FORMAT.md there)."""

from __future__ import annotations

import json
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import WhisperConfig

from echox.models.conversion.checkpoint import StoredTensor
from echox.models.conversion.code_hifigan import fold, vocoder_config
from echox.models.conversion.materialise import materialise
from echox.models.conversion.official import match_tensors, official_config
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from paths import GOLDEN

TOLERANCE = 1e-4


def needs_golden() -> None:
    """Skip the module where the fixtures are not."""
    if not (GOLDEN / "FORMAT.md").is_file():
        pytest.skip(f"needs the reference fixtures in {GOLDEN}", allow_module_level=True)


@cache
def golden_json(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


@cache
def golden_tensors(name: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def release_weights() -> dict[str, Tensor]:
    """The release's tensors, rows that are not stored zero."""
    shapes = golden_json("weights_info")["shapes"]
    stored = golden_tensors("echox_weights")
    tensors = {}
    for name, shape in shapes.items():
        if name in stored:
            tensors[name] = stored[name].clone()
        else:
            tensors[name] = torch.zeros(shape)
            tensors[name][stored[f"{name}::rows"].long()] = stored[f"{name}::values"]
    return tensors


def procedural(name: str, shape: list[int], rows: list[int] | None, seed: int = 11) -> Tensor:
    """Weights by FORMAT.md 9: vocabulary tensors have values in `rows` only."""
    held = shape if rows is None else [len(rows), shape[1]]
    x = np.random.RandomState(zlib.crc32(f"{seed}:{name}".encode())).standard_normal(held).astype(np.float32)
    if rows is not None:
        full = torch.zeros(shape)
        full[rows] = torch.from_numpy(x) * (0.4 if name.endswith("embed_tokens.weight") else shape[1] ** -0.5)
        return full
    if name.endswith("norm.weight"):
        x = 1 + 0.1 * x
    elif name.endswith("bias"):
        x = 0.1 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(x.astype(np.float32))


def write_release(folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    """A folder of the release: ``config.json``, ``model.safetensors``; a value "__absent__" removes a field."""
    folder.mkdir(parents=True)
    values = golden_json("config") | {"audio_tower": str(write_whisper(folder / "whisper"))} | config
    values = {name: value for name, value in values.items() if value != "__absent__"}
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(weights, folder / "model.safetensors")
    return folder


def write_whisper(folder: Path, prefix: str = "") -> Path:
    """The fixtures' Whisper encoder as a checkpoint; `prefix` "model." as WhisperForConditionalGeneration names it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text((GOLDEN / "whisper_config.json").read_text(encoding="utf-8"), encoding="utf-8")
    tensors = {f"{prefix}{name}": value for name, value in golden_tensors("whisper_encoder_weights").items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_vocoder(folder: Path, name: str) -> Path:
    """A vocoder of the fixtures ("F_vocoder", "D_vocoder_single" ...) as fairseq publishes it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text((GOLDEN / f"{name}_config.json").read_text(encoding="utf-8"), encoding="utf-8")
    torch.save({"generator": golden_tensors(f"{name}_weights")}, folder / "g_00500000")
    return folder


def in_memory(weights: dict[str, Tensor]) -> dict[str, StoredTensor]:
    """Tensors as an opened checkpoint would give them."""
    return {name: StoredTensor(tuple(value.shape), value.dtype, value.clone) for name, value in weights.items()}


def released_model(
    weights: dict[str, Tensor], vocoder: str = "F_vocoder", masked_token_id: int | None = None, **config: Any
) -> EchoXForConditionalGeneration:
    """The fixtures' model without a folder in between."""
    values = {name: value for name, value in (golden_json("config") | config).items() if value != "__absent__"}
    whisper = WhisperConfig.from_dict(golden_json("whisper_config"))
    audio_token_id = golden_json("weights_info")["audio_patch_token"]
    voice = vocoder_config(golden_json(f"{vocoder}_config"))
    built = official_config(values, whisper, voice, audio_token_id, masked_token_id)
    encoder = golden_tensors("whisper_encoder_weights")
    sources = {
        "release": in_memory(weights),
        "whisper": in_memory({name.removeprefix("encoder."): value for name, value in encoder.items()}),
        "vocoder": fold(in_memory(golden_tensors(f"{vocoder}_weights"))),
    }
    tensors = match_tensors(built, sources, {name: name for name in sources})
    return materialise(built, tensors, torch.float32)


def close(found: Tensor, expected: Tensor) -> None:
    """Equal within the fixtures' tolerance, in float32."""
    found = found.detach()
    assert found.shape == expected.shape, (tuple(found.shape), tuple(expected.shape))
    assert found.dtype == torch.float32
    worst = float((found - expected).abs().max()) if found.numel() else 0.0
    assert worst <= TOLERANCE, f"worst difference {worst:.2e}"


def write_tokenizer(folder: Path, spelling: str = "<|unit_{}|>", pad: str = "<|finetune_right_pad_id|>") -> Path:
    """A tokenizer in Llama 3's layout: bytes at 0 .. 255 in its order, its special tokens, ``<audio_patch>``, units.

    What lies between are fillers without a meaning.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    config, info = golden_json("config"), golden_json("weights_info")
    size, units = config["vocab_size"], config["unit_vocab_size"]
    names = {number: f"[{number}]" for number in range(size)}
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    order = printable + [byte for byte in range(256) if byte not in printable]
    spelled = [chr(byte) if byte in printable else chr(256 + order.index(byte) - len(printable)) for byte in order]
    names |= dict(enumerate(spelled))
    special = {
        128000: "<|begin_of_text|>",
        128001: "<|end_of_text|>",
        128004: "<|finetune_right_pad_id|>",
        128006: "<|start_header_id|>",
        128007: "<|end_header_id|>",
        128009: "<|eot_id|>",
        info["audio_patch_token"]: "<audio_patch>",
    } | {size + unit: spelling.format(unit) for unit in range(units)}
    names |= special
    tokenizer = Tokenizer(models.BPE({name: number for number, name in names.items()}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special.values()])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=names[128000],
        eos_token=names[128009],
        pad_token=pad,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    return folder
