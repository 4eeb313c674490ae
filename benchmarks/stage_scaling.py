"""How the cost of a training step of nano's stages grows with the batch, in CPU seconds of one thread.

    python benchmarks/stage_scaling.py --stages s2t t2c --batches 2 8 32

Processor time, not the clock: other work on the machine hardly changes it. For stage echo, the share of the time that
goes into pseudo-labels is measured too.
"""

from __future__ import annotations

import argparse
import random
import time
import tracemalloc
from pathlib import Path

import torch
from harness import Measured, run

from echox import load_recipe
from echox.training.loop import seed_everything
from echox.training.networks.modules import autocast, set_training

RECIPES = Path(__file__).parent.parent / "recipes" / "nano"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stages", nargs="+", default=["s2t", "t2c", "echo"])
    parser.add_argument("--batches", nargs="+", type=int, default=[2, 8, 32])
    parser.add_argument("--steps", type=int, default=2, help="steps that count, after one that does not")


def cost_of_stage(name: str, batches: list[int], steps: int) -> dict[str, object]:
    """CPU seconds an item by batch size, after one step to warm up; bytes of Python objects an item."""
    recipe = load_recipe(RECIPES / f"{name}.yaml")
    tracemalloc.start()
    stage = recipe.build()
    bytes_an_item = tracemalloc.get_traced_memory()[0] / len(stage.dataset())
    tracemalloc.stop()
    items, rng = list(stage.dataset()), random.Random(0)
    found: dict[str, dict[str, float]] = {}
    set_training(stage.objective)
    for batch in batches:
        spent_s, target_s, clock_s = 0.0, 0.0, 0.0
        for step in range(steps + 1):
            chosen = stage.collate(rng.sample(items, batch), rng)
            seed_everything(step)
            began_s, clock = time.process_time(), time.perf_counter()
            with autocast(torch.device("cpu"), recipe.training.precision):
                losses = stage.objective(chosen)
            losses["loss"].backward()
            stage.objective.zero_grad()
            if step:
                spent_s += time.process_time() - began_s
                clock_s += time.perf_counter() - clock
                target_s += float(losses.get("target_s", 0.0))
        found[str(batch)] = {"cpu_ms_per_item": round(1000 * spent_s / steps / batch, 2)}
        if target_s:
            found[str(batch)]["pseudo_label_share"] = round(target_s / clock_s, 3)
        print(name, batch, found[str(batch)], flush=True)
    return {"batches": found, "object_bytes_per_item": round(bytes_an_item)}


def measure(options: argparse.Namespace) -> Measured:
    return Measured({name: cost_of_stage(name, options.batches, options.steps) for name in options.stages})


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
