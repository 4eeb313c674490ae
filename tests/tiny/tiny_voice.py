"""A Piper voice of a few bytes, which says silence: an id lasts as many frames as its number says."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from echox.data.engines.piper import DURATIONS, field, varint

HOP = 4
RATE = 22_050
SYMBOLS = ["_", "^", "$", " ", ".", ",", "?", "!", "ˈ", "ː", *"abdefhijklmnoprstuvwzæðŋɐɑɔəɚɛɜɡɪɹʃʊʌʒθɾᵻ"]


def _text(number: int, value: str) -> bytes:
    return field(number, value.encode())


def _number(number: int, value: int) -> bytes:
    return varint(number << 3) + varint(value)


def _node(op: str, inputs: list[str], output: str, to: int | None = None) -> bytes:
    content = b"".join(_text(1, name) for name in inputs) + _text(2, output) + _text(4, op)
    if to is not None:  # the type that a Cast makes
        content += field(5, _text(1, "to") + _number(3, to) + _number(20, 2))
    return field(1, content)


def _value(number: int, name: str, kind: int, dims: list[str]) -> bytes:
    shape = b"".join(field(1, _text(2, dim)) for dim in dims)
    return field(number, _text(1, name) + field(2, field(1, _number(1, kind) + field(2, shape))))


def _constant(name: str, kind: int, content: bytes) -> bytes:
    return field(5, _number(1, 1) + _number(2, kind) + _text(8, name) + field(9, content))


def write_tiny_voice(folder: Path, name: str = "tiny", **changes: object) -> Path:
    """Write ``name.onnx`` and its configuration, in which `changes` are made; returns the folder."""
    float_, int64 = 1, 7
    graph = b"".join(
        [
            _node("Cast", ["input"], "numbers", to=float_),
            _node("Gather", ["scales", "one"], "scale"),
            _node("Mul", ["numbers", "scale"], "scaled"),
            _node("Ceil", ["scaled"], DURATIONS),
            _node("ReduceSum", [DURATIONS], "sum"),
            _node("Mul", ["sum", "hop"], "samples"),
            _node("Cast", ["samples"], "whole", to=int64),
            _node("Reshape", ["whole", "one"], "shape"),
            _node("ConstantOfShape", ["shape"], "output"),
            _text(2, "tiny"),
            _constant("one", int64, struct.pack("<q", 1)),
            _constant("hop", float_, struct.pack("<f", HOP)),
            _value(11, "input", int64, ["batch", "phonemes"]),
            _value(11, "input_lengths", int64, ["batch"]),
            _value(11, "scales", float_, ["three"]),
            _value(12, "output", float_, ["samples"]),
        ]
    )
    model = _number(1, 8) + field(7, graph) + field(8, _number(2, 13))
    (folder / f"{name}.onnx").write_bytes(model)
    config = {
        "audio": {"sample_rate": RATE},
        "espeak": {"voice": "en-us"},
        "phoneme_id_map": {symbol: [number] for number, symbol in enumerate(SYMBOLS)},
    }
    (folder / f"{name}.onnx.json").write_text(json.dumps(config | changes), encoding="utf-8")
    return folder
