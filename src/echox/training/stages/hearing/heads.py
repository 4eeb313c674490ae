"""What stages leave of a head that they fitted: its weights, and how well it does."""

from __future__ import annotations

import json
from pathlib import Path

from echox.files import JsonObject, write_tensors, write_text
from echox.models.echox.sequence_head import SequenceHead


def write_head(head: SequenceHead, folder: Path, scores: JsonObject) -> None:
    """Write a head into a folder, which is made, with its scores beside it: the same name with ``.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / head.file
    write_tensors(path, head.state_dict())
    write_text(path.with_suffix(".json"), json.dumps(scores, indent=2) + "\n")
