"""The tool adapter: a LoRA that the language model has in conversations with tools, and in no others.

A language model that was not trained to call tools can learn some (stage "instruct", lessons of stage "tool_lessons").
A model folder may hold what it learned apart from its weights (folder ``tool_adapter``, in the form of peft): then all
other conversations stay as they were, bit for bit.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from echox.models.decoding.lean_adapter import LeanAdapter

TOOL_ADAPTER_FOLDER = "tool_adapter"


def load_tool_adapter(folder: Path, language_model: PreTrainedModel) -> LeanAdapter | None:
    """The tool adapter of a model folder; None: it has none.

    Args:
        folder: of the model.
        language_model: of the model.

    Raises:
        ValueError: it is damaged, or of another language model.
    """
    place = folder / TOOL_ADAPTER_FOLDER
    if not place.is_dir():
        return None
    adapter = LeanAdapter.load(place)
    try:
        adapter.check(language_model)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return adapter
