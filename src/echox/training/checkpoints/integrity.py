"""Integrity of checkpoints: checksums of all parts, and a state file with known fields.

A flipped bit in a file of weights would load without an error, and a state file without one of its fields would start
the run again at step 0. So the state file holds the SHA-256 of every part, and its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch.distributed as dist

from echox.errors import reason
from echox.files import JsonObject, file_sha256

STATE_FILE = "state.json"


class DamagedCheckpointError(ValueError):
    """A checkpoint that was changed after it was written."""


def write_state(folder: Path, state: Mapping[str, object]) -> None:
    """Write the state file of a checkpoint whose parts are complete.

    Args:
        folder: of the checkpoint.
        state: numbers by name.
    """
    parts = {path.relative_to(folder).as_posix(): file_sha256(path) for path in _parts(folder)}
    content = {**state, "parts": parts}
    (folder / STATE_FILE).write_text(json.dumps({**content, "sha256": _digest(content)}), encoding="utf-8")


def read_state(folder: Path, fields: Mapping[str, int | float]) -> JsonObject:
    """The state of a checkpoint, after a check of every part. Every process of a run must call this.

    Args:
        folder: of the checkpoint.
        fields: names of all numbers in the state, each with an example: an int means a whole number.

    Raises:
        DamagedCheckpointError: a part is missing or changed, or the state is not of this form.
    """
    found: list[JsonObject | str] = [{}]
    if not dist.is_initialized() or dist.get_rank() == 0:  # one process reads for all: the files are the same
        try:
            found[0] = _read_state(folder, fields)
        except DamagedCheckpointError as error:
            found[0] = str(error)
    if dist.is_initialized():
        dist.broadcast_object_list(found)
    state = found[0]
    if isinstance(state, str):
        raise DamagedCheckpointError(state)
    return state


def _read_state(folder: Path, fields: Mapping[str, int | float]) -> JsonObject:
    path = folder / STATE_FILE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedCheckpointError(f"{path}: expected the state of a checkpoint, found {reason(error)}") from error
    expected = {*fields, "parts", "sha256"}
    if not isinstance(state, dict) or set(state) != expected:
        given = sorted(map(str, state)) if isinstance(state, dict) else type(state).__name__
        raise DamagedCheckpointError(f"{path}: expected the fields {sorted(expected)}, found {given}")
    for name, example in fields.items():
        value, kinds = state[name], (int,) if isinstance(example, int) else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or not 0 <= value < math.inf:
            raise DamagedCheckpointError(f"{path}: {name}: expected a number of at least 0, found {str(value)[:40]}")
    parts, digest = state["parts"], state.pop("sha256")
    if not isinstance(parts, dict) or digest != _digest(state):
        raise DamagedCheckpointError(f"{path}: expected the checksum {_digest(state)}, found {str(digest)[:64]}")
    there = {part.relative_to(folder).as_posix(): part for part in _parts(folder)}
    if set(parts) != set(there):
        missing, more = sorted(set(parts) - set(there)), sorted(set(there) - set(parts))
        raise DamagedCheckpointError(f"{folder}: expected the parts {sorted(parts)}; missing: {missing}, more: {more}")
    for name, wanted in parts.items():
        try:
            checksum = file_sha256(there[name])
        except OSError as error:
            raise DamagedCheckpointError(f"{there[name]}: expected to read it, found {reason(error)}") from error
        if checksum != wanted:
            raise DamagedCheckpointError(f"{there[name]}: expected the SHA-256 {wanted}, found {checksum}")
    return state


def _parts(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / STATE_FILE)


def _digest(content: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
