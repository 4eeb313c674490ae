"""Loading of published k-means centroids: `.npy`, safetensors, and scikit-learn models saved by joblib or pickle.

HuBERT's and mHuBERT's centroids are published as a pickled ``MiniBatchKMeans``. A pickle is a program that can run any
code when it is loaded, so `read_centroids` never runs one. It interprets the instructions with an unpickler that builds
inert records only (`Record`: a name, arguments, a state), refuses every name outside numpy, scikit-learn and joblib's
array wrapper, and then makes arrays from the records. Neither scikit-learn nor joblib is needed.

Source: https://github.com/facebookresearch/fairseq (examples/textless_nlp, examples/speech_to_speech: km.bin files);
the stream format: https://docs.python.org/3/library/pickletools.html, https://joblib.readthedocs.io/en/stable/persistence.html
"""

from __future__ import annotations

import bz2
import io
import lzma
import math
import os
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

CENTROID_NAMES = ("cluster_centers_", "cluster_centers", "centroids", "means_")
"""Attributes and tensor names that hold centroids; `cluster_centers_` is scikit-learn's."""

MAX_BYTES = 2**31
"""Largest size of a decompressed model: a thousand times the largest published one; a limit for malicious files."""

_PACKAGES = ("numpy", "sklearn", "scipy", "joblib")
_HARMLESS = {
    "collections.OrderedDict",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "builtins.object",
    "_codecs.encode",
}
_ARRAY_KINDS = "fiub"  # floats, integers, booleans

Value = TypeVar("Value")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


# First bytes of a compressed file -> its decompressor; joblib writes all of these.
_COMPRESSIONS: dict[bytes, Callable[[], _Decompressor]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"\x78": zlib.decompressobj,
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"\x5d\x00": lzma.LZMADecompressor,
}


def read_centroids(path: str | os.PathLike[str]) -> Tensor:
    """Centroids (units, features) float32 of a `.npy`, `.safetensors`, or joblib/pickle file of scikit-learn.

    Args:
        path: of the file; its content decides if the name does not tell the format (fairseq's ``km.bin``).

    Raises:
        ValueError: no such file, no centroids in it, not finite, or a pickle that contains other things than arrays.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a file of centroids (.npy, .safetensors, joblib or pickle), found none")
    try:
        array = _read(path)
    except (SafetensorError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ValueError(f"{path}: expected a whole file of centroids, found {error}; download it again") from error
    if array.ndim != 2 or array.dtype.kind not in _ARRAY_KINDS or 0 in array.shape:
        raise ValueError(f"{path}: expected centroids (units, features), found {array.dtype} of shape {array.shape}")
    centroids = torch.from_numpy(np.array(array, dtype=np.float32))
    if not bool(torch.isfinite(centroids).all()):
        raise ValueError(f"{path}: expected finite centroids, found nan or inf; download it again")
    return centroids


def _read(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        magic = file.read(8)
    if magic.startswith(b"\x93NUMPY"):
        try:
            return np.load(path, allow_pickle=False)
        except ValueError as error:  # of objects, or cut off
            raise ValueError(f"{path}: expected a whole array of numbers, found: {error}") from error
    if path.suffix == ".safetensors":
        return _named(load_file(path), path).float().numpy()
    return _centroids_of(read_records(_decompressed(path.read_bytes(), path), path), path)


def _named(values: Mapping[str, Value], where: Path) -> Value:
    """The centroids among named values: by a known name, or the only one there is."""
    for name in CENTROID_NAMES:
        if name in values:
            return values[name]
    if len(values) == 1:
        return next(iter(values.values()))
    raise ValueError(f"{where}: expected one of {', '.join(CENTROID_NAMES)}, found {', '.join(map(str, values))[:200]}")


def _decompressed(data: bytes, path: Path) -> bytes:
    if data.startswith(b'\x04"M\x18'):
        raise ValueError(f"{path}: expected zlib, gzip, bz2, xz, lzma or no compression, found lz4; save it again")
    for magic, opened in _COMPRESSIONS.items():
        if data.startswith(magic):
            decompressor = opened()
            content = decompressor.decompress(data, MAX_BYTES)
            if not decompressor.eof:
                raise ValueError(
                    f"{path}: expected a whole compressed file of at most {MAX_BYTES} bytes, found one that is cut off "
                    "or larger; download it again"
                )
            return content
    return data


# ------------------------------------------------------------------------------ pickles, read without running them


class Record:
    """The description of an object in a pickle, with arguments and state; the object itself is never made."""

    path = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: object, **_: object) -> Record:
        """Store the arguments here: some pickles call ``__new__`` only."""
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *_: object, **__: object) -> None:
        """Accept any arguments: ``__new__`` has stored them."""

    def __setstate__(self, state: object) -> None:
        self.state = state


class _RecordUnpickler(pickle._Unpickler):  # the Python version: joblib's arrays follow a BUILD in the stream
    """Makes `Record`s of a pickle's instructions, and reads the arrays that joblib wrote between them."""

    stack: list[object]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.file = file

    def find_class(self, module: str, name: str) -> type[Record]:
        """A new subclass of `Record` for any name in the pickle: nothing is ever imported."""
        path = f"{module}.{name}"
        if path not in _HARMLESS and module.split(".")[0] not in _PACKAGES:
            raise ValueError(
                f"expected arrays of a scikit-learn k-means, found a call of {path}, which could run any code; do not "
                "load this file with other tools, use centroids as .npy or safetensors"
            )
        return type("Record", (Record,), {"path": path})

    def load_build(self) -> None:
        """State of a record; a joblib array wrapper is followed by the bytes of its array."""
        pickle._Unpickler.dispatch[pickle.BUILD[0]](self)  # type: ignore[arg-type]
        record = self.stack[-1]
        if isinstance(record, Record) and record.path.endswith(".NumpyArrayWrapper"):
            self.stack[-1] = self._array(dict(record.state))

    dispatch[pickle.BUILD[0]] = load_build

    def _array(self, wrapper: dict[str, Any]) -> np.ndarray:
        if wrapper.get("numpy_array_alignment_bytes") is not None:  # joblib >= 1.2: one byte of length, then padding
            self.file.read(self.file.read(1)[0])
        dtype, shape = _dtype(wrapper["dtype"]), tuple(wrapper["shape"])
        return _filled(self.file.read(math.prod(shape) * dtype.itemsize), dtype, shape, wrapper["order"] == "F")


