"""What the key-value memory of concurrent replies takes, beside what their positions need.

python benchmarks/key_value_memory.py
python benchmarks/key_value_memory.py --sessions 16 64 --draws 5

Rows of a real `RowCache` are filled with prompts of random lengths (lognormal: half of them below 600 positions, one in
twenty above 2,000) and written on by some tokens, as replies that are made at the same time. `allocated_over_needed`
counts rows and positions that are held in reserve; `read_over_needed` what attention reads in a step, since shorter
rows are read to the length of the longest. A paged memory would have about 1 for both, in blocks of 16 positions 1.01.
The share does not depend on the size of the model; `gb_8b` is what is allocated for Llama-3.1-8B in bfloat16.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from harness import Measured, run
from transformers import LlamaConfig, LlamaModel

from echox.models.decoding.row_cache import DecoderRows, SavedRow

BYTES_8B = 2 * 32 * 8 * 128 * 2
"""A position of Llama-3.1-8B: keys and values of 32 layers, 8 heads of 128, 2 bytes."""
REPLY_TOKENS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line."""
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4, 8, 9, 16])
    parser.add_argument("--draws", type=int, default=20, help="of the lengths; the figures are means over them")


def draw(lengths: np.ndarray, decoder: LlamaModel) -> tuple[float, float, float]:
    """(allocated, read, needed) positions of a memory with these rows."""
    rows = DecoderRows(decoder)
    config = decoder.config
    heads, width = config.num_key_value_heads, config.hidden_size // config.num_attention_heads
    for length in lengths:
        rows.join(SavedRow([torch.zeros(2, heads, int(length), width)], int(length)))
    for _ in range(REPLY_TOKENS):
        rows.advance(torch.zeros(len(lengths), 1, config.hidden_size))
    each = 2 * heads * width * 4
    return rows.num_bytes / each, float(len(lengths) * rows.end), float(sum(rows.lengths))


def measure(options: argparse.Namespace) -> Measured:
    """The figures, by number of sessions."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    decoder = LlamaModel(LlamaConfig(vocab_size=8, max_position_embeddings=16384, **sizes)).eval()
    figures: dict[str, Any] = {}
    with torch.inference_mode():
        for sessions in options.sessions:
            rng = np.random.default_rng(0)
            drawn = [
                draw(np.clip(rng.lognormal(np.log(600), 0.75, sessions), 50, 8000).astype(int), decoder)
                for _ in range(options.draws)
            ]
            allocated, read, needed = (float(value) for value in np.mean(drawn, axis=0))
            figures[str(sessions)] = {
                "allocated_over_needed": allocated / needed,
                "read_over_needed": read / needed,
                "needed_positions": needed,
                "gb_8b": allocated * BYTES_8B / 1e9,
            }
            print(f"{sessions} sessions: {figures[str(sessions)]}", flush=True)
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
