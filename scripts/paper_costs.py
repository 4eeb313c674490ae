"""Costs of training 3B and 8B models: a model, not a measurement. Every assumption is a number below, with its reason.

    python scripts/paper_costs.py             # 6,000 hours, on H100
    python scripts/paper_costs.py --scale 100
    python scripts/paper_costs.py --gpu h200

GPU-hours are floating-point operations over what a GPU is assumed to sustain, plus a fixed time for every micro-batch
(kernels to start, gradients to exchange), and in stage III the sequential decoding of pseudo-labels, which no share of
the peak describes. docs/scaling.md explains it and says what is measured.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

PEAK_FLOPS = {"h100": 989e12, "h200": 989e12}  # SXM, dense bfloat16 (NVIDIA's data sheets: H200 has more memory only)
SHARE_LARGE = 0.35  # of the peak, for matrices of an LLM in training: assumed; 0.3 to 0.4 is common in reports
SHARE_SMALL = 0.03  # for decoders of width 512 to 768: assumed; they wait for memory and for kernels to start
GPU_HOUR_USD = {"h100": 2.5, "h200": 3.5}  # assumed
GPUS = 8

HOURS = {"s2t": 960 + 3000 + 178 + 327, "t2c": 989 + 84 + 656, "echo": 178 + 327}  # arXiv 2509.09174: its data
STEPS = {"s2t": 40_000, "t2c": 270_000, "echo": 15_000}  # recipes/3b, recipes/8b
MICRO_BATCHES = {"3b": {"s2t": 1, "t2c": 1, "echo": 1}, "8b": {"s2t": 2, "t2c": 1, "echo": 2}}  # of a step
MICRO_BATCH_S = {"s2t": 0.10, "t2c": 0.03, "echo": 0.15}  # besides its arithmetic: assumed
EPOCHS = {"s2t": 1, "t2c": 5, "echo": 3}  # recipes/3b: 40,000, 270,000 and 15,000 steps of 32
DIALOGUES = 160_000  # of stage III: what its 15,000 steps of 32 are three epochs of

TOWER = 635e6  # whisper-large-v3's encoder; 50 frames/s, forward only
FRAMES_PER_S, ADAPTED_PER_S = 50, 25
HEARD_PER_S, SPOKEN_PER_S = 7, 3.5  # positions kept of a second of speech (blank runs count), text tokens: assumed
TEMPLATE_POSITIONS, ITEM_S = 30, 12.5  # of a conversation; 4,465 h are 1.28 M items
TRAIN, FROZEN, READ = (
    8,
    6,
    2,
)  # operations per weight and position: forward 2, gradients 4 or 2, again for checkpointing 2
UNIT_WORDS_PER_S = 15  # 50 frames/s, about 30 reduced units/s, unit words of two: arXiv 2505.15333
REPLY_TOKENS, QUESTION_S = 100, 5
SEGMENT_STEPS, STEP_S = 200, 0.003  # unit words of the longest segment of a batch; one decoder step on a GPU: assumed
BATCH = {"3b": 4, "8b": 2}  # mean per GPU, as in the recipes (which limit total lengths)
LABELLED_TOGETHER = {"3b": 8, "8b": 16}  # micro-batches: steps_together 8, accumulation 1 and 2; some 100 segments

FLAC_GB_PER_H = 0.063  # 55 % of 16 bits


@dataclass(frozen=True)
class Size:
    """Weights of a size: all of the language model's, its head, its width; the unit decoder's."""

    weights: float
    vocabulary: int
    width: int
    decoder: float


SIZES = {"3b": Size(3.21e9, 128_257, 3072, 30e6), "8b": Size(8.03e9, 128_257, 4096, 63e6)}


def gpu_hours(name: str, scale: float = 1.0, gpu: str = "h100") -> dict[str, float]:
    """GPU-hours by stage; "echo: pseudo-labels" is the part of stage III that makes targets: a pass, and decoding."""
    size, large, small = SIZES[name], PEAK_FLOPS[gpu] * SHARE_LARGE, PEAK_FLOPS[gpu] * SHARE_SMALL
    adapter = 14 * size.width**2 + size.vocabulary * size.width  # a Transformer layer, and the CTC head
    hear = 2 * TOWER * FRAMES_PER_S + TRAIN * adapter * ADAPTED_PER_S
    positions = HEARD_PER_S + SPOKEN_PER_S + TEMPLATE_POSITIONS / ITEM_S
    s2t_s = HOURS["s2t"] * 3600 * EPOCHS["s2t"] * (hear + FROZEN * size.weights * positions) / large
    t2c_positions = UNIT_WORDS_PER_S + SPOKEN_PER_S
    t2c_s = HOURS["t2c"] * 3600 * EPOCHS["t2c"] * TRAIN * size.decoder * t2c_positions / small
    read = QUESTION_S * HEARD_PER_S + REPLY_TOKENS + TEMPLATE_POSITIONS
    speech_s = REPLY_TOKENS / SPOKEN_PER_S
    one = 2 * TOWER * FRAMES_PER_S * QUESTION_S + FROZEN * size.weights * read
    echo_s = DIALOGUES * EPOCHS["echo"] * (one / large + TRAIN * size.decoder * UNIT_WORDS_PER_S * speech_s / small)
    said = 2 * TOWER * FRAMES_PER_S * QUESTION_S + READ * size.weights * read  # the pass without gradients
    decoded_s = SEGMENT_STEPS * STEP_S / LABELLED_TOGETHER[name]
    labels_s = DIALOGUES * EPOCHS["echo"] * (said / large + (decoded_s + MICRO_BATCH_S["echo"] / 3) / BATCH[name])
    found = {"s2t": s2t_s, "t2c": t2c_s, "echo": echo_s}
    for stage, micro_batches in MICRO_BATCHES[name].items():
        found[stage] += GPUS * STEPS[stage] * micro_batches * MICRO_BATCH_S[stage]
    found["echo: pseudo-labels"] = labels_s
    return {stage: scale * seconds / 3600 for stage, seconds in found.items()}


def heard_hours_per_s(name: str, gpu: str) -> float:
    """Audio hours a second that stage I reads on one GPU: what the loader must give."""
    return HOURS["s2t"] * EPOCHS["s2t"] / (3600 * gpu_hours(name, gpu=gpu)["s2t"])


def storage_gb(scale: float = 1.0) -> dict[str, float]:
    """Gigabytes on disk: recordings, shards of the questions, units (JSON), checkpoints of the largest stage."""
    hours = HOURS["s2t"] + HOURS["t2c"]  # stage III reads what stage I has read
    return {
        "recordings, FLAC": scale * hours * FLAC_GB_PER_H,
        "shards, FLAC": scale * HOURS["s2t"] * FLAC_GB_PER_H,
        "units": scale * HOURS["t2c"] * 3600 * 30 * 12 / 1e9,  # a unit, its duration and its word: 12 characters
    }


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="times the paper's hours")
    parser.add_argument("--gpu", choices=PEAK_FLOPS, default="h100")
    options = parser.parse_args()
    scale, gpu = options.scale, options.gpu
    print("| GPU-hours (model) | " + " | ".join(SIZES) + " |\n|---|---|---|")
    tables = {name: gpu_hours(name, scale, gpu) for name in SIZES}
    for stage in tables["3b"]:
        print(f"| {stage} | " + " | ".join(f"{tables[name][stage]:,.0f}" for name in SIZES) + " |")
    sums = {name: sum(table.values()) for name, table in tables.items()}
    print("| all | " + " | ".join(f"{sums[name]:,.0f}" for name in SIZES) + " |")
    print(f"| days on {GPUS} GPUs | " + " | ".join(f"{sums[name] / GPUS / 24:,.1f}" for name in SIZES) + " |")
    print("| USD | " + " | ".join(f"{sums[name] * GPU_HOUR_USD[gpu]:,.0f}" for name in SIZES) + " |")
    rates = " | ".join(f"{heard_hours_per_s(name, gpu):.3f}" for name in SIZES)
    print(f"| audio hours a second that a GPU reads in s2t | {rates} |")
    print("\n| storage (model) | GB |\n|---|---|")
    for what, size_gb in storage_gb(scale).items():
        print(f"| {what} | {size_gb:,.0f} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
