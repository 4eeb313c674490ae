"""Shards of a large corpus: how long until the first batch, with how much memory, and what a core loads.

python benchmarks/shard_loading.py
python benchmarks/shard_loading.py --hours 2 --batches 4

One shard of dialogues of 12 s is written (recordings that come with the package, repeated), and linked until the hours
are reached, so that disk and CPU stay small; each link is a shard of its own to the index and the sampler. Figures: the
index (made once, in preparation); the start of stage I's data until the first batch, and the most memory of the process
by then, its libraries included; audio hours that a second of one core loads, decoding (a process of its own), log-mel
of whisper-large-v3, augmentation and collating all counted; how many of such cores stage I of 3B asks for on one H200,
by the model of `scripts/paper_costs.py`; and what one worker process loads, in clock seconds.
"""

from __future__ import annotations

import argparse
import os
import random
import runpy
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from harness import ROOT, Measured, run
from torch import Tensor
from transformers import WhisperConfig

from echox.api.loading import bundled_questions, find_model
from echox.audio import load_audio, save_audio
from echox.config import TrainingConfig
from echox.data.features.corpus_features import AugmentationConfig
from echox.data.features.tower_features import TowerFeatures
from echox.data.manifest import Dialogue, Turn
from echox.data.shards.dialogues import index_dialogues
from echox.models.echox.processing_echox import EchoXProcessor
from echox.preparation.dialogue_shards import FOLDER, write_dialogue_shards
from echox.preparation.execute import Workers
from echox.preparation.settings import Shards
from echox.process_memory import peak_resident_bytes
from echox.training.batches.stream import BatchStream
from echox.training.checkpoints.checkpoint import TrainingProgress
from echox.training.stages.dialogue.dialogue_sources import Dialogues, dialogue_source
from echox.training.stages.dialogue.dialogues import SpokenDialogue, dialogue_batch

DIALOGUE_S, DIALOGUES = 12, 100
COSTS = ROOT / "scripts" / "paper_costs.py"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hours", type=float, default=500.0)
    parser.add_argument("--batches", type=int, default=40, help="that are loaded, of 120 s each")


def write_shards(folder: Path, hours: float) -> int:
    """Shards of so many hours in ``folder``; the number of shards."""
    recordings = [load_audio(path, 16000) for path in bundled_questions()]
    dialogues = []
    for number in range(DIALOGUES):
        samples = np.roll(np.concatenate(recordings * 9)[: DIALOGUE_S * 16000], number * 977)
        save_audio(folder / f"{number}.wav", samples, 16000)
        said = Turn(
            "user", "What is the capital of France, and what else is there to see?", f"{number}.wav", DIALOGUE_S
        )
        reply = Turn("assistant", "The capital of France is Paris. There are many fine houses along the river.")
        dialogues.append(Dialogue(f"d{number}", (said, reply)))
    write_dialogue_shards(dialogues, Shards(DIALOGUES), Workers(), folder)
    train = folder / FOLDER / "train"
    count = max(1, round(hours * 3600 / DIALOGUE_S / DIALOGUES))
    for number in range(1, count):
        for name in ("cuts.{:06d}.jsonl.gz", "recording.{:06d}.tar"):
            os.link(train / name.format(0), train / name.format(number))
    return count


def core_s() -> float:
    """CPU seconds of this process and those it has started."""
    children = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.process_time() + sum(spent.user + spent.system for spent in children)


def measure(options: argparse.Namespace) -> Measured:
    folder = Path(tempfile.mkdtemp(prefix="shards"))
    try:
        return Measured(measured_in(folder, options))
    finally:
        shutil.rmtree(folder)


def measured_in(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    shards = write_shards(folder, options.hours)
    began_s, began_core_s = time.perf_counter(), core_s()
    index_dialogues(str(folder / FOLDER / "train"))
    figures: dict[str, Any] = {
        "shards": shards,
        "index_s": time.perf_counter() - began_s,
        "index_core_s": core_s() - began_core_s,
        "index_mb": (folder / FOLDER / "train.index.npz").stat().st_size / 1e6,
    }
    tower = TowerFeatures(WhisperConfig(num_mel_bins=128))
    tokenizer = EchoXProcessor.from_pretrained(find_model("nano")).tokenizer

    def collate(items: list[SpokenDialogue], rng: random.Random) -> dict[str, Tensor]:
        heard = [
            tower.augmented(item.features(turn), AugmentationConfig(), rng) for item in items for turn in item.rows
        ]
        return dialogue_batch(tokenizer, items, [set(item.rows) for item in items], heard)

    def stream(dialogues: Dialogues, workers: int) -> BatchStream:
        config = TrainingConfig("unused", 1, 12_000.0, {"all": 1.0}, batch_by="total_length", workers=workers)
        return BatchStream(dialogues, dialogues.frames.tolist(), collate, config, TrainingProgress())

    began_s, began_core_s = time.perf_counter(), core_s()
    dialogues = dialogue_source(folder / FOLDER, tower, 100).training
    batches = stream(dialogues, 0)
    next(batches)
    batches.close()
    peak = peak_resident_bytes()
    figures |= {
        "dialogues": len(dialogues),
        "hours": float(dialogues.frames.sum()) / 360_000,
        "start_s": time.perf_counter() - began_s,
        "start_core_s": core_s() - began_core_s,
        "peak_gb": None if peak is None else peak / 1e9,
    }
    rng = random.Random(0)
    chosen = [rng.sample(range(len(dialogues)), 10) for _ in range(options.batches)]
    hours = options.batches * 10 * DIALOGUE_S / 3600
    began_core_s = core_s()
    for batch in chosen:
        collate([dialogues[place] for place in batch], rng)
    figures["audio_hours_per_core_s"] = hours / (core_s() - began_core_s)
    figures["asked_by_one_h200_audio_hours_per_s"] = runpy.run_path(str(COSTS))["heard_hours_per_s"]("3b", "h200")
    figures["cores_for_one_h200"] = figures["asked_by_one_h200_audio_hours_per_s"] / figures["audio_hours_per_core_s"]
    batches = stream(dialogues, 1)
    next(batches)
    began_s = time.perf_counter()
    loaded_s = sum(next(batches).length / 100 for _ in range(options.batches))
    figures["one_worker_audio_hours_per_s"] = loaded_s / 3600 / (time.perf_counter() - began_s)
    batches.close()
    return figures


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
