"""The files of Moonshine's package, by name: where they are, and its list of tokens. Imports no torch.

The package ``moonshine-voice`` carries ``encoder_model.ort``, ``decoder_model_merged.ort`` and ``tokenizer.bin`` of
Moonshine tiny (English, MIT). `conversion/moonshine.py` makes a model of transformers of them; ONNX runtime runs them.
"""

from __future__ import annotations

from pathlib import Path

ENCODER_FILE, DECODER_FILE, TOKENS_FILE = "encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"
MOONSHINE_FILES = (ENCODER_FILE, DECODER_FILE, TOKENS_FILE)


def find_ort_moonshine(folder: Path) -> Path | None:
    """The folder, in or below `folder`, that holds the three files; None: there is none. The first by name is taken."""
    places = sorted(path.parent for path in folder.rglob(DECODER_FILE))
    return next((place for place in places if all((place / name).is_file() for name in MOONSHINE_FILES)), None)


def check_files(folder: Path) -> None:
    """Raise a ValueError unless the three files are there."""
    missing = [name for name in MOONSHINE_FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: expected {', '.join(MOONSHINE_FILES)}, found no {missing[0]}; install the package again"
        )


def read_tokens(path: Path) -> list[bytes]:
    """The tokens of ``tokenizer.bin`` by id: for each its length (one byte, or two from 128 on), then its bytes.

    Raises:
        ValueError: a cut file.
    """
    data, place = path.read_bytes(), 0
    tokens = []
    while place < len(data):
        length = data[place]
        place += 1
        if length >= 128 and place < len(data):
            length += 128 * data[place] - 128
            place += 1
        tokens.append(data[place : place + length])
        place += length
    if place != len(data) or not tokens:
        raise ValueError(f"{path}: expected a list of tokens, found one that is cut; install the package again")
    return tokens
