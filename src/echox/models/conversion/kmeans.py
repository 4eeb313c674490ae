"""Published k-means centroids into a tensor: `.npy`, safetensors, and scikit-learn models saved by joblib or pickle.

HuBERT's and mHuBERT's centroids are published as a pickled ``MiniBatchKMeans``. A pickle is a program: loading one runs
whatever its author wrote. `read_centroids` therefore never runs one. It interprets the instructions with an unpickler
that builds inert records only (`Record`: a name, arguments, a state), refuses every name outside numpy, scikit-learn
and joblib's array wrapper, and makes arrays out of the records afterwards. Neither scikit-learn nor joblib is needed.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

CENTROID_NAMES = ("cluster_centers_", "cluster_centers", "centroids", "means_")
"""Attributes and tensor names that hold centroids; `cluster_centers_` is scikit-learn's."""

MAX_BYTES = 2**31
"""Of a decompressed model: a thousand times the largest published one, and an end to what a small file may demand."""

_PACKAGES = ("numpy", "sklearn", "scipy", "joblib")
_HARMLESS = {
    "collections.OrderedDict",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "builtins.object",
    "_codecs.encode",
}
_ARRAY_KINDS = "fiub"  # floats, integers, booleans

# First bytes of a compressed file -> how it is decompressed; joblib writes all of these.
_COMPRESSIONS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": lambda: zlib.decompressobj(wbits=31),
    b"\x78": zlib.decompressobj,
    b"BZ": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
    b"\x5d\x00": lzma.LZMADecompressor,
}


def read_centroids(path: str | os.PathLike[str]) -> Tensor:
    """Centroids (units, features) float32 of a `.npy`, `.safetensors`, or joblib/pickle file of scikit-learn.

    Args:
        path: of the file; its content decides where the name says nothing (fairseq's ``km.bin``).

    Raises:
        ValueError: no such file, no centroids in it, not finite, or a pickle that asks for anything but arrays.
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


def _named(values: dict[str, Any], where: Path) -> Any:
    """The centroids among named values: by a known name, or the only one there is."""
    for name in CENTROID_NAMES:
        if name in values:
            return values[name]
    if len(values) == 1:
        return next(iter(values.values()))
    raise ValueError(f"{where}: expected one of {', '.join(CENTROID_NAMES)}, found {', '.join(map(str, values))[:200]}")


def _decompressed(data: bytes, path: Path) -> bytes:
    if data.startswith(b'\x04"M\x18'):
        raise ValueError(f"{path}: expected zlib, gzip, bz2, xz, lzma or no compression, found lz4; save it anew")
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


# ------------------------------------------------------------------------------ pickles, without running them


class Record:
    """What a pickle asked to build, and nothing more: arguments and state of something that was never made."""

    path = ""
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **_: Any) -> Record:
        """Keep the arguments here: some pickles call nothing else."""
        record = super().__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments: ``__new__`` has kept them."""

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _RecordUnpickler(pickle._Unpickler):  # the one in Python: joblib's arrays follow a BUILD in the stream
    """Instructions to `Record`s; arrays that joblib wrote between the instructions are read in place."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        """A fresh kind of `Record`, whatever the pickle names: nothing is ever imported."""
        path = f"{module}.{name}"
        if path not in _HARMLESS and module.split(".")[0] not in _PACKAGES:
            raise ValueError(
                f"expected arrays of a scikit-learn k-means, found a call of {path}, which could run anything; do not "
                "load this file elsewhere, take the centroids as .npy or safetensors"
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


def read_records(data: bytes, where: Path) -> Any:
    """A pickle as `Record`s, numpy arrays (joblib's) and Python's own containers; runs nothing.

    Raises:
        ValueError: it names anything outside numpy, scipy, scikit-learn and joblib, or is no whole pickle.
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
    ) as error:  # what broken bytes raise
        raise ValueError(
            f"{where}: expected .npy, safetensors, or a pickled scikit-learn k-means, found none of them "
            f"({type(error).__name__}: {error})"
        ) from error


def _centroids_of(found: Any, where: Path) -> np.ndarray:
    """The centroids in an unpickled model, dictionary or bare array."""
    if isinstance(found, Record) and isinstance(found.state, dict):
        found = found.state
    if isinstance(found, dict):
        found = _named(found, where)
    try:
        return to_array(found)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{where}: expected centroids of numbers, found {str(error)[:200]}") from error


def to_array(found: Any) -> np.ndarray:
    """A numpy array, from itself or from the record of how pickle would have rebuilt it.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(found, np.ndarray):
        return found
    name = found.path.rsplit(".", 1)[-1] if isinstance(found, Record) else type(found).__name__
    if name == "_frombuffer":  # protocol 5
        data, dtype, shape, order = found.args
        return _filled(bytes(data), _dtype(dtype), tuple(shape), order == "F")
    if name == "_reconstruct" and isinstance(found.state, tuple):
        _, shape, dtype, fortran, data = found.state
        if isinstance(data, Record) and data.path == "_codecs.encode":  # protocol 2 writes bytes as text
            data = data.args[0].encode("latin1")
        return _filled(data, _dtype(dtype), tuple(shape), bool(fortran))
    raise ValueError(f"expected an array, found {name}")


def _dtype(record: Any) -> np.dtype:
    """The type of numbers that a pickled ``numpy.dtype`` stands for; objects and structures are refused."""
    code, order = str(record.args[0]), record.state[1] if record.state else "="
    if code[:1] not in _ARRAY_KINDS or not code[1:].isdigit():
        raise ValueError(f"expected an array of numbers, found numpy type {code!r}")
    return np.dtype(code if order == "|" else f"{order}{code}")


def _filled(data: Any, dtype: np.dtype, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    expected = math.prod(shape) * dtype.itemsize
    if not isinstance(data, bytes | bytearray) or len(data) != expected:
        raise ValueError(f"expected {expected} bytes for {shape}, found {len(data) if hasattr(data, '__len__') else 0}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
