"""What all benchmarks share: arguments, repetition, the machine, and the JSON record of a result.

A benchmark is a file with two functions and one call:

    def add_arguments(parser: argparse.ArgumentParser) -> None: ...
    def measure(options: argparse.Namespace) -> Measured: ...

    if __name__ == "__main__":
        run(__doc__, add_arguments, measure)

``run`` adds ``--threads`` and ``--output``, and prints the record as the last line. Results that the documentation
shows are stored by ``--output benchmarks/results/NAME.json``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers.utils import logging

from echox import EchoX
from echox.evaluation.latency.probe import processor_name
from echox.evaluation.subjects.local import model_fingerprint
from echox.files import write_text
from echox.training.records.record import environment

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16", "i8mm")
"""Instruction sets that change the speed of matrix products."""


@dataclass(frozen=True)
class Measured:
    """What a benchmark returns.

    Attributes:
        figures: numbers by name; a name says its unit (``ttfa_s``, ``peak_mb``).
        weights: hash of the weights that were measured; None for random weights, or where no model runs.
    """

    figures: dict[str, Any]
    weights: str | None = None


def run(
    document: str | None,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    measure: Callable[[argparse.Namespace], Measured],
    arguments: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Parse the arguments, measure, print the record as one line of JSON, and write it where ``--output`` says.

    Args:
        document: the benchmark's docstring, shown by ``--help``.
        add_arguments: adds the benchmark's own arguments; what it adds again replaces the shared one.
        measure: the measurement.
        arguments: of the command line; None: those of this process.

    Returns:
        the record.
    """
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter, conflict_handler="resolve"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    parser.add_argument("--output", type=Path, help="also write the result to this JSON file")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    torch.manual_seed(0)
    if isinstance(options.threads, int):
        torch.set_num_threads(options.threads)
    load_before, measured_commit = load_average(), commit()
    measured = measure(options)
    script = Path(sys.argv[0])
    given = sys.argv[1:] if arguments is None else arguments
    record = {
        "benchmark": script.stem,
        "date": datetime.date.today().isoformat(),
        "commit": measured_commit,
        "command": " ".join([*of_openmp(), shlex.join(["python", f"benchmarks/{script.name}", *given])]),
        "machine": {**machine(options.threads), "load_average_1m": [load_before, load_average()]},
        "torch": torch.__version__,
        "weights": measured.weights,
        "figures": measured.figures,
    }
    line = json.dumps(record, ensure_ascii=False)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(line)
    return record


def add_model_arguments(parser: argparse.ArgumentParser, questions: int) -> None:
    """``--model``, ``--data`` and ``--questions``, for benchmarks that ask a trained model."""
    parser.add_argument("--model", default="nano", help="model folder, hub id, or 'nano' (the embedded one)")
    parser.add_argument("--data", type=Path, help="folder of the nano corpus (default: the bundled questions)")
    parser.add_argument("--questions", type=int, default=questions, help=f"different questions (default: {questions})")
    parser.add_argument("--device", default="cpu")


def load_model(options: argparse.Namespace) -> tuple[EchoX, str]:
    """The model that ``--model`` names, on ``--device``, and the hash of its weights."""
    model = EchoX.from_pretrained(options.model, device=options.device)
    return model, model_fingerprint(model)


def machine(threads: object) -> dict[str, Any]:
    """Processor, instruction sets, cores, memory and GPU of this machine, and the threads that were used."""
    return {
        "processor": processor_name(),
        "flags": processor_flags(),
        "cores": os.cpu_count(),
        "threads": threads,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def of_openmp() -> list[str]:
    """What the environment says of threads that wait, as a shell has it."""
    waiting = os.environ.get("OMP_WAIT_POLICY")
    return [] if waiting is None else [f"OMP_WAIT_POLICY={waiting}"]


def processor_flags() -> list[str]:
    """Those of `FLAGS` that the processor has; empty where the system does not list them."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    known = {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}
    return [flag for flag in FLAGS if flag in known]


def load_average() -> float | None:
    """Processes that want to run, averaged over a minute; None where the system has no such figure."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def commit() -> str | None:
    """Commit of the code; a ``+`` after it says that files were changed since. None outside a repository."""
    found = environment()
    return f"{found['commit'][:12]}{'+' if found['dirty'] else ''}" if found.get("commit") else None


def times_s(
    work: Callable[[], object], times: int, warm_up: int = 0, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each of ``times`` calls, after ``warm_up`` calls that are not counted."""
    for _ in range(warm_up):
        work()
    found = []
    for _ in range(times):
        began_s = clock()
        work()
        found.append(clock() - began_s)
    return found


def milliseconds(values_s: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and minimum of durations in seconds, as milliseconds."""
    values_ms = 1e3 * np.asarray(values_s)
    return {
        "median_ms": round(float(np.median(values_ms)), 3),
        "p95_ms": round(float(np.quantile(values_ms, 0.95)), 3),
        "min_ms": round(float(values_ms.min()), 3),
    }


def fresh_process(
    arguments: Sequence[str], script: str | Path | None = None, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run a benchmark in a process of its own, so that its peak memory is its own; returns its figures.

    Args:
        arguments: of the command line.
        script: the benchmark; None: the one that runs.
        environment: variables beside those of this process.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, str(script or sys.argv[0]), *arguments]
    variables = {**os.environ, **(environment or {})}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["figures"]


def resident_bytes() -> int:
    """Memory of this process that is in RAM now."""
    return psutil.Process().memory_info().rss
