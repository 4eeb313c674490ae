"""Weights of a Llama in a GGUF file, read without a package for it, in the blocks in which they are stored.

transformers' reader turns every weight and token into Python objects first: 36 CPU-seconds for SmolLM2-135M. Here the
file is mapped into memory, and only headers are interpreted. Matrices in blocks of 4 bits stay in 4 bits
(`group_int4.py`), exactly; all others become float32.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (the file) and ggml-quants.h (the blocks); the order
of rows of queries and keys, llama.cpp's ``convert_hf_to_gguf.py`` (``LlamaModel.permute``).
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from echox.models.quantization.group_int4 import CODES, GROUP, MINIMUM, SCALE, GroupInt4, pack_columns

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of metadata values of one number, by type."""
_STRING, _ARRAY = 8, 9
_ALIGNMENT_KEY = "general.alignment"
_MOST = 1 << 24  # items of an array, characters of a string, tensors: more is a damaged file

_TYPES = {0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 8: ("Q8_0", 32, 34)}
"""Kinds of tensors: name, weights in a block, bytes of a block."""

_WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_IN_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@dataclass(frozen=True)
class StoredBlocks:
    """A tensor of the file: the name of its kind, its shape (rows, columns) or (numbers,), and its bytes."""

    kind: str
    shape: tuple[int, ...]
    data: np.ndarray

    def in_int4(self) -> GroupInt4 | None:
        """The matrix in 4 bits, as it is stored; None for other kinds."""
        if self.kind not in ("Q4_0", "Q4_1"):
            return None
        rows, columns = self.shape
        blocks = self.data.reshape(rows, columns // GROUP, -1)
        halves = _float16(blocks[..., : -GROUP // 2])  # scale; Q4_1: and minimum
        scale = halves[..., 0]
        minimum = halves[..., 1] if self.kind == "Q4_1" else -8 * scale
        values = torch.from_numpy(np.ascontiguousarray(blocks[..., -GROUP // 2 :]))
        codes = torch.cat([values & 15, values >> 4], -1).flatten(1)
        return GroupInt4(pack_columns(codes), scale.contiguous(), minimum.contiguous())

    def floats(self) -> Tensor:
        """The tensor as float32."""
        packed = self.in_int4()
        if packed is not None:
            return packed.floats()
        if self.kind == "Q8_0":
            blocks = self.data.reshape(-1, 34)
            values = torch.from_numpy(blocks[:, 2:].view(np.int8).astype(np.float32))
            return (values * _float16(blocks[:, :2]).float()).view(self.shape)
        plain = self.data.view("<f4" if self.kind == "F32" else "<f2")
        return torch.from_numpy(plain.astype(np.float32)).view(self.shape)


def _float16(data: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(data).view("<f2"))


def open_gguf(path: Path) -> dict[str, StoredBlocks]:
    """All tensors of a GGUF file, by their names in it.

    Raises:
        ValueError: it is none, it is damaged, or it holds a kind of blocks that is not read here.
    """
    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
        if bytes(data[:4]) != MAGIC:
            raise ValueError(f"it begins with {bytes(data[:4])!r}")
        reader = _Reader(data, 4)
        version = reader.number("<I")
        if version not in _VERSIONS:
            raise ValueError(f"version {version}; versions {_VERSIONS} are read")
        tensors, values = reader.count(), reader.count()
        alignment = 32
        for _ in range(values):
            key, kind = reader.text(), reader.number("<I")
            if key == _ALIGNMENT_KEY:
                alignment = reader.number("<I")
            else:
                reader.skip(kind)
        headers = [reader.header() for _ in range(tensors)]
        begin = reader.place + -reader.place % max(1, alignment)
        return {name: _stored(data, begin + place, kind, shape) for name, shape, kind, place in headers}
    except (OSError, ValueError, struct.error, UnicodeDecodeError, OverflowError) as error:
        raise ValueError(f"{path}: expected a whole GGUF file, found: {error}; install or download it again") from error


def _stored(data: np.ndarray, place: int, kind: int, shape: tuple[int, ...]) -> StoredBlocks:
    if kind not in _TYPES:
        names = ", ".join(name for name, _, _ in _TYPES.values())
        raise ValueError(f"blocks of type {kind}, where {names} are read")
    name, weights, block_bytes = _TYPES[kind]
    if shape[-1] % weights or len(shape) > 2:
        raise ValueError(f"a tensor of shape {shape} in {name}")
    end = place + math.prod(shape) // weights * block_bytes
    if end > len(data):
        raise ValueError(f"{len(data)} bytes where {end} are needed")
    return StoredBlocks(name, shape, data[place:end])


class _Reader:
    """Reads numbers and texts one after another."""

    def __init__(self, data: np.ndarray, place: int) -> None:
        self.data, self.place = data.data, place  # a memoryview: slices of the array are ten times slower

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.place)
        self.place += struct.calcsize(form)
        return int(value)

    def count(self) -> int:
        value = self.number("<Q")
        if value > _MOST:
            raise ValueError(f"a count of {value}")
        return value

    def text(self) -> str:
        length = self.count()
        self.place += length
        return bytes(self.data[self.place - length : self.place]).decode("utf-8")

    def skip(self, kind: int) -> None:
        """Go past a metadata value."""
        if kind in _SCALARS:
            self.place += _SCALARS[kind]
        elif kind == _STRING:
            length = self.count()
            self.place += length
        elif kind == _ARRAY:
            inner, count = self.number("<I"), self.count()
            if inner in _SCALARS:
                self.place += _SCALARS[inner] * count
            elif inner == _STRING:  # a vocabulary has some 100,000
                length_of = struct.Struct("<Q").unpack_from
                for _ in range(count):
                    self.place += 8 + length_of(self.data, self.place)[0]
            else:
                for _ in range(count):
                    self.skip(inner)
        else:
            raise ValueError(f"metadata of type {kind}")
        if self.place > len(self.data):
            raise ValueError("a cut file")

    def header(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, kind and place of a tensor; sizes are stored from the last one on."""
        name, dimensions = self.text(), self.number("<I")
        if dimensions > 4:
            raise ValueError(f"{name}: {dimensions} dimensions")
        sizes = [self.count() for _ in range(dimensions)]
        return name, tuple(reversed(sizes)), self.number("<I"), self.number("<Q")


def llama_state(stored: Mapping[str, StoredBlocks], config: PreTrainedConfig) -> dict[str, Tensor]:
    """The state dict of transformers' ``LlamaForCausalLM``; matrices in 4 bits under the names of `group_int4.py`.

    Args:
        stored: of `open_gguf`.
        config: of the Llama; gives the numbers of heads.

    Raises:
        ValueError: a tensor that a Llama has not.
    """
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state: dict[str, Tensor] = {}
    for name, blocks in stored.items():
        in_layer = _LAYER.fullmatch(name)
        short, _, kind = name.rpartition(".")
        if in_layer is not None and in_layer[2] in _IN_LAYER:
            target = f"model.layers.{in_layer[1]}.{_IN_LAYER[in_layer[2]]}.{in_layer[3]}"
            order = _rows(blocks.shape[0], heads[in_layer[2]]) if in_layer[2] in heads else None
        elif short in _WHOLE:
            target, order = f"{_WHOLE[short]}.{kind}", None
        elif name == "rope_freqs.weight":  # a table that follows from the configuration
            continue
        else:
            raise ValueError(f"{name}: expected the tensors of a Llama, found this one; name a GGUF file of a Llama")
        packed = blocks.in_int4() if in_layer is not None else None
        if packed is None:
            value = blocks.floats()
            state[target] = value if order is None else value[order]
            continue
        for suffix, part in ((CODES, packed.codes), (SCALE, packed.scale), (MINIMUM, packed.minimum)):
            state[target + suffix] = part if order is None else part[order]
    return state


def _rows(count: int, heads: int) -> Tensor:
    """Places in the file of the rows of a query or key projection: there, rotary pairs lie side by side in a head."""
    return torch.arange(count).view(heads, -1, 2).transpose(1, 2).reshape(-1)
