"""What a saved folder may hold: weights that its configuration describes, and no files of a model before."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers.initialization import no_init_weights

from echox.api.about import ABOUT_FILE
from echox.api.loading import TRAINING_RECORD_FILE, WEIGHTS_FILE
from echox.api.parts import PARTS_FILE
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import RECOGNISER_TOKENIZER_FILE
from echox.models.quantization.group_int4 import held_in_int4
from echox.models.quantization.row_int8 import SCALE_SUFFIX
from echox.models.turns.conversation_adapters import ADAPTER_FOLDERS
from echox.models.turns.talk_head import TalkHead
from echox.models.turns.turn_head import TurnHead
from echox.models.unit_language.tokenization_unit_language import UNIT_LANGUAGE_FILE

INDEX_FILE = WEIGHTS_FILE + ".index.json"
"""Of weights in several files, as transformers writes them from 50 GB on."""

OPTIONAL_FILES = (
    PARTS_FILE,
    TRAINING_RECORD_FILE,
    ABOUT_FILE,
    UNIT_LANGUAGE_FILE,
    RECOGNISER_TOKENIZER_FILE,
    TurnHead.file,
    TalkHead.file,
    *("chat_template.jinja", "chat_template.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt"),
)
"""What some models have beside weights, configurations and card; the last two lines are of transformers."""

OPTIONAL_FOLDERS = (*ADAPTER_FOLDERS.values(), "additional_chat_templates")

HUB_PATTERNS = (*OPTIONAL_FILES, *(f"{name}/*" for name in OPTIONAL_FOLDERS), "model*.safetensors", INDEX_FILE)
"""What an upload removes from a repository where the new model does not have it."""


def remove_optional(folder: Path) -> None:
    """Remove what another model left in a folder; the new one then writes what it has. Other files stay."""
    for name in OPTIONAL_FILES:
        (folder / name).unlink(missing_ok=True)
    for name in OPTIONAL_FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)


def check_state(model: EchoXForConditionalGeneration, state: Mapping[str, Tensor]) -> None:
    """Check that a model of the same configuration has the same weights: then the folder can be loaded.

    Args:
        model: whose configuration is saved. What a library of transformers quantised has names of its own, and passes.
        state: its weights by name, in floats, 8 or 4 bits.

    Raises:
        ValueError: names that are missing or unexpected, or another shape.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return
    found = {name: value.shape for name, value in state.items() if not name.endswith(SCALE_SUFFIX)}
    with torch.device("meta"), no_init_weights():
        described = type(model)(copy.deepcopy(model.config), in_int4=held_in_int4(state)).state_dict()
    expected = {name: value.shape for name, value in described.items()}
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"{name}: expected {_shape(expected.get(name))} by the model's configuration, found "
            f"{_shape(found.get(name))} ({len(wrong)} such), so the folder could not be loaded: undo what changed the "
            "model's layers, or change its configuration with them"
        )


def _shape(shape: torch.Size | None) -> str:
    return "no such weight" if shape is None else f"shape {tuple(shape)}"
