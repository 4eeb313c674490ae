"""LoRA adapters of the language model, in the folders of peft: loaded, saved separately, merged into the weights.

Any folder that ``PeftModel.save_pretrained`` wrote for the language model can be loaded, and folders written here load
with peft. peft and transformers do the work; this file adds errors that say what is wrong.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig

from echox.errors import reason
from echox.files import write_tensors
from echox.models.conversion.hub_files import find_file
from echox.models.decoding.lean_adapter import CONFIG_FILE, PREFIX, WEIGHTS_FILE
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.pretrained import CausalLM
from echox.models.quantization.int4_linear import Int4Linear
from echox.models.quantization.int8_linear import Int8Linear

ADAPTER_NAME = "default"
IN_FEW_BITS = (Int8Linear, Int4Linear)
"""Layers whose weights are rounded: nothing can be added to them."""

Adaptable = EchoXForConditionalGeneration | S2TForConditionalGeneration
"""A model whose language model can have an adapter."""


def has_adapter(model: Adaptable) -> bool:
    """Whether the model's language model carries an adapter that is not merged."""
    if "peft" not in sys.modules:  # it takes a second to import, and without it there is no adapter
        return False
    return any(_layers_of_peft(_language_model(model)))


def load_adapter(model: Adaptable, source: str | Path) -> None:
    """Load a PEFT adapter into the language model, without merging it.

    Args:
        model: EchoX or S2T model, without an adapter.
        source: folder or hub id with ``adapter_config.json`` and its weights.

    Raises:
        ValueError: no such adapter, one for another language model, a model that has one already, or no peft.
    """
    if has_adapter(model):
        raise ValueError("expected a model without an adapter, found one: merge it first (merge_adapter)")
    if any(isinstance(layer, IN_FEW_BITS) for layer in _language_model(model).modules()):
        raise ValueError(
            "expected weights in floats to put an adapter on, found 8 or 4 bits: load the model with "
            "dtype=torch.float32, or name the adapter when it is loaded (from_pretrained(adapter=...))"
        )
    if find_file(source, CONFIG_FILE) is None:
        raise ValueError(f"{source}: expected {CONFIG_FILE} and its weights, as peft writes them, found none")
    try:
        found = _language_model(model).load_adapter(str(source), adapter_name=ADAPTER_NAME)
    except ImportError as error:
        raise ValueError(
            f"expected the package peft to load an adapter, found none ({error}): pip install peft"
        ) from error
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"{source}: expected a PEFT adapter of this language model, found: {reason(error, 300)}"
        ) from error
    wrong = [
        f"{kind.removesuffix('_keys')} {name}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        for name in sorted(map(str, getattr(found, kind, None) or ()))
    ]
    if wrong:
        raise ValueError(
            f"{source}: expected the adapter of this language model, found {wrong[0]} and {len(wrong) - 1} more such"
        )
    model.eval()


def save_adapter(model: Adaptable, folder: str | Path) -> None:
    """Write the adapter alone, in the format of peft.

    Raises:
        ValueError: there is none, or the folder is one of a model.
    """
    from peft import get_peft_model_state_dict

    if not has_adapter(model):
        raise ValueError("expected an adapter that is not merged, found none: load one (from_pretrained(adapter=...))")
    folder, language_model = Path(folder), _language_model(model)
    if (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: expected a folder for an adapter, found one of a model, which would have it from then on; name "
            "another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # Embeddings and heads that have a LoRA are written with it: an adapter may have brought its own.
        warnings.filterwarnings("ignore", message=".*save_embedding_layers")
        state = get_peft_model_state_dict(language_model, adapter_name=ADAPTER_NAME)
    weights = {PREFIX + name: value for name, value in state.items()}
    write_tensors(folder / WEIGHTS_FILE, weights, metadata={"format": "pt"})
    language_model.peft_config[ADAPTER_NAME].save_pretrained(folder)


def merge_adapter(model: Adaptable) -> None:
    """Add the adapter to the weights permanently; names and sizes are then those of a plain model.

    Parts that the adapter holds whole (``modules_to_save``) take the place of those of the model.

    Raises:
        ValueError: there is none; or it stands on weights in 8 or 4 bits, where merging would round it away.
    """
    if not has_adapter(model):
        raise ValueError("expected an adapter that is not merged, found none")
    language_model = _language_model(model)
    layers = list(_layers_of_peft(language_model))
    within = [part for _, _, layer in layers for part in layer.modules()]
    if any(isinstance(part, IN_FEW_BITS) for part in within):
        raise ValueError(
            "expected weights in floats to merge the adapter into, found 8 or 4 bits: load both with "
            "dtype=torch.float32, merge_adapter(), then save_pretrained(folder, dtype=torch.int8)"
        )
    _separate(language_model, within)
    for parent, name, layer in layers:
        if hasattr(layer, "unload_and_optionally_merge_module"):
            plain = layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        else:
            layer.merge(safe_merge=True)
            plain = layer.get_base_layer()
        setattr(parent, name, plain)
    language_model._hf_peft_config_loaded = False
    del language_model.peft_config
    _note_ties(model)


def _layers_of_peft(module: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Parent, name and layer of each layer that an adapter is on: the outermost ones."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, child in module.named_children():
        if isinstance(child, BaseTunerLayer | AuxiliaryTrainingWrapper):
            yield module, name, child
        else:
            yield from _layers_of_peft(child)


def _separate(language_model: nn.Module, within: list[nn.Module]) -> None:
    """Give layers under an adapter weights of their own: what is merged into a head must not change the embeddings.

    Args:
        language_model: whose head may be tied to its embeddings.
        within: parts of layers that an adapter is on.
    """
    owners = Counter(id(one) for part in language_model.modules() for one in part.parameters(recurse=False))
    for part in within:
        for name, value in list(part.named_parameters(recurse=False)):
            if owners[id(value)] > 1:
                setattr(part, name, nn.Parameter(value.detach().clone(), requires_grad=value.requires_grad))


def _note_ties(model: Adaptable) -> None:
    """Say in the configurations if head and embeddings are two matrices now, so that both are saved and loaded."""
    language_model = _language_model(model)
    head, embeddings = language_model.get_output_embeddings(), language_model.get_input_embeddings()
    if head is None or head.weight is embeddings.weight:
        return
    configs: list[PreTrainedConfig] = [language_model.config]
    if isinstance(model, EchoXForConditionalGeneration):
        configs += [model.config, model.config.s2t_config, model.config.s2t_config.text_config, model.s2t.config]
    else:
        configs += [model.config, model.config.text_config]
    for config in configs:
        config.tie_word_embeddings = False


def _language_model(model: Adaptable) -> CausalLM:
    return (model.s2t if isinstance(model, EchoXForConditionalGeneration) else model).language_model