def read_records(data: bytes, where: Path) -> object:
    """A pickle as `Record`s, numpy arrays (joblib's) and Python's own containers; no code is run.

    Raises:
        ValueError: it names anything outside numpy, scipy, scikit-learn and joblib, or is not a whole pickle.
    """
    try:
        return _RecordUnpickler(io.BytesIO(data)).load()
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        OverflowError,
        MemoryError,
        RecursionError,
        UnicodeDecodeError,
    ) as error:  # errors of broken bytes
        raise ValueError(
            f"{where}: expected .npy, safetensors, or a pickled scikit-learn k-means, found none of them "
            f"({type(error).__name__}: {error})"
        ) from error


def _centroids_of(found: object, where: Path) -> np.ndarray:
    """The centroids in an unpickled model, dictionary or bare array."""
    if isinstance(found, Record) and isinstance(found.state, dict):
        found = found.state
    if isinstance(found, dict):
        found = _named(found, where)
    try:
        return to_array(found)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: expected centroids of numbers, found {str(error)[:200]}") from error


def to_array(found: object) -> np.ndarray:
    """A numpy array, from an array or from a record of one.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(found, np.ndarray):
        return found
    if not isinstance(found, Record):
        raise ValueError(f"expected an array, found {type(found).__name__}")
    name = found.path.rsplit(".", 1)[-1]
    if name == "_frombuffer":  # protocol 5
        data, dtype, shape, order = found.args
        return _filled(bytes(data), _dtype(dtype), tuple(shape), order == "F")
    if name == "_reconstruct" and isinstance(found.state, tuple):
        _, shape, dtype, fortran, data = found.state
        if isinstance(data, Record) and data.path == "_codecs.encode":  # protocol 2 writes bytes as text
            data = data.args[0].encode("latin1")
        return _filled(data, _dtype(dtype), tuple(shape), bool(fortran))
    raise ValueError(f"expected an array, found {name}")


def _dtype(record: Record) -> np.dtype:
    """The number type of a pickled ``numpy.dtype``; objects and structures are refused."""
    code, order = str(record.args[0]), record.state[1] if record.state else "="
    if code[:1] not in _ARRAY_KINDS or not code[1:].isdigit():
        raise ValueError(f"expected an array of numbers, found numpy type {code!r}")
    return np.dtype(code if order == "|" else f"{order}{code}")


def _filled(data: object, dtype: np.dtype, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    expected = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes | bytearray) or len(data) != expected:
        found = f"{len(data)} bytes" if isinstance(data, bytes | bytearray) else type(data).__name__
        raise ValueError(f"expected {expected} bytes for {shape}, found {found}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
