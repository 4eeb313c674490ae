"""Published checkpoints: names and shapes of all tensors first, then the tensors one by one.

A checkpoint is opened by its headers: names, shapes and lengths of all shards are checked first, so that a truncated or
incomplete download is refused before memory is filled or a file written. `StoredTensor.load` then reads one tensor, so
that no more than the requested tensors are in memory. safetensors shards and torch pickles (``weights_only``,
memory-mapped) have the same interface.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from echox.models.conversion.file_formats.torch_file import check_tensor, check_torch_file
from echox.models.conversion.hub_files import find_file, find_first

JsonObject = dict[str, Any]
"""A JSON object of a file; its values are of any type until they are checked."""
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Single files; each may also be an index (``.index.json``) of shards."""
_SHARD_NAME = re.compile(r"[^/\\:\0]+\.(safetensors|bin)")
_MAX_DIMENSIONS = 32  # of numpy 1; weights have four
_MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader
_BROKEN_PICKLE = (
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    ImportError,
    struct.error,
)
"""Errors of ``torch.load`` for files that are not torch files."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its shape and dtype, and ``load``, which reads it into memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    load: Callable[[], Tensor]

    @property
    def num_bytes(self) -> int:
        """Size as stored."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_json(path: Path) -> JsonObject:
    """The JSON object in a file.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON, found {_reason(error)}; download it again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def open_checkpoint(folder_or_id: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """All tensors of a folder or hub repository: ``model.safetensors``, ``pytorch_model.bin``, or shards of either.

    Raises:
        ValueError: no weights, a shard that is missing or truncated, or an index that does not fit its shards or names
            files elsewhere.
    """
    found = find_first(folder_or_id, [one for name in WEIGHT_FILES for one in (f"{name}.index.json", name)])
    if found is not None:
        return _open_shards(folder_or_id, found) if found.suffix == ".json" else open_weights(found)
    raise ValueError(f"{folder_or_id}: expected {' or '.join(WEIGHT_FILES)} (or an index of shards), found neither")


def _open_shards(folder_or_id: str | os.PathLike[str], index: Path) -> dict[str, StoredTensor]:
    shard_of = read_shard_index(index)
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted(set(shard_of.values())):
        path = find_file(folder_or_id, shard)
        if path is None:
            raise ValueError(f"{folder_or_id}: expected the shard {shard} that {index.name} names, found none")
        found = open_weights(path)
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise ValueError(f"{path}: expected every tensor in one shard, found {_some(twice)} in another one, too")
        tensors |= found
    absent = sorted(set(shard_of) - set(tensors))
    if absent:
        raise ValueError(
            f"{index}: expected its shards to hold {_some(absent)}, found none of them; download them again"
        )
    return tensors


def read_shard_index(index: Path) -> dict[str, str]:
    """Names of tensors to names of the shards beside the index.

    Raises:
        ValueError: it is not an index, or names other things than files beside it.
    """
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise ValueError(f"{index}: expected a weight_map of names to shards, found none; download it again")
    for shard in shard_of.values():
        beside = isinstance(shard, str) and _SHARD_NAME.fullmatch(shard) is not None
        if not beside:
            raise ValueError(
                f"{index}: expected names of .safetensors or .bin files beside it, found {str(shard)[:100]!r}; "
                "download it again"
            )
    return shard_of


def open_weights(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file.

    Raises:
        ValueError: it is truncated or not a file of weights.
    """
    return _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Tensors by the header, which is checked against the format's definition: https://github.com/huggingface/safetensors."""
    header, start, size = _read_header(path)
    tensors, spans = {}, []
    for name, entry in header.items():
        try:
            dtype, shape, (first, last) = _read_entry(entry)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: {name[:99]}: expected dtype (one of {', '.join(SAFETENSORS_DTYPES)}), shape "
                f"and data_offsets, found {str(entry)[:100]}"
            ) from error
        if last - first != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{path}: {name}: expected {dtype} {shape}, found {last - first} bytes")
        if start + last > size:
            raise ValueError(
                f"{path}: expected {start + last} bytes or more, found {size}: the file is truncated, download it again"
            )
        spans.append((first, last, name))
        tensors[name] = StoredTensor(shape, dtype, _bytes_reader(path, start + first, shape, dtype))
    end = 0
    for first, last, name in sorted(spans):
        if first != end:
            raise ValueError(
                f"{path}: {name}: expected its bytes to begin at {end}, after the tensor before it, "
                f"found {first}; download it again"
            )
        end = last
    if start + end != size:
        raise ValueError(f"{path}: expected {start + end} bytes, found {size}; download it again")
    return tensors


