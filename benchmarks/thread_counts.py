"""How soon does a model answer with one thread or several, which wait awake or asleep?

python benchmarks/thread_counts.py --model mini --questions 12 --rounds 2 --output out/thread_counts.json

Each way is a process of its own, since OpenMP reads its environment once; all ways in turn, several times. `--busy`:
beside a process that computes all the time, as on a machine that has other work. First audio is counted from the end
of the question (its samples are in memory).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from harness import Measured, add_model_arguments, fresh_process, load_model, run

from echox import AudioChunk
from echox.audio import load_audio
from echox.evaluation.latency.probe import choose_questions

WARM_UP = 2
"""Replies that are not counted."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, questions=12)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each way (default: 2)")
    parser.add_argument("--busy", action="store_true", help="beside a process that computes all the time")
    parser.add_argument("--alone", action="store_true", help="one way, in this process")


def answers(options: argparse.Namespace) -> Measured:
    """First audio and its processor time of each question, in this process."""
    (threads,) = options.threads
    torch.set_num_threads(threads)
    model, weights = load_model(options)
    waveforms = [load_audio(path, model.sampling_rate) for path in choose_questions(options.data, options.questions)]
    first_audio_s, first_audio_cpu_s = [], []
    for waveform in [*waveforms[:WARM_UP], *waveforms]:
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        with model.stream(waveform) as events:
            next(event for event in events if isinstance(event, AudioChunk))
            first_audio_s.append(time.perf_counter() - began_s)
            first_audio_cpu_s.append(time.process_time() - began_cpu_s)
    counted = {"ttfa_s": first_audio_s[WARM_UP:], "ttfa_cpu_s": first_audio_cpu_s[WARM_UP:]}
    return Measured({**counted, "weights": weights}, weights)


def ways(options: argparse.Namespace) -> list[tuple[str, int, dict[str, str]]]:
    """(name, threads, environment); a single thread has nobody to wait for."""
    found: list[tuple[str, int, dict[str, str]]] = []
    for count in options.threads:
        name = "1_thread" if count == 1 else f"{count}_threads"
        found.append((name, count, {}))
        if count > 1:
            found.append((f"{name}_asleep", count, {"OMP_WAIT_POLICY": "PASSIVE"}))
    return found


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Another process computes meanwhile."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def measure(options: argparse.Namespace) -> Measured:
    """All ways in turn."""
    if options.alone:
        return answers(options)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with busy(options.busy):
        for _ in range(options.rounds):
            for name, threads, environment in ways(options):
                arguments = ["--alone", "--model", options.model, "--questions", str(options.questions)]
                arguments += ["--data", str(options.data)] if options.data is not None else []
                found[name].append(fresh_process([*arguments, "--threads", str(threads)], environment=environment))
    figures = {
        name: {
            figure: {
                f"p{percent}": round(float(np.percentile([s for one in runs for s in one[figure]], percent)), 3)
                for percent in (50, 95)
            }
            for figure in ("ttfa_s", "ttfa_cpu_s")
        }
        for name, runs in found.items()
    }
    weights = {one["weights"] for runs in found.values() for one in runs}
    return Measured(
        {"questions": options.questions, "rounds": options.rounds, "busy": options.busy, **figures}, *weights
    )


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
