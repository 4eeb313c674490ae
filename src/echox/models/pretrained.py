"""The base class of all models here, and typed access to what transformers leaves without a type."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

if TYPE_CHECKING:
    # What AutoModelForCausalLM gives, by its annotation; the class exists for type checkers only.
    from transformers.models.auto.modeling_auto import _BaseModelWithGenerate as CausalLM
else:
    CausalLM = PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)

REPOSITORY_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download")
"""Options of transformers' ``from_pretrained`` that say which files of a repository are read, and how they are had."""


class TypedPreTrainedModel(PreTrainedModel):
    """transformers' base class, with the type of `to`, which a decorator hides there."""

    if TYPE_CHECKING:

        def to(self: Model, *args: Any, **kwargs: Any) -> Model:  # type: ignore[override]  # the decorated one takes no `self`
            """As in torch."""
            ...


def hub_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options of a ``from_pretrained`` those that every file of the model is read with, ``subfolder`` too."""
    return {name: options[name] for name in (*REPOSITORY_OPTIONS, "subfolder") if name in options}


def load_with_report(
    kind: type[Model], folder_or_id: str | os.PathLike[str], **options: Any
) -> tuple[Model, Mapping[str, Collection[object]]]:
    """A trained model, and the names of weights that were not found as expected.

    Args:
        kind: class of the model.
        folder_or_id: folder or repository of the Hugging Face hub.
        **options: of ``from_pretrained``.

    Returns:
        The model, and names by kind: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys`` (with shapes) ...
    """
    both: Any = kind.from_pretrained(folder_or_id, output_loading_info=True, **options)
    model, report = both  # the annotation of `from_pretrained` knows of the model only
    return model, report


def from_weights(
    kind: type[Model], config: PreTrainedConfig, weights: Mapping[str, Tensor], dtype: torch.dtype, **inputs: Any
) -> tuple[Model, Mapping[str, Collection[object]]]:
    """A model around weights that are in memory already; what `load_with_report` gives, in a third of its time.

    transformers compiles patterns for the name of each weight, which takes longer than to read the weights.

    Args:
        kind: class of the model.
        config: its configuration.
        weights: by their names in the model; they are not copied where they have the right kind.
        dtype: of parameters in floats; those that must be float32 stay so.
        **inputs: other inputs of the class.
    """
    for one in (config, *(getattr(config, name) for name in config.sub_configs)):
        if one is not None:
            one.dtype = dtype
    with no_init_weights(), _default_dtype(dtype):
        model = kind(config, **inputs)
    own, parameters = model.state_dict(), dict(model.named_parameters())
    exact = tuple(model._keep_in_fp32_modules_strict or ())
    fitting: dict[str, Tensor] = {}
    report: dict[str, list[object]] = {"unexpected_keys": [], "mismatched_keys": []}
    for name, value in weights.items():
        if name not in own:
            report["unexpected_keys"].append(name)
        elif own[name].shape != value.shape:
            report["mismatched_keys"].append((name, value.shape, own[name].shape))
        elif name in parameters:
            fitting[name] = value.to(torch.float32 if name.startswith(exact) else dtype).contiguous()
        else:
            fitting[name] = value
    missing = model.load_state_dict(fitting, strict=False, assign=True).missing_keys
    model.tie_weights()
    report["missing_keys"] = [name for name in missing if name not in model.all_tied_weights_keys]
    return model.eval(), report


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def run_generate(model: CausalLM, **inputs: Any) -> Any:
    """``model.generate(**inputs)``: new tokens, or what ``return_dict_in_generate`` asks for."""
    return model.generate(**inputs)  # type: ignore[misc]  # its `self` is a protocol that PreTrainedModel misses
