"""LoRA on the language model of S2T: added, saved, continued by a later stage, merged into plain weights.

A finished stage saves *merged* weights, so that its folder loads with transformers alone, and beside them the LoRA, so
that stage III can separate it again and continue it.

Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685; computed by peft.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from echox.files import write_tensors
from echox.models.decoding.lean_adapter import LeanAdapter
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.pretrained import CausalLM

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

WEIGHTS_FILE, SETTINGS_FILE = "lora.safetensors", "lora.json"
_ADAPTER = "default"


@dataclass
class LoRASettings:
    """Rank, scale (alpha / rank) and dropout of the LoRA, which is on all linear layers but the head."""

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05


def add_lora(language_model: CausalLM, settings: LoRASettings) -> list[nn.Parameter]:
    """Put a LoRA on all linear layers of the language model but its head; returns its parameters.

    At first it changes nothing (B is 0). Names in the state dict gain ``.base_layer`` and ``.lora_*``.

    Raises:
        ValueError: there is one already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if lora_parameters(language_model):
        raise ValueError("expected a language model without LoRA, found one: merge it or continue it")
    head = language_model.get_output_embeddings()
    targets = [
        name for name, module in language_model.named_modules() if isinstance(module, nn.Linear) and module is not head
    ]
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, lora_dropout=settings.dropout, target_modules=targets, bias="none"
    )
    inject_adapter_in_model(config, language_model, adapter_name=_ADAPTER)
    language_model.train(language_model.training)  # new layers are always made in training mode
    added = lora_parameters(language_model)
    for value in added:  # in half precision, small steps would be lost to rounding
        value.data = value.data.float()
    return added


def lora_parameters(language_model: CausalLM) -> list[nn.Parameter]:
    """The parameters of the LoRA; empty where there is none."""
    return [value for name, value in language_model.named_parameters() if ".lora_" in name]


def merged_state_dict(model: S2TForConditionalGeneration) -> dict[str, Tensor]:
    """State dict of the model with the LoRA merged into the weights, under plain names; the model is not changed.

    Merged weights are float32: rounded to half precision, small changes would be lost, and `continue_lora` could not
    restore the original weights.
    """
    deltas = {
        f"language_model.{name}.weight": layer.get_delta_weight(_ADAPTER) for name, layer in _lora_layers(model).items()
    }
    merged = {}
    for name, value in model.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        merged[plain] = value.float() + deltas[plain].float() if plain in deltas else value
    return merged


def save_lora(model: S2TForConditionalGeneration, settings: LoRASettings, folder: str | Path) -> None:
    """Write the LoRA's weights and settings into ``folder``."""
    folder = Path(folder)
    weights = {name: value for name, value in model.language_model.state_dict().items() if ".lora_" in name}
    write_tensors(folder / WEIGHTS_FILE, weights)
    layer = next(iter(_lora_layers(model).values()))
    base_dtype = str(layer.base_layer.weight.dtype).removeprefix("torch.")
    text = json.dumps({**asdict(settings), "base_dtype": base_dtype})
    (folder / SETTINGS_FILE).write_text(text, encoding="utf-8")


def base_dtype_of(folder: str | Path) -> str | None:
    """Type of the weights below the LoRA in ``folder``, by its name in torch; None where there is no LoRA."""
    settings = Path(folder) / SETTINGS_FILE
    if not settings.is_file():
        return None
    return str(json.loads(settings.read_text(encoding="utf-8")).get("base_dtype", "float32"))


def load_lora(model: S2TForConditionalGeneration, settings: LoRASettings, folder: str | Path) -> None:
    """Give the LoRA of a model, which `add_lora` has put on it, the matrices of one in ``folder``.

    Args:
        model: with the weights that the LoRA in the folder was trained on, not merged.
        settings: of the model's LoRA.
        folder: what `save_lora` wrote.

    Raises:
        ValueError: the folder holds no LoRA, one of another language model, or one with other settings.
    """
    folder = Path(folder)
    found, _, weights = _read_lora(folder)
    if (found.r, found.alpha) != (settings.r, settings.alpha):
        raise ValueError(
            f"{folder}: expected a LoRA of this language model with r={settings.r} and alpha={settings.alpha}, found "
            f"r={found.r} and alpha={found.alpha}; name the folder of its stage"
        )
    _fill(model, weights, folder)


def continue_lora(model: S2TForConditionalGeneration, folder: str | Path) -> LoRASettings:
    """Subtract the LoRA in ``folder`` from a model that was saved with it merged, and add it as a LoRA again.

    The weights of the language model, and their type (float32, bfloat16), are then exactly those before the LoRA.

    Args:
        model: with float32 weights.
        folder: what `save_lora` wrote.

    Raises:
        ValueError: the folder holds no LoRA, or one of another language model.
    """
    folder = Path(folder)
    settings, base_dtype, weights = _read_lora(folder)
    add_lora(model.language_model, settings)
    _fill(model, weights, folder)
    with torch.no_grad():
        for layer in _lora_layers(model).values():
            layer.base_layer.weight -= layer.get_delta_weight(_ADAPTER).to(layer.base_layer.weight)
        for name, value in model.language_model.named_parameters():
            if ".lora_" not in name:
                value.data = value.data.to(base_dtype)
    return settings


def lora_beside(folder: str | Path) -> LeanAdapter:
    """The LoRA in ``folder``, to be kept beside the weights that it was trained on.

    Raises:
        ValueError: as `continue_lora`.
    """
    settings, _, weights = _read_lora(Path(folder))
    return LeanAdapter.of(
        {name.replace(f".{_ADAPTER}.", "."): value for name, value in weights.items()}, settings.alpha / settings.r
    )


def _fill(model: S2TForConditionalGeneration, weights: dict[str, Tensor], folder: Path) -> None:
    """Give the LoRA that is on a model the matrices of a folder.

    Raises:
        ValueError: they are of another language model.
    """
    own = {name: value for name, value in model.language_model.state_dict().items() if ".lora_" in name}
    fitting = [name for name, value in own.items() if name in weights and weights[name].shape == value.shape]
    if not len(own) == len(weights) == len(fitting):
        raise ValueError(
            f"{folder / WEIGHTS_FILE}: expected the {len(own)} LoRA tensors of this language model, found "
            f"{len(weights)} of which {len(fitting)} fit: use the LoRA saved beside these weights"
        )
    model.language_model.load_state_dict(weights, strict=False)


def _read_lora(folder: Path) -> tuple[LoRASettings, torch.dtype, dict[str, Tensor]]:
    """Settings, type of the weights below, and the matrices."""
    if not (folder / WEIGHTS_FILE).exists() or not (folder / SETTINGS_FILE).exists():
        raise ValueError(
            f"{folder}: expected {WEIGHTS_FILE} and {SETTINGS_FILE}, as stages s2t and instruct write; found none"
        )
    stored = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
    base_dtype: torch.dtype = getattr(torch, stored.pop("base_dtype", "float32"))
    return LoRASettings(**stored), base_dtype, load_file(folder / WEIGHTS_FILE)


def _lora_layers(model: S2TForConditionalGeneration) -> dict[str, LoraLayer]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.language_model.named_modules() if isinstance(module, LoraLayer)}
