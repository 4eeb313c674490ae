"""Merges a PEFT folder (LoRA) into a checkpoint while its tensors are read.

Source: Hu et al. 2021 (https://arxiv.org/abs/2106.09685); the file format of https://github.com/huggingface/peft.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from echox.models.conversion.checkpoint import JsonObject, StoredTensor, open_weights, read_json
from echox.models.conversion.hub_files import find_file, find_first
from echox.models.decoding.lean_adapter import CONFIG_FILE, PREFIX, WEIGHTS_FILE

_FILES = (WEIGHTS_FILE, "adapter_model.bin")
_UNSUPPORTED = ("use_dora", "lora_bias", "trainable_token_indices", "alora_invocation_tokens")


@dataclass(frozen=True)
class PeftFolder:
    """A plain LoRA of peft, whose tensors are not read yet.

    Attributes:
        place: folder or hub id, for messages.
        config: of ``adapter_config.json``.
        tensors: by name, without peft's prefix.
    """

    place: str
    config: JsonObject
    tensors: dict[str, StoredTensor]


def open_peft(folder_or_id: str | os.PathLike[str]) -> PeftFolder:
    """The LoRA in a folder with ``adapter_config.json`` and ``adapter_model.safetensors`` (or ``.bin``).

    Raises:
        ValueError: no LoRA, or one of an unknown kind.
    """
    config_path = find_file(folder_or_id, CONFIG_FILE)
    weights = find_first(folder_or_id, _FILES)
    if config_path is None or weights is None:
        raise ValueError(f"{folder_or_id}: expected {CONFIG_FILE} and {' or '.join(_FILES)}, found neither or one")
    config = read_json(config_path)
    if config.get("peft_type") != "LORA" or any(config.get(name) for name in _UNSUPPORTED):
        found = [config.get("peft_type"), *(name for name in _UNSUPPORTED if config.get(name))]
        raise ValueError(
            f"{config_path}: expected a plain LoRA, found {', '.join(map(str, found))}; merge it with peft"
        )
    tensors = {name.removeprefix(PREFIX): tensor for name, tensor in open_weights(weights).items()}
    return PeftFolder(str(folder_or_id), config, tensors)


def merge_peft(stored: dict[str, StoredTensor], lora: PeftFolder) -> dict[str, StoredTensor]:
    """The checkpoint with ``W + scale * B A`` for every W of the LoRA; no tensor is read yet.

    Args:
        stored: of the base model, under the names that the LoRA was trained on.
        lora: see `open_peft`.

    Raises:
        ValueError: it does not fit; the message lists all names.
    """
    adapters = lora.tensors
    downs = {name.removesuffix(".lora_A.weight") for name in adapters if name.endswith(".lora_A.weight")}
    merged, used, misfits = dict(stored), set(), []
    for module in sorted(downs):
        a, b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        base = stored.get(f"{module}.weight")
        used |= {a, b}
        if base is None or b not in adapters:
            misfits.append(a)
            continue
        down, up = adapters[a], adapters[b]
        if (up.shape[0], down.shape[1]) != base.shape or up.shape[1] != down.shape[0]:
            misfits.append(f"{a} (for {base.shape}: found {up.shape} x {down.shape})")
            continue
        merged[f"{module}.weight"] = _merged(base, down, up, _scale(lora.config, module, down.shape[0]))
    for name in sorted(set(adapters) - used):  # modules that were trained as a whole (modules_to_save)
        plain = name.replace(".modules_to_save.", ".")
        if plain in stored and stored[plain].shape == adapters[name].shape:
            merged[plain] = adapters[name]
        else:
            misfits.append(name)
    if misfits:
        raise ValueError(
            f"{lora.place}: expected a LoRA of this model, found {len(misfits)} tensors that do not "
            f"fit: {', '.join(misfits)}"
        )
    return merged


def _scale(config: JsonObject, module: str, rank: int) -> float:
    """Scale alpha / r; a pattern of names may give a module its own alpha."""
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.search(rf"(^|\.){pattern}$", module):
            alpha = float(value)
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _merged(base: StoredTensor, down: StoredTensor, up: StoredTensor, scale: float) -> StoredTensor:
    def load() -> Tensor:
        weight = base.load()
        delta = (up.load().float() @ down.load().float()) * scale
        return torch.add(weight, delta.to(weight.dtype))

    return StoredTensor(base.shape, base.dtype, load)
