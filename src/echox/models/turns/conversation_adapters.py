"""Conversation adapters: LoRAs that the language model has in one kind of turn, and not in others.

What a published language model was not trained for it can learn (stage "instruct"): to call tools (lessons of stage
"tool_lessons"), to hold a conversation aloud (stage "talk_lessons"). A model folder may hold what it learned apart from
its weights, a folder of peft for each kind: then the weights stay as they were published, and each kind of turn has
what it needs. A talk head (`talk_head.py`) tells talk from questions of knowledge, which no adapter answers.
"""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel

from echox.models.decoding.lean_adapter import LeanAdapter

ADAPTER_FOLDERS = {"talk": "talk_adapter", "tools": "tool_adapter"}
"""Where a model folder holds the adapter of talk without tools, and that of conversations with tools."""


def kind_of(tools: bool) -> str:
    """The kind of a conversation, a key of `ADAPTER_FOLDERS`.

    Args:
        tools: whether it declares tools.
    """
    return "tools" if tools else "talk"


def load_adapters(folder: Path, language_model: PreTrainedModel) -> dict[str, LeanAdapter]:
    """The adapters of a model folder by kind; the kinds without one are left out.

    Args:
        folder: of the model.
        language_model: of the model.

    Raises:
        ValueError: one is damaged, or of another language model.
    """
    found = {}
    for kind, name in ADAPTER_FOLDERS.items():
        place = folder / name
        if not place.is_dir():
            continue
        found[kind] = LeanAdapter.load(place)
        try:
            found[kind].check(language_model)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    return found
