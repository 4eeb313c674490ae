"""Nano's streaming against the published method of streaming, in one process: first audio, its parts, speed.

python benchmarks/nano_streaming.py --data out/nano --questions 40 --threads 1 2

Both answer the same questions with the same weights, alternately, so a busy machine slows both. The published method is
our implementation in `reference_engine.py`. Its 30 s window costs most of its time here; ``gain_same_window`` leaves
that out: as if it, too, encoded the question at its true length.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Measured, add_model_arguments, load_model, run
from reference_engine import PARTS, Reference

from echox import EchoX
from echox.audio import load_audio
from echox.evaluation.latency.playback import play
from echox.evaluation.latency.probe import choose_questions, spread
from echox.evaluation.studies.speech_policies.policy_comparison import policy_questions
from echox.process_memory import peak_resident_bytes
from echox.streaming import AudioChunk


def answer(model: EchoX, question: np.ndarray) -> dict[str, Any]:
    """One streamed reply: when its chunks came, and where the time up to the first one went."""
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    arrivals_s: list[float] = []
    durations_s: list[float] = []
    first: dict[str, float] = {}
    ttfa_cpu_s = 0.0
    task = model.session(temperature=0.0, echo_temperature=0.0).submit(question)
    for event in task:
        if not isinstance(event, AudioChunk):
            continue
        if not arrivals_s:
            ttfa_cpu_s = time.process_time() - began_cpu_s
            first = {part: getattr(task.timings, part) for part in PARTS}
        arrivals_s.append(time.perf_counter() - began_s)
        durations_s.append(event.duration_s)
    return {
        "ttfa_s": arrivals_s[0],
        "ttfa_cpu_s": ttfa_cpu_s,
        "ttfa_tokens": task.timings.ttfa_tokens,
        "first": first,
        "total_s": time.perf_counter() - began_s,
        "total_cpu_s": time.process_time() - began_cpu_s,
        "audio_s": sum(durations_s),
        "underruns": play(arrivals_s, durations_s).underruns,
    }


def answer_as_reference(reference: Reference, question: np.ndarray) -> dict[str, Any]:
    """The same by the reference."""
    reply = reference.reply(question)
    durations_s = [len(waveform) / reference.echox.engine.output_sampling_rate for waveform in reply.waveforms]
    return {
        "ttfa_s": reply.arrivals_s[0],
        "audio_s": sum(durations_s),
        "underruns": play(reply.arrivals_s, durations_s).underruns,
        **{name: getattr(reply, name) for name in ("ttfa_cpu_s", "ttfa_tokens", "first", "total_s", "total_cpu_s")},
    }


def figures_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Spreads over replies; ``first``: the parts of the time to first audio; ``rtf`` of all together.

    ``_cpu`` is processor time of all threads: what other work on the machine cannot lengthen.
    """
    audio_s = sum(row["audio_s"] for row in rows)
    return {
        "replies": len(rows),
        **{name: spread([row[name] for row in rows]) for name in ("ttfa_s", "ttfa_cpu_s", "ttfa_tokens")},
        "first": {part: spread([row["first"][part] for row in rows]) for part in PARTS},
        "rtf": sum(row["total_s"] for row in rows) / audio_s,
        "rtf_cpu": sum(row["total_cpu_s"] for row in rows) / audio_s,
        "underruns": sum(row["underruns"] > 0 for row in rows),
    }


def compare(model: EchoX, questions: list[Path], warm_up: int, run: int) -> dict[str, Any]:
    """Both on every question, in turn; `run` tells apart the runs of one process."""
    reference = Reference(model)
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for number, path in enumerate([*questions[:warm_up], *questions]):
        question = load_audio(path, model.sampling_rate)
        question[-1] = 1e-9 * (1000 * run + number + 1)  # what was heard before would not be encoded again
        if number % 2:
            theirs.append(answer_as_reference(reference, question))
        ours.append(answer(model, question))
        if not number % 2:
            theirs.append(answer_as_reference(reference, question))
    ours, theirs = ours[warm_up:], theirs[warm_up:]
    pairs = list(zip(ours, theirs, strict=True))
    same = [
        (late["ttfa_s"] - late["first"]["encode_s"] + early["first"]["encode_s"]) / early["ttfa_s"]
        for early, late in pairs
    ]
    return {
        "engine": figures_of(ours),
        "reference": figures_of(theirs),
        "gain": spread([late["ttfa_s"] / early["ttfa_s"] for early, late in pairs]),
        "gain_cpu": spread([late["ttfa_cpu_s"] / early["ttfa_cpu_s"] for early, late in pairs]),
        "gain_same_window": spread(same),
    }


def report(name: str, result: dict[str, Any]) -> None:
    """A few lines for people; times in ms."""
    print(name)
    for who in ("engine", "reference"):
        found = result[who]
        clock, processor, tokens = (found[key] for key in ("ttfa_s", "ttfa_cpu_s", "ttfa_tokens"))
        print(
            f"  {who:<10} first audio p50 {1000 * clock['p50']:.0f}, p95 {1000 * clock['p95']:.0f} (processor "
            f"{1000 * processor['p50']:.0f}), {tokens['p50']:.0f} tokens; rtf {found['rtf']:.3f} (processor "
            f"{found['rtf_cpu']:.3f}); {found['underruns']} of {found['replies']} stalled"
        )
        parts = ", ".join(f"{part.removesuffix('_s')} {1000 * found['first'][part]['p50']:.0f}" for part in PARTS)
        print(f"  {'':<10} of it {parts}")
    gain, processor, same = (result[key]["p50"] for key in ("gain", "gain_cpu", "gain_same_window"))
    print(f"  {gain:.1f} x sooner (processor {processor:.1f} x), {same:.1f} x with the same audio window")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, questions=40)
    parser.add_argument("--warm-up", type=int, default=3, help="replies that are not counted")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="CPU threads, one run for each")


def measure(options: argparse.Namespace) -> Measured:
    model, weights = load_model(options)
    sets = {"balanced over topics": choose_questions(options.data, options.questions)}
    longer = [
        item.question for item in policy_questions(options.data, options.questions) if item.group.startswith("several")
    ]
    if longer:
        sets["several sentences"] = longer
    runs: list[dict[str, Any]] = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name, questions in sets.items():
            found = compare(model, questions, options.warm_up, len(runs))
            runs.append({"questions": name, "threads": threads, **found})
            report(f"{name}, {threads} thr.", found)
    peak = peak_resident_bytes()
    return Measured({"runs": runs, "peak_mb": None if peak is None else round(peak / 1e6, 1)}, weights)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