def _read_header(path: Path) -> tuple[JsonObject, int, int]:
    """Entries by tensor, the place of the first byte after the header, and the size of the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > size - 8:
            raise ValueError(
                f"{path}: expected a safetensors header of {length} bytes, found {size} bytes in all; "
                "the file is truncated or not a safetensors file, download it again"
            )
        if length > _MAX_HEADER_BYTES:
            raise ValueError(
                f"{path}: expected a safetensors header of at most {_MAX_HEADER_BYTES} bytes, found {length}"
            )
        try:
            header = json.loads(file.read(length), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            reason = _reason(error)
            raise ValueError(f"{path}: expected a safetensors header, found {reason}; download it again") from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: expected a safetensors header, found {type(header).__name__}; download it again")
    header.pop("__metadata__", None)
    return header, 8 + length, size


def _read_entry(entry: JsonObject) -> tuple[torch.dtype, tuple[int, ...], tuple[int, int]]:
    """Dtype, shape and offsets of a tensor.

    Raises:
        KeyError, TypeError, ValueError: they are missing or of another type.
    """
    dtype, shape, (first, last) = SAFETENSORS_DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not all(type(value) is int and value >= 0 for value in [*shape, first, last]):
        raise ValueError("expected whole numbers of at least 0")
    if first > last:
        raise ValueError("expected offsets in order")
    if len(shape) > _MAX_DIMENSIONS or math.prod(max(1, value) for value in shape) >= 2**63:
        raise ValueError("expected a shape that a tensor can have")  # an empty one has strides, too
    return dtype, tuple(shape), (first, last)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name that occurs twice")
    return found


def _bytes_reader(path: Path, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Callable[[], Tensor]:
    def load() -> Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        # Read into the tensor's own memory: a memory map would be a second copy.
        buffer = tensor.view(-1).view(torch.uint8).numpy().data
        with path.open("rb") as file:
            file.seek(offset)
            if buffer.nbytes and file.readinto(buffer) != buffer.nbytes:
                raise ValueError(f"{path}: expected {buffer.nbytes} bytes at {offset}, found fewer: it was truncated")
        return tensor

    return load


def _open_pickle(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a torch file: no code in it is run (``weights_only``), and tensors are read on demand."""
    check_torch_file(path)
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):  # the format before torch 1.6 cannot be mapped
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to run what is in the file
        raise ValueError(
            f"{path}: expected a torch file of tensors and nothing else, found other objects or damage; "
            "no code in it was run; use safetensors, or download it again"
        ) from error
    except _BROKEN_PICKLE as error:
        raise ValueError(
            f"{path}: expected a torch file of tensors, found {_reason(error)}; download it again"
        ) from error
    if isinstance(content, dict) and set(content) == {"generator"}:  # how fairseq's vocoders are stored
        content = content["generator"]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise ValueError(f"{path}: expected tensors by name, found other objects; name a checkpoint of the model")
    for name, value in content.items():
        check_tensor(path, name, value)
    return {name: StoredTensor(tuple(value.shape), value.dtype, value.clone) for name, value in content.items()}


def check_names(
    what: str, expected: dict[str, tuple[int, ...]], found: dict[str, StoredTensor], optional: Iterable[str] = ()
) -> None:
    """Check all names and shapes at once.

    Args:
        what: name of the checkpoint, for the message.
        expected: shape of every needed tensor.
        found: the tensors of the checkpoint.
        optional: names that are allowed but not needed.

    Raises:
        ValueError: names that are missing, unexpected or of another shape; all of them are listed.
    """
    missing = sorted(set(expected) - set(found))
    unexpected = sorted(set(found) - set(expected) - set(optional))
    misshapen = [
        f"{name} (expected {tuple(shape)}, found {found[name].shape})"
        for name, shape in sorted(expected.items())
        if name in found and found[name].shape != tuple(shape)
    ]
    problems = [
        f"{kind} {', '.join(names)}"
        for kind, names in (("missing:", missing), ("unexpected:", unexpected), ("misshapen:", misshapen))
        if names
    ]
    if problems:
        raise ValueError(
            f"{what}: expected the {len(expected)} tensors of its configuration, found "
            f"{'; '.join(problems)}. Use the config.json of these weights."
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "something nested too deeply"
    return " ".join(str(error).split())[:200] or type(error).__name__
