"""Records of an evaluation: JSONL files that are only appended to, survive a kill, and keep models apart.

Every line carries the id of its item and a key of what made it. A line with another key is ignored.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from echox.evaluation.scoring.schema import JsonObject
from echox.files import open_journal, text_lines


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


HasIdT = TypeVar("HasIdT", bound=_HasId)
T = TypeVar("T")


def fingerprint(module: nn.Module, *details: object, beside: Mapping[str, Tensor] | None = None) -> str:
    """Twelve hexadecimal digits that depend on all weights of ``module``, on those beside them, and on the text of all
    details.
    """
    digest = hashlib.sha256()
    for name, value in sorted({**module.state_dict(), **(beside or {})}.items()):
        raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(raw.numpy().tobytes())
    for detail in details:
        digest.update(str(detail).encode())
    return digest.hexdigest()[:12]


def digest_of(details: object) -> str:
    """Twelve hexadecimal digits that depend on the text of the details."""
    return fingerprint(nn.Identity(), details)


def recorded(
    items: Iterable[HasIdT],
    path: Path,
    key: str | Callable[[HasIdT], str],
    make: Callable[[HasIdT], Mapping[str, object]],
    workers: int = 1,
    retry: Callable[[JsonObject], bool] | None = None,
) -> Iterator[JsonObject]:
    """One record for each item, in order: read from the file, or else made and written to the disk at once.

    Args:
        items: anything with an ``id``.
        path: JSONL file; a last line that a kill cut off is ignored.
        key: names what makes the records (or, of each item, its record): those of another key are made again.
        make: the record of an item, without ``id`` and ``key``.
        workers: threads that make records at the same time; the order of the items is kept.
        retry: whether a record in the file is made again (one that failed, for example).
    """
    done = {(record["id"], record["key"]): record for record in read_lines(path)}
    lock = threading.Lock()
    with open_journal(path) as file:

        def one(item: HasIdT) -> JsonObject:
            name = key if isinstance(key, str) else key(item)
            record = done.get((item.id, name))
            if record is not None and not (retry and retry(record)):
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


def read_records(path: Path, key: str) -> dict[str, JsonObject]:
    """Records of one key by id; the last one of an id counts."""
    return {record["id"]: record for record in read_lines(path) if record["key"] == key}


def read_lines(path: Path) -> list[JsonObject]:
    """All records of a file, without lines that a kill cut off; none if there is no file.

    Raises:
        ValueError: a complete line that is no JSON object.
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


def balanced_order(items: Sequence[T], group_of: Callable[[T], str], seed: int) -> list[T]:
    """Items in an order whose first N, for every N, have nearly equally many of each group: shuffled, then in turn."""
    groups: dict[str, list[T]] = defaultdict(list)
    for item in items:
        groups[group_of(item)].append(item)
    rng = random.Random(seed)
    piles = [groups[name] for name in sorted(groups)]
    for pile in piles:
        rng.shuffle(pile)
    rng.shuffle(piles)
    longest = max(map(len, piles), default=0)
    return [pile[place] for place in range(longest) for pile in piles if place < len(pile)]
