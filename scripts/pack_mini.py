"""Pack what training a part of mini needs into a folder of at most 64 MiB, for a machine that takes no more.

    python scripts/pack_mini.py t2c out/gpu_bundles/t2c
    python scripts/pack_mini.py vocoder out/gpu_bundles/vocoder

Part ``t2c``: units, unit language, and of the language model its tokenizer and its token embedding in bfloat16 (all
that the stage reads of it). Part ``vocoder``: as many of the spoken replies as fit, as FLAC (nothing is lost), with
their units. The recipe of `recipes/mini/` lies beside them, with the bundle's paths: ``echox run BUNDLE/PART.yaml``.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from echox.audio import load_audio, save_audio
from echox.data.manifest import (
    audio_path,
    read_unit_utterances,
    read_utterances,
    write_unit_utterances,
    write_utterances,
)
from echox.files import folder_bytes, save_model

ROOT = Path(__file__).resolve().parents[1]
LIMIT_BYTES = 64 << 20
ROOM_BYTES = 4 << 20
"""For manifests, and for the sizes of files on a disk."""


def pack_t2c(source: Path, bundle: Path) -> dict[str, str]:
    """Units, unit language, tokenizer and embedding; returns the recipe's ``data`` paths that change."""
    paths = {"units": "units/replies.jsonl", "unspoken": "units/texts.jsonl"}
    for name in paths.values():
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, bundle / name)
    shutil.copytree(source / "unit_language", bundle / "unit_language")
    model = AutoModelForCausalLM.from_pretrained(source / "language_model", dtype=torch.bfloat16)
    model.config.num_hidden_layers = 1
    model.model.layers = model.model.layers[:1]  # none of them is read
    save_model(model, bundle / "language_model")
    AutoTokenizer.from_pretrained(source / "language_model").save_pretrained(bundle / "language_model")
    return {**paths, "unit_language": "unit_language", "language_model": "language_model"}


def pack_vocoder(source: Path, bundle: Path, limit_bytes: int) -> dict[str, str]:
    """Spoken replies until the limit, and their units; returns the recipe's ``data`` paths that change.

    Raises:
        ValueError: not one recording fits.
    """
    manifest = source / "speech/replies.jsonl"
    folder = bundle / "speech"
    folder.mkdir(parents=True)
    kept, size = [], 0
    for item in read_utterances(manifest):
        path = audio_path(manifest, item.audio)
        rate = sampling_rate_of(path)
        packed = folder / f"{len(kept):05d}.flac"
        save_audio(packed, load_audio(path, rate), rate)
        size += packed.stat().st_size
        if size > limit_bytes - ROOM_BYTES:
            packed.unlink()
            break
        kept.append(replace(item, audio=packed.name))
    if not kept:
        raise ValueError(f"{manifest}: expected recordings of which some fit {limit_bytes} bytes, found none that does")
    write_utterances(folder / "replies.jsonl", kept)
    ids = {item.id for item in kept}
    units = bundle / "units/replies.jsonl"
    units.parent.mkdir()
    write_unit_utterances(units, [row for row in read_unit_utterances(source / "units/replies.jsonl") if row.id in ids])
    for beside in sorted((source / "units").glob("*.json")):  # what the units are
        shutil.copyfile(beside, units.parent / beside.name)
    return {"units": "units/replies.jsonl", "speech": "speech/replies.jsonl"}


def sampling_rate_of(path: Path) -> int:
    """Samples a second of a recording."""
    import soundfile

    return int(soundfile.info(path).samplerate)


def pack(part: str, source: Path, bundle: Path, limit_bytes: int = LIMIT_BYTES) -> int:
    """Make the bundle, whole or not at all; returns its bytes.

    Raises:
        ValueError: the bundle exists already, or is too large.
    """
    if bundle.exists():
        raise ValueError(f"{bundle}: expected a new folder, found an existing one; name another or remove it")
    partial = bundle.with_name(f".{bundle.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        paths = pack_t2c(source, partial) if part == "t2c" else pack_vocoder(source, partial, limit_bytes)
        recipe = yaml.safe_load((ROOT / f"recipes/mini/{part}.yaml").read_text(encoding="utf-8"))
        recipe["data"] |= {name: str(bundle / path) for name, path in paths.items()}
        (partial / f"{part}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
        size = folder_bytes(partial)
        if size > limit_bytes:
            raise ValueError(f"{bundle}: expected at most {limit_bytes} bytes, found {size}; pack less")
        partial.rename(bundle)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return size


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["t2c", "vocoder"])
    parser.add_argument("bundle", type=Path, help="folder to write, relative to where it will be trained")
    parser.add_argument("--source", type=Path, default=Path("out/mini"))
    options = parser.parse_args()
    print(f"{options.bundle}: {pack(options.part, options.source, options.bundle) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
