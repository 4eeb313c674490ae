"""The index of a folder of Shar shards: where each item's audio is, and what batches are formed by.

A run reads this one file, not the shards, and asks the system about no file; then it reads any item with one read of
its shard, in any order. So shuffling, resuming and several processes need no copy of the corpus, and no stream to wind
on.

Layout: a folder as lhotse writes it (``CutSet.to_shar``), and the index beside it, as lhotse takes each file in it for
a shard::

    train/cuts.000000.jsonl.gz  train/recording.000000.tar  train/cuts.000001.jsonl.gz ...  train.index.npz

Source: https://lhotse.readthedocs.io/en/latest/api.html#lhotse.shar.writers.shar.SharWriter
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from echox.data.shards.files import joined, names_in, opened, read_bytes, write_bytes
from echox.files import JsonObject

INDEX_SUFFIX = ".index.npz"
_CUTS = re.compile(r"cuts\.(\d+)\.jsonl\.gz")
_KEPT_SHARDS = 32
"""Shards whose cuts a reader keeps, as compressed lines are not read one by one: about 1 MB each."""
_REMEDY = "write the shards again (echox run, stage prepare_data), or index them again: echox data index"


@dataclass(frozen=True)
class ShardIndex:
    """Where the items of a folder are.

    Attributes:
        folder: path or address.
        shards: number of each shard, as in its files' names.
        sizes: (shards,) items of each.
        offsets: (items,) first byte of each item's audio in its archive; num_bytes: (items,) of it, 0: none.
        columns: (items,) numbers by name, such as lengths.
    """

    folder: str
    shards: tuple[str, ...]
    sizes: np.ndarray
    offsets: np.ndarray
    num_bytes: np.ndarray
    columns: dict[str, np.ndarray]
    ends: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ends", np.cumsum(self.sizes))

    def __len__(self) -> int:
        return len(self.offsets)

    def place(self, item: int) -> tuple[int, int]:
        """The shard of an item, by its place in `shards`, and the item's row in it."""
        shard = int(np.searchsorted(self.ends, item, side="right"))
        return shard, item - int(self.ends[shard] - self.sizes[shard])

    def shard_of_items(self) -> np.ndarray:
        """(items,) the shard of each item, by its place in `shards`."""
        return np.repeat(np.arange(len(self.shards)), self.sizes)


def index_of(folder: str) -> str:
    """Where the index of a folder of shards is."""
    return folder.rstrip("/") + INDEX_SUFFIX


def write_index(folder: str, measure: Callable[[JsonObject], dict[str, int]]) -> ShardIndex:
    """Index the shards of a folder: reads all cuts, and of the archives the headers.

    Args:
        folder: path or address.
        measure: numbers of a cut (its JSON object), by name of the column.

    Raises:
        ValueError: no shards, or damaged ones.
        OSError: the index cannot be written.
    """
    numbers = [matched[1] for name in names_in(folder) if (matched := _CUTS.fullmatch(name))]
    if not numbers:
        raise ValueError(f"{folder}: expected shards (cuts.000000.jsonl.gz, recording.000000.tar), found none")
    sizes: list[int] = []
    places: list[tuple[int, int]] = []
    measured: list[dict[str, int]] = []
    for number in numbers:
        cuts = [json.loads(line) for line in _lines(folder, number)]
        names, found = _members(folder, number)
        if names != [cut["id"] for cut in cuts]:
            raise ValueError(
                f"{folder}: shard {number}: expected the audio of its {len(cuts)} cuts in their order, found "
                f"{len(names)} recordings, or others; {_REMEDY}"
            )
        sizes.append(len(cuts))
        places += found
        measured += [measure(cut) for cut in cuts]
    at = np.array(places, dtype=np.int64).reshape(-1, 2)
    columns = {name: np.array([row[name] for row in measured], dtype=np.int32) for name in (measured or [{}])[0]}
    index = ShardIndex(folder, tuple(numbers), np.array(sizes), at[:, 0], at[:, 1].astype(np.int32), columns)
    content = io.BytesIO()
    arrays = {"shards": np.array(numbers), "sizes": index.sizes, "offsets": index.offsets, "num_bytes": index.num_bytes}
    arrays |= {f"column_{name}": values for name, values in columns.items()}
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_bytes(index_of(folder), content.getvalue())
    return index


def read_index(folder: str) -> ShardIndex:
    """The index of a folder.

    Raises:
        ValueError: there is none, or a damaged one.
    """
    where = index_of(folder)
    try:
        with np.load(io.BytesIO(read_bytes(where)), allow_pickle=False) as found:
            columns = {name.removeprefix("column_"): found[name] for name in found.files if name.startswith("column_")}
            index = ShardIndex(
                folder,
                tuple(str(number) for number in found["shards"]),
                found["sizes"],
                found["offsets"],
                found["num_bytes"],
                columns,
            )
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{where}: expected an index of shards, found {error}; {_REMEDY}") from error
    counts = {len(values) for values in (index.offsets, index.num_bytes, *columns.values())}
    if counts != {int(index.sizes.sum())}:
        raise ValueError(
            f"{where}: expected {int(index.sizes.sum())} numbers in each column, found {counts}; {_REMEDY}"
        )
    return index


class ShardReader:
    """Reads single items of indexed shards. Holds no open file, so a process may be forked while it reads."""

    def __init__(self, index: ShardIndex) -> None:
        self.index = index
        self._kept: OrderedDict[int, list[bytes]] = OrderedDict()

    def cut(self, item: int) -> JsonObject:
        """The item's cut as a JSON object.

        Raises:
            ValueError: the shard is damaged, or not the one that was indexed.
        """
        shard, row = self.index.place(item)
        if shard not in self._kept:
            lines = _lines(self.index.folder, self.index.shards[shard])
            expected, number = self.index.sizes[shard], self.index.shards[shard]
            if len(lines) != expected:
                raise ValueError(
                    f"{self.index.folder}: shard {number}: expected {expected} cuts as in its index, found "
                    f"{len(lines)}; {_REMEDY}"
                )
            self._kept[shard] = lines
            while len(self._kept) > _KEPT_SHARDS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(shard)
        return json.loads(self._kept[shard][row])

    def audio(self, item: int) -> bytes:
        """The item's recording as a file in memory; empty if it has none.

        Raises:
            ValueError: the shard cannot be read, or is cut.
        """
        count, start = int(self.index.num_bytes[item]), int(self.index.offsets[item])
        if not count:
            return b""
        where = _archive(self.index.folder, self.index.shards[self.index.place(item)[0]])
        content = read_bytes(where, start, start + count)
        if len(content) < count:
            raise ValueError(f"{where}: expected {count} bytes at {start}, found {len(content)}: it is cut; {_REMEDY}")
        return content


def _archive(folder: str, number: str) -> str:
    return joined(folder, f"recording.{number}.tar")


def _lines(folder: str, number: str) -> list[bytes]:
    where = joined(folder, f"cuts.{number}.jsonl.gz")
    try:
        return gzip.decompress(read_bytes(where)).splitlines()
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{where}: expected lines of JSON in gzip, found {error}; {_REMEDY}") from error


def _members(folder: str, number: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Ids of the recordings in an archive, in order, and (first byte, bytes) of each; without audio 0 bytes."""
    where = _archive(folder, number)
    names, places = [], []
    try:
        with opened(where) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                name, _, suffix = member.name.rpartition(".")
                if suffix not in ("json", "nometa"):
                    names.append(name)
                    places.append((member.offset_data, member.size))
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{where}: expected an uncompressed tar archive, found {error}; {_REMEDY}") from error
    return names, places
