"""The base class of all models here, and typed access to what transformers leaves without a type."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from transformers import PreTrainedModel

if TYPE_CHECKING:
    # What AutoModelForCausalLM gives, by its annotation; the class exists for type checkers only.
    from transformers.models.auto.modeling_auto import _BaseModelWithGenerate as CausalLM
else:
    CausalLM = PreTrainedModel

Model = TypeVar("Model", bound=PreTrainedModel)


class TypedPreTrainedModel(PreTrainedModel):
    """transformers' base class, with the type of `to`, which a decorator hides there."""

    if TYPE_CHECKING:

        def to(self: Model, *args: Any, **kwargs: Any) -> Model:  # type: ignore[override]  # the decorated one takes no `self`
            """As in torch."""
            ...


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


def run_generate(model: CausalLM, **inputs: Any) -> Any:
    """``model.generate(**inputs)``: new tokens, or what ``return_dict_in_generate`` asks for."""
    return model.generate(**inputs)  # type: ignore[misc]  # its `self` is a protocol that PreTrainedModel misses
