"""Records of an evaluation: append-only JSONL that survives a kill, and never mixes two models.

Every line carries the id of its item and a key of what made it; a line with another key is as good as absent.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from echox.files import text_lines


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
    items: Iterable[Item],
    path: Path,
    key: str | Callable[[Item], str],
    make: Callable[[Item], dict[str, Any]],
    workers: int = 1,
    again: Callable[[dict[str, Any]], bool] | None = None,
) -> Iterator[dict[str, Any]]:
    """One record for each item, in order: read where there is one, else made and written durably at once.

    Args:
        items: anything with an ``id``.
        path: JSONL file; a last line cut off by a kill is ignored.
        key: of what makes the records (of each item): records of another key are made again.
        make: the record of an item, without ``id`` and ``key``.
        workers: threads that make records at once; they are yielded in the items' order all the same.
        again: whether a record that was read is to be made once more (one that failed, say).
    """
    done = {(record["id"], record["key"]): record for record in read_lines(path)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
    lock = threading.Lock()
    with path.open("a", encoding="utf-8") as file:
        if torn:
            file.write("\n")

        def one(item: Item) -> dict[str, Any]:
            name = key if isinstance(key, str) else key(item)
            record = done.get((item.id, name))
            if record is not None and not (again and again(record)):
                return record
            record = {"id": item.id, "key": name, **make(item)}
            with lock:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
            return record

        if workers == 1:
            yield from map(one, items)
            return
        pool = ThreadPoolExecutor(workers)
        try:
            yield from pool.map(one, items)
        finally:
            pool.shutdown(cancel_futures=True)


def read_records(path: Path, key: str) -> dict[str, dict[str, Any]]:
    """Records of one key by id; the last one of an id counts."""
    return {record["id"]: record for record in read_lines(path) if record["key"] == key}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All records of a file (none where there is no file), without lines that a kill cut off.

    Raises:
        ValueError: a line that is whole and no JSON object.
    """
    lines = list(text_lines(path)) if path.exists() else []
    found = []
    for number, line in lines:
        if isinstance(line, ValueError):
            continue  # cut inside a character
        try:
            found.append(json.loads(line))
        except ValueError as error:
            if number == lines[-1][0] or not line.endswith("}"):
                continue  # written half when the process was killed
            raise ValueError(f"{path}:{number}: expected one JSON object a line, found {error}") from error
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
