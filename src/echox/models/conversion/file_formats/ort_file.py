"""Weights of an ONNX-runtime file (``.ort``), read without ONNX runtime: a flatbuffer whose offsets are all checked.

Such a file holds a graph whose nodes have the paths of the modules that they were exported from. So a weight is found
by the node that uses it: ``/layers.0/mlp/fc1/MatMul_quant`` multiplies by the transpose of ``layers.0.mlp.fc1``'s.
Matrices of 8 bits are dequantised: ``scale * (value - zero_point)``.

Source: the schema, https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/flatbuffers/schema/ort.fbs; the
layout of tables and vectors, https://flatbuffers.dev/internals/.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

IDENTIFIER = b"ORTM"
"""Bytes 4 to 7 of every ``.ort`` file."""

# Fields of tables, by their number in the schema.
_SESSION_MODEL, _MODEL_GRAPH = 1, 7
_GRAPH_INITIALIZERS, _GRAPH_NODES = 0, 2
_NODE_NAME, _NODE_OP, _NODE_INPUTS, _NODE_ATTRIBUTES = 0, 5, 8, 10
_ATTRIBUTE_GRAPH = 7
_TENSOR_NAME, _TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_DATA = 0, 2, 3, 4
_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
"""Types of tensors that hold weights (ONNX's TensorProto.DataType)."""
_MAX_DEPTH = 8
"""Most graphs within graphs; a decoder with a cache has one level (a branch with and one without it)."""


@dataclass(frozen=True)
class Node:
    """An operation: its path, its kind, and the names of its inputs."""

    name: str
    kind: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class OrtGraph:
    """Tensors by name, and nodes, of a graph and of all graphs within it."""

    tensors: dict[str, np.ndarray]
    nodes: tuple[Node, ...]


def read_ort(path: Path) -> OrtGraph:
    """Read an ``.ort`` file.

    Raises:
        ValueError: it is none, or it is damaged.
    """
    data = path.read_bytes()
    if data[4:8] != IDENTIFIER:
        raise ValueError(
            f"{path}: expected an ONNX-runtime file ({IDENTIFIER!r} at byte 4), found {data[4:8]!r}; install the "
            "package again"
        )
    tensors: dict[str, np.ndarray] = {}
    nodes: list[Node] = []
    try:
        session = _Table(data, _unsigned(data, 0))
        _collect(session.table(_SESSION_MODEL).table(_MODEL_GRAPH), tensors, nodes, 0)
    except (struct.error, UnicodeDecodeError, IndexError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path}: expected a whole ONNX-runtime file, found {error}; install the package again") from (
            error
        )
    return OrtGraph(tensors, tuple(nodes))


def module_weights(graph: OrtGraph) -> dict[str, np.ndarray]:
    """Weights by the names of the exported PyTorch modules, dequantised, float32.

    They are: tensors that kept their names (without what the exporters of optimum and ONNX runtime append), matrices by
    their products' nodes, tables by their look-ups', and scale and shift of a group normalisation.

    Raises:
        ValueError: two different weights under one name.
    """
    found: dict[str, np.ndarray] = {}

    def add(name: str, value: np.ndarray) -> None:
        before = found.setdefault(name, value)
        if before.shape != value.shape or not np.array_equal(before, value):
            raise ValueError(f"{name}: expected one weight of this name, found two that differ")

    for name, value in graph.tensors.items():
        own = _APPENDED.sub("", name)
        if value.dtype == np.float32 and re.fullmatch(r"\w+(\.\w+)*\.(weight|bias)", own):
            add(own, value)
    for node in graph.nodes:
        path, _, kind = node.name.strip("/").rpartition("/")
        module = path.replace("/", ".")
        if kind.startswith("MatMul") and len(node.inputs) > 1 and node.inputs[1] in graph.tensors:
            add(f"{module}.weight", np.ascontiguousarray(_dequantised(graph.tensors, node.inputs[1]).T))
        elif kind == "Gather" and node.inputs[0] in graph.tensors and graph.tensors[node.inputs[0]].ndim == 2:
            add(f"{module}.weight", _dequantised(graph.tensors, node.inputs[0]))
        elif module.endswith("groupnorm") and kind in ("Mul", "Add") and node.inputs[1] in graph.tensors:
            part = "weight" if kind == "Mul" else "bias"
            add(f"{module}.{part}", graph.tensors[node.inputs[1]].reshape(-1))
    return found


_APPENDED = re.compile(r"(_merged_\d+|_add_tensor)+$")
_QUANTIZED = "_quantized"


