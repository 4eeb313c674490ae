"""Files of a model folder that not every model has: those of a model that was there before are removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from echox.api.about import ABOUT_FILE
from echox.api.loading import TRAINING_RECORD_FILE, WEIGHTS_FILE
from echox.api.parts import PARTS_FILE
from echox.models.echox.conversation_adapters import ADAPTER_FOLDERS
from echox.models.echox.processing_echox import RECOGNISER_TOKENIZER_FILE
from echox.models.echox.talk_head import TalkHead
from echox.models.echox.turn_head import TurnHead
from echox.models.t2c.tokenization_unit_language import UNIT_LANGUAGE_FILE

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
