"""Debian's telephone prompts as a test set: one professional human voice, 16 kHz, with the words that she says.

    apt-get download asterisk-core-sounds-en-g722 asterisk-core-sounds-en
    dpkg -x ...g722*.deb prompts && dpkg -x asterisk-core-sounds-en_*.deb prompts
    python scripts/human_prompts.py prompts out/human_prompts
    echox eval understanding -m out/mini/hearing --task asr --data out/human_prompts --no-replies

The prompts are CC-BY-SA 3.0 (Digium); this set is for measuring, never for training. Taken are files whose name begins
with a to m (`--letters`), whose words are written out and are at least three. Source: https://www.asterisk.org.
"""

from __future__ import annotations

import argparse
import gzip
import re
from pathlib import Path

import av
import numpy as np

from echox.audio import save_audio
from echox.files import write_text

SAMPLING_RATE = 16_000
_WORDS = re.compile(r"[A-Za-z .,;:!?'\"-]+")


def transcripts(folder: Path) -> dict[str, str]:
    """Words of each prompt, by its name, where they are written out."""
    (file,) = folder.rglob("core-sounds-en.txt.gz")
    found = {}
    for line in gzip.decompress(file.read_bytes()).decode("utf-8").splitlines():
        name, colon, text = line.partition(":")
        if colon and not name.startswith(";") and _WORDS.fullmatch(text.strip()):
            found[name.strip()] = text.strip().rstrip(".").replace("...", "")
    return found


def decode(path: Path) -> np.ndarray:
    """Samples (S,) of a raw G.722 file."""
    with av.open(str(path), format="g722") as container:
        parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(parts).astype(np.float32) / 32768.0


def main() -> None:
    """Write ``questions.tsv`` and a FLAC file of each prompt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder that both Debian packages were unpacked into")
    parser.add_argument("output", type=Path)
    parser.add_argument("--letters", default="a-m", help="first letters of the names that are taken (default: a-m)")
    parser.add_argument("--least-words", type=int, default=3)
    options = parser.parse_args()
    first = re.compile(f"[{options.letters}]", re.IGNORECASE)
    texts = transcripts(options.packages)
    options.output.mkdir(parents=True, exist_ok=True)
    lines = ["id\tquestion\taudio"]
    for path in sorted(options.packages.rglob("*.g722")):
        text = texts.get(path.stem, "")
        if path.parent.name.startswith("en_") and first.match(path.stem) and len(text.split()) >= options.least_words:
            save_audio(options.output / f"{path.stem}.flac", decode(path), SAMPLING_RATE)
            lines.append(f"{path.stem}\t{text}\t{path.stem}.flac")
    write_text(options.output / "questions.tsv", "\n".join(lines) + "\n")
    print(f"{len(lines) - 1} prompts in {options.output}")


if __name__ == "__main__":
    main()