def _dequantised(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    value = tensors[name]
    if not name.endswith(_QUANTIZED):
        return value.astype(np.float32)
    stem = name.removesuffix(_QUANTIZED)
    missing = [part for part in ("_scale", "_zero_point") if stem + part not in tensors]
    if missing:
        raise ValueError(f"{name}: expected {stem}{missing[0]} beside it, found none; install the package again")
    zero = tensors[f"{stem}_zero_point"].astype(np.int32)
    return (value.astype(np.int32) - zero).astype(np.float32) * tensors[f"{stem}_scale"].astype(np.float32)


# -------------------------------------------------------------------------------- flatbuffers


@dataclass(frozen=True)
class _Table:
    """A table at a place in the bytes; its fields are found through its table of offsets."""

    data: bytes
    place: int

    def field(self, number: int) -> int | None:
        """Place of a field; None: it has its default."""
        offsets = self.place - _signed(self.data, self.place)
        entry = 4 + 2 * number
        if offsets < 0 or entry >= _short(self.data, offsets):
            return None
        offset = _short(self.data, offsets + entry)
        return self.place + offset if offset else None

    def table(self, number: int) -> _Table:
        """A table that must be there."""
        place = self.field(number)
        if place is None:
            raise IndexError(f"a table without its field {number}")
        return _Table(self.data, place + _unsigned(self.data, place))

    def vector(self, number: int) -> tuple[int, int]:
        """Place of the first element, and number of elements."""
        place = self.field(number)
        if place is None:
            return 0, 0
        start = place + _unsigned(self.data, place)
        return start + 4, _unsigned(self.data, start)

    def tables(self, number: int) -> Iterator[_Table]:
        """Tables of a vector."""
        start, count = self.vector(number)
        for place in range(start, start + 4 * count, 4):
            yield _Table(self.data, place + _unsigned(self.data, place))

    def text(self, number: int) -> str:
        """A string; empty where there is none."""
        start, count = self.vector(number)
        return self.data[start : start + count].decode("utf-8")

    def texts(self, number: int) -> tuple[str, ...]:
        """Strings of a vector."""
        start, count = self.vector(number)
        places = (place + _unsigned(self.data, place) for place in range(start, start + 4 * count, 4))
        return tuple(self.data[at + 4 : at + 4 + _unsigned(self.data, at)].decode("utf-8") for at in places)


def _unsigned(data: bytes, place: int) -> int:
    return int(struct.unpack_from("<I", data, _inside(place))[0])


def _signed(data: bytes, place: int) -> int:
    return int(struct.unpack_from("<i", data, _inside(place))[0])


def _short(data: bytes, place: int) -> int:
    return int(struct.unpack_from("<H", data, _inside(place))[0])


def _inside(place: int) -> int:
    if place < 0:  # struct would count from the end
        raise IndexError(f"an offset to byte {place}")
    return place


def _collect(graph: _Table, tensors: dict[str, np.ndarray], nodes: list[Node], depth: int) -> None:
    """Add tensors and nodes of a graph and of the graphs within it."""
    if depth > _MAX_DEPTH:
        raise IndexError(f"more than {_MAX_DEPTH} graphs within each other")
    for stored in graph.tables(_GRAPH_INITIALIZERS):
        kind = stored.field(_TENSOR_TYPE)
        dtype = _DTYPES.get(0 if kind is None else _unsigned(stored.data, kind))
        if dtype is not None:
            tensors[stored.text(_TENSOR_NAME)] = _tensor(stored, np.dtype(dtype))
    for node in graph.tables(_GRAPH_NODES):
        nodes.append(Node(node.text(_NODE_NAME), node.text(_NODE_OP), node.texts(_NODE_INPUTS)))
        for attribute in node.tables(_NODE_ATTRIBUTES):
            if attribute.field(_ATTRIBUTE_GRAPH) is not None:
                _collect(attribute.table(_ATTRIBUTE_GRAPH), tensors, nodes, depth + 1)


def _tensor(stored: _Table, dtype: np.dtype) -> np.ndarray:
    """The values of a tensor, whose size must be that of its bytes."""
    start, count = stored.vector(_TENSOR_DIMS)
    shape = struct.unpack_from(f"<{count}q", stored.data, start) if count else ()
    first, size = stored.vector(_TENSOR_DATA)
    expected = dtype.itemsize
    for length in shape:
        expected *= max(0, length)
    if size != expected or first + size > len(stored.data):
        raise IndexError(f"{size} bytes for a tensor of {expected} ({stored.text(_TENSOR_NAME)})")
    return np.frombuffer(stored.data, dtype, size // dtype.itemsize, first).reshape(shape)
