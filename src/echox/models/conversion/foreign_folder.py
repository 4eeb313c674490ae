"""What a model folder may not ask for, looked for in its files before any part of it is made.

A configuration is read by transformers, which follows it far: an attention that is named like a repository is fetched
from the hub and run, a thousand million layers are made one by one. Neither is a model of ours.

Source: https://huggingface.co/docs/transformers/attention_interface (kernels of the hub).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from echox.models.conversion.checkpoint import open_weights, read_json, read_shard_index

_LAYERS = re.compile(r"_(layers|blocks)$")
_IMPLEMENTATION = re.compile(r"(^|\.)\w*_implementation($|\.)")


def check_folder(folder: Path) -> None:
    """Check ``config.json`` against the headers of the folder's safetensors files.

    Raises:
        ValueError: code from a repository of the hub, more layers than there are tensors, shards outside the folder, or
            files that are damaged. A folder without such weights passes: what loads it says what is missing.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        shards = [folder / name for name in sorted(set(read_shard_index(index).values()))]
    else:
        shards = [single]
    found = [len(open_weights(path)) for path in shards if path.is_file()]
    config = folder / "config.json"
    for name, value in _fields(read_json(config)):
        if _IMPLEMENTATION.search(name) and "/" in str(value):
            raise ValueError(
                f"{config}: {name}: expected an implementation of this package's libraries (sdpa, eager), found "
                f"{str(value)[:100]!r}, which would be fetched and run; take it out"
            )
        if found and isinstance(value, int) and value > sum(found) and _LAYERS.search(name):
            raise ValueError(
                f"{config}: {name}: expected at most {sum(found)}, the tensors of the folder, found {value}; copy the "
                "folder again"
            )


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    """All plain values in nested JSON, with dotted names; those in a list have the list's name."""
    waiting = [("", value)]
    while waiting:
        name, item = waiting.pop()
        if isinstance(item, dict):
            waiting += [(f"{name}.{key}".lstrip("."), one) for key, one in item.items()]
        elif isinstance(item, list):
            waiting += [(name, one) for one in item]
        else:
            yield name, item
