"""How much of the recipes' batches is padding, before packing and after: a simulation, as the corpora are not here.

    python benchmarks/padding.py
    python benchmarks/padding.py --items 2000

Lengths are drawn, the batches are those of the package's sampler under the limits of `recipes/`, packed as the stages
pack. Assumed: recognition (as many hours as LibriSpeech and MLS have) of 2 to 20 s with 3.5 tokens a second, spoken
questions of 2 to 8 s with replies of 100 tokens at the mean (log-normal, .7), 7 positions of the language model a
second and 30 for the chat template; texts of stage t2c of 50 unit words at the median, half of them cut to a random
part.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

from harness import ROOT, Measured, run

from echox import load_recipe
from echox.data.sampling import BucketBatchSampler
from echox.models.packing import rows_of

PROMPT = 14
"""Vectors around the text of a prefix decoder, as in the recipes."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--items", type=int, default=20_000)


def spoken(count: int, recognition: float, rng: random.Random) -> tuple[list[float], list[int], list[int]]:
    """Hundredths of a second that are heard, positions of the language model, and tokens of the text, of each item."""
    frames, positions, tokens = [], [], []
    for _ in range(count):
        if rng.random() < recognition:
            heard_s = rng.triangular(2, 16, 14) if rng.random() < 960 / 3960 else rng.uniform(10, 20)
            text = round(3.5 * heard_s)
        else:
            heard_s, text = rng.uniform(2, 8), min(1000, round(rng.lognormvariate(4.36, 0.7)))
        frames.append(100 * heard_s)
        tokens.append(text + 30)
        positions.append(round(7 * heard_s) + text + 30)
    return frames, positions, tokens


def shares(
    stage: str, size: str, lengths: Sequence[float], computed: Sequence[int], text: Sequence[int]
) -> dict[str, Any]:
    """Mean items of a batch, and padding of `computed` in batches that the recipe forms by `lengths` and `text`."""
    training = load_recipe(ROOT / "recipes" / size / f"{stage}.yaml").training
    limit = None if training.max_batch_tokens is None else (text, training.max_batch_tokens)
    batches = list(BucketBatchSampler(lengths, training.batch_size, by=training.batch_by, also=limit))
    rows = [[computed[item] for item in batch] for batch in batches]
    real = sum(map(sum, rows))
    return {
        "items_of_a_batch": len(lengths) / len(batches),
        "padding_share": 1 - real / sum(len(row) * max(row) for row in rows),
        "packed_padding_share": 1 - real / sum(len(rows_of(row)) * max(row) for row in rows),
    }


def measure(options: argparse.Namespace) -> Measured:
    rng, count = random.Random(0), options.items
    heard, read, tokens = spoken(count, 0.88, rng)
    asked, answered, written = spoken(count, 0.0, rng)
    both = [frames + 40 * 0.75 * text for frames, text in zip(asked, written, strict=True)]
    units = [8 + min(1500, round(rng.lognormvariate(3.9, 0.8))) for _ in range(count)]
    said = [PROMPT + (length if rng.random() < 0.5 else max(4, round(length * rng.random()))) for length in units]
    figures: dict[str, Any] = {}
    for size in ("3b", "8b"):
        figures[f"{size} s2t"] = shares("s2t", size, heard, read, tokens)
        figures[f"{size} echo"] = shares("echo", size, both, answered, written)
        figures[f"{size} t2c"] = shares("t2c", size, units, said, units)
    for name, values in figures.items():
        print(name, {key: round(value, 3) for key, value in values.items()}, flush=True)
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
