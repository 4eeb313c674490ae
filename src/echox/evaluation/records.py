"""Records of an evaluation: append-only JSONL that survives a kill, and never mixes two models.

Every line carries the id of its item and a key of what made it; a line with another key is as good as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_HasId)
Kind = TypeVar("Kind")


def fingerprint(module: nn.Module, *details: object) -> str:
    """Twelve hex digits that change with any weight of ``module`` and with the text of any of the details."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(raw.numpy().tobytes())
    for detail in details:
        digest.update(str(detail).encode())
    return digest.hexdigest()[:12]


def recorded(
    items: Iterable[Item], path: Path, key: str, make: Callable[[Item], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One record for each item, in order: read where there is one, else made and written durably at once.

    Args:
        items: anything with an ``id``.
        path: JSONL file; a last line cut off by a kill is ignored.
        key: of what makes the records: records of another key are made again.
        make: the record of an item, without ``id`` and ``key``.
    """
    done = read_records(path, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    with path.open("a", encoding="utf-8") as file:
        if torn:
            file.write("\n")
        for item in items:
            if item.id not in done:
                done[item.id] = {"id": item.id, "key": key, **make(item)}
                file.write(json.dumps(done[item.id], ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            yield done[item.id]


def read_records(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Records of one key by id; the last one of an id counts."""
    found: dict[str, dict[str, Any]] = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines) or not line.endswith("}"):
                continue  # written half when the process was killed
            raise ValueError(f"{path}:{number}: expected one JSON object a line, found {error}") from error
        if record["key"] == key:
            found[record["id"]] = record
    return found


def balanced_order(items: Sequence[Kind], group_of: Callable[[Kind], str], seed: int) -> list[Kind]:
    """Items in an order whose every beginning has (nearly) as many of each group: shuffled, then dealt in turn."""
    groups: dict[str, list[Kind]] = defaultdict(list)
    for item in items:
        groups[group_of(item)].append(item)
    rng = random.Random(seed)
    piles = [groups[name] for name in sorted(groups)]
    for pile in piles:
        rng.shuffle(pile)
    rng.shuffle(piles)
    longest = max(map(len, piles), default=0)
    return [pile[place] for place in range(longest) for pile in piles if place < len(pile)]
