"""What a training step of a stage costs at a published size, with random weights: time, arithmetic, memory.

python benchmarks/training_step.py --size small --stage s2t --batch-size 2 --tokens 48 --audio-s 1
python benchmarks/training_step.py --size 3b --stage echo --device cuda --compile

The sizes are those of `recipes/`, the batch that of the stage's recipe: LoRA, precision and gradient checkpointing as
there. Nothing is downloaded. Arithmetic is counted by torch in one step, recomputation for checkpoints included, and
compared with a large product of bfloat16 matrices that is measured beside it. Tokens are positions of the language
model; in stage t2c, which has none, text tokens and unit words. The memory is compared with the
package's own estimate (``echox estimate-memory``); on a CPU it is the process's, libraries included. Steps with
compiled blocks are timed after plain ones.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from harness import Measured, run
from memory import Subject, random_subject, train
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from decoding import RECIPES, sizes_of, synchronize, timed_s
from echox.api.loading import find_model
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.processing_echox import EchoXProcessor
from echox.process_memory import peak_resident_bytes
from echox.training.memory.estimate import Workload, build_objective, random_batch
from echox.training.memory.of_recipe import workload_of
from echox.training.networks.modules import compile_blocks, enable_gradient_checkpointing, on_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=["small", "3b", "8b"], default="small")
    parser.add_argument("--stage", choices=["s2t", "t2c", "echo"], default="s2t")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, help="rows (default: the recipe's)")
    parser.add_argument("--tokens", type=int, default=512, help="positions of a row, half of them scored")
    parser.add_argument("--audio-s", type=float, default=15.0)
    parser.add_argument("--steps", type=int, default=5, help="that count, after two that do not")
    parser.add_argument("--compile", action="store_true", help="also compiled, as `training.compile` does")


def subject_of(options: argparse.Namespace) -> Subject:
    """The stage's objective with random weights on the device, and a batch of its recipe's size."""
    folder = RECIPES / ("3b" if options.size == "small" else options.size)
    config = EchoXConfig.from_dict(sizes_of(options.size, EchoXProcessor.from_pretrained(find_model("nano"))))
    asked = Workload(tokens=options.tokens, reply_tokens=options.tokens // 2, audio_s=options.audio_s)
    _, work = workload_of(folder / f"{options.stage}.yaml", [], asked)
    if options.batch_size:
        work = replace(work, batch_size=options.batch_size, audios=0)
    with torch.device(options.device):
        objective: nn.Module = build_objective(config, options.stage, work)
    if work.gradient_checkpointing:
        enable_gradient_checkpointing(objective)
    batch = on_device(random_batch(config, options.stage, work), torch.device(options.device))
    return random_subject(objective, batch, batch, config, options.stage, work, options.steps)


def matmul_flops_per_s(device: str) -> float:
    """Operations a second of a large product of bfloat16 matrices, the best of five."""
    size = 8192 if torch.device(device).type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    work: Callable[[], Any] = lambda: left @ right  # noqa: E731 - one product, timed
    work()
    return 2 * size**3 / min(timed_s(work, device) for _ in range(5))


def measure(options: argparse.Namespace) -> Measured:
    subject = subject_of(options)
    cuda = torch.device(options.device).type == "cuda"
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # a counter sees no casts inside torch's fused encoder layer
    with FlopCounterMode(display=False) as counted:
        train(subject, subject.batch, 1)
    torch.backends.mha.set_fastpath_enabled(fused)
    peak_flops_s, flops = matmul_flops_per_s(options.device), counted.get_total_flops()
    estimated, work = subject.estimate(), subject.work
    positions = work.reply_tokens + work.unit_words if options.stage == "t2c" else work.tokens
    figures: dict[str, Any] = {
        "size": options.size,
        "stage": options.stage,
        "work": asdict(work),
        "trained_parameters": sum(value.numel() for value in subject.groups["all"]),
        "step_tflop": flops / 1e12,
        "matmul_tflop_s": peak_flops_s / 1e12,
        "estimated_gb": {name: value / 1e9 for name, value in estimated.items()},
        "total_estimated_gb": sum(estimated.values()) / 1e9,
    }
    for name in ("eager", "compiled") if options.compile else ("eager",):
        if name == "compiled":
            compile_blocks(subject.objective)
        began_s = time.perf_counter()
        train(subject, subject.batch, 2)
        synchronize(options.device)
        warm_up_s = time.perf_counter() - began_s
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        step_s = timed_s(lambda: train(subject, subject.batch, options.steps), options.device) / options.steps
        found = {
            "warm_up_s": warm_up_s,
            "step_s": step_s,
            "rows_per_s": work.batch_size / step_s,
            "tokens_per_s": work.batch_size * positions / step_s,
            "share_of_matmul": flops / step_s / peak_flops_s,
        }
        peak = torch.cuda.max_memory_allocated() if cuda else peak_resident_bytes()
        if peak is not None:
            found |= {"peak_gb": peak / 1e9, "estimated_over_measured": sum(estimated.values()) / peak}
        figures[name] = found
        print(f"{options.size} {options.stage} {name}: {found}", flush=True)
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
