"""Pseudo-labels of stage "echo" kept in a file, by what the model said: for all processes of a machine, and restarts.

A frozen, greedy teacher gives a segment the same unit words whenever it is asked. In memory a process finds only what
it has asked itself, and batches are dealt to other processes in every epoch; in the file it finds what any of them has.
"""

from __future__ import annotations

import hashlib
import sqlite3
from array import array
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

Label = tuple[list[int], list[int]]
"""Unit words, and the text word of each; empty for a segment without a target."""

_WAIT_S = 60.0
_ASKED_AT_ONCE = 500


class LabelCache:
    """Labels of one teacher in an SQLite file, which must be on a disk of this machine (locks of network disks fail).

    Args:
        path: of the file, made where it does not exist.
        teacher: whose weights are part of every key: another teacher finds nothing.
        max_unit_words: limit of a segment, also part of the key.

    Raises:
        ValueError: the file is no cache.
    """

    def __init__(self, path: str | Path, teacher: nn.Module, max_unit_words: int) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._prefix = _fingerprint(teacher) + max_unit_words.to_bytes(4, "little")
        try:
            self._file = sqlite3.connect(self._path, timeout=_WAIT_S, isolation_level=None)
            self._file.execute("PRAGMA journal_mode=WAL")
            self._file.execute("PRAGMA synchronous=OFF")  # after a crash of the machine, labels are made again
            self._file.execute("CREATE TABLE IF NOT EXISTS labels (key BLOB PRIMARY KEY, label BLOB) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{path}: expected a cache of labels or no file, found {error}; name another file as targets.cache"
            ) from error

    def find(self, names: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Label]:
        """The labels that are kept, by the tokens of their segments."""
        keys = {self._key(name): name for name in names}
        found = {}
        asked = list(keys)
        for start in range(0, len(asked), _ASKED_AT_ONCE):
            part = asked[start : start + _ASKED_AT_ONCE]
            marks = ",".join("?" * len(part))
            for key, label in self._file.execute(f"SELECT key, label FROM labels WHERE key IN ({marks})", part):
                numbers = array("i", label)
                count = len(numbers) // 2
                found[keys[key]] = numbers[:count].tolist(), numbers[count:].tolist()
        return found

    def keep(self, labels: Mapping[tuple[int, ...], Label]) -> None:
        """Add labels; those of another process that came first stay."""
        rows = [(self._key(name), array("i", [*words, *of]).tobytes()) for name, (words, of) in labels.items()]
        self._file.execute("BEGIN IMMEDIATE")
        self._file.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?)", rows)
        self._file.execute("COMMIT")

    def __len__(self) -> int:
        return int(self._file.execute("SELECT COUNT(*) FROM labels").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _key(self, name: tuple[int, ...]) -> bytes:
        return hashlib.sha256(self._prefix + array("i", name).tobytes()).digest()


def _fingerprint(teacher: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, value in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
