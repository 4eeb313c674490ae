"""What stages leave of a head that they fitted: its weights, and a record of how."""

from __future__ import annotations

import json
from pathlib import Path

from echox.api.loading import HEADS, TRAINING_RECORD_FILE, training_record
from echox.files import JsonObject, write_tensors, write_text
from echox.models.turns.sequence_head import SequenceHead


def write_head(head: SequenceHead, folder: Path, record: JsonObject) -> None:
    """Write a head into a folder, and its record.

    Args:
        head: that was fitted.
        folder: of the model, or any other, which is made. Its ``training_record.json`` then names the head too, under
            ``heads``.
        record: of the stage.

    Raises:
        ValueError: the folder holds a damaged record.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = training_record(folder) or {}
    known[HEADS] = known.get(HEADS, {}) | {record["stage"]: record}
    write_tensors(folder / head.file, head.state_dict())
    write_text(folder / TRAINING_RECORD_FILE, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
