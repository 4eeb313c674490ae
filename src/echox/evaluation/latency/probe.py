"""Latency of streamed replies of a model in this process: time to first audio, real-time factor, cost of each part.

One question at a time. The clock starts when the question ends (its samples are in memory) and counts the computing of
this process alone: no microphone, no network, no detection of the end of speech.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from echox.api import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.data.manifest import audio_path, read_dialogues
from echox.evaluation.scoring.records import balanced_order
from echox.evaluation.scoring.schema import JsonObject
from echox.streaming import AudioChunk


class Spread(TypedDict):
    """Mean, median and 95th percentile of a figure."""

    mean: float
    p50: float
    p95: float


class Machine(TypedDict):
    """Where a measurement was made; ``load_average_1m`` is None where the system has none."""

    threads: int
    device: str
    machine: str
    torch: str
    load_average_1m: float | None


PARTS = ("encode_s", "prefill_s", "text_s", "echo_s", "vocoder_s")


QUESTIONS = Path("speech") / "dialogues.jsonl"
"""In a nano corpus: the manifest of its spoken questions."""


def is_corpus(folder: Path) -> bool:
    """Whether a folder is a nano corpus with spoken questions."""
    return (folder / QUESTIONS).is_file()


def corpus_questions(folder: Path) -> Path:
    """The manifest of the spoken questions of a nano corpus.

    Raises:
        ValueError: the folder is none.
    """
    if not is_corpus(folder):
        raise ValueError(
            f"{folder}: expected the folder of a nano corpus, found no {QUESTIONS} in it; correct its name, or name "
            "none for the bundled questions"
        )
    return folder / QUESTIONS


def choose_questions(data_dir: Path | None, count: int, seed: int = 0) -> list[Path]:
    """Held-out spoken questions, balanced over topics.

    Args:
        data_dir: folder of a nano corpus; None: the bundled questions, of which there are few.
        count: at most so many.
        seed: of the order.

    Raises:
        ValueError: the folder is no such corpus, or has no held-out questions.
    """
    if data_dir is None:
        return bundled_questions()[:count]
    manifest = corpus_questions(data_dir)
    items = [item for item in read_dialogues(manifest) if item.split.startswith("heldout") and len(item.turns) == 2]
    ordered = balanced_order(items, lambda item: str(item.topic), seed)
    spoken = [item.turns[item.heard_turns[-1]] for item in ordered if item.heard_turns]
    if not spoken:
        raise ValueError(f"{manifest}: expected held-out spoken questions, found none: run the corpus stage")
    return [audio_path(manifest, str(turn.audio)) for turn in spoken][:count]


def measure_latency(
    model: EchoX, questions: Sequence[Path], warm_up: int = 3, threads: int | None = None
) -> JsonObject:
    """Stream a reply to every question and measure its parts.

    Args:
        model: decoded greedily.
        questions: audio files.
        warm_up: replies that are not counted.
        threads: of torch; None: unchanged.

    Returns:
        ``ttfa_s``, ``total_s``, ``rtf``, ``ttfa_tokens``, ``first_text_s`` (end of the question to the first piece of
        text), ``max_underrun_s`` (delay of the latest chunk in a player that starts with the first one)
        and each of `PARTS` (of the whole reply) as ``{"mean", "p50", "p95"}``; the same ``ttfa_s`` of replies of one
        segment as ``ttfa_one_segment_s``; counts and the machine.

    Raises:
        ValueError: no question, or no spoken reply.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    return {**summarize_rows(latency_rows(model, questions, warm_up), warm_up), **machine_of(model)}


def latency_rows(model: EchoX, questions: Sequence[Path | bytes], warm_up: int = 3) -> list[dict[str, float]]:
    """One row of figures for each streamed reply; see :func:`measure_latency`.

    Raises:
        ValueError: no question.
    """
    if not questions:
        raise ValueError("expected at least one question to measure, found none: name audio files")
    waveforms = [load_audio(path, model.sampling_rate) for path in questions]
    for number in range(warm_up):
        _one(model, waveforms[number % len(waveforms)])
    return [_one(model, waveform) for waveform in waveforms]


def summarize_rows(rows: Sequence[dict[str, float]], warm_up: int) -> JsonObject:
    """Spread of every figure over the spoken replies.

    Raises:
        ValueError: no reply was spoken.
    """
    spoken = [row for row in rows if row["segments"]]
    if not spoken:
        raise ValueError(f"expected spoken replies, found none for {len(rows)} questions: is the model trained?")
    figures = {name: spread([row[name] for row in spoken]) for name in spoken[0] if name != "segments"}
    short = [row["ttfa_s"] for row in spoken if row["segments"] == 1]
    return {
        "questions": len(rows),
        "unspoken": len(rows) - len(spoken),
        "warm_up": warm_up,
        **figures,
        "ttfa_one_segment_s": spread(short) if short else None,
        "rtf_overall": sum(row["total_s"] for row in spoken) / sum(row["audio_s"] for row in spoken),
    }


def _one(model: EchoX, waveform: np.ndarray) -> dict[str, float]:
    """One streamed reply."""
    began_s = time.perf_counter()
    first_text_s = first_audio_s = None
    underrun_s, segments = 0.0, 0
    stream = model.stream(waveform, sampling_rate=model.sampling_rate, temperature=0.0, echo_temperature=0.0)
    for event in stream:
        now_s = time.perf_counter() - began_s
        if isinstance(event, AudioChunk):
            first_audio_s = now_s if first_audio_s is None else first_audio_s
            underrun_s = max(underrun_s, now_s - first_audio_s - event.start_s)
            segments += 1
        elif first_text_s is None:
            first_text_s = now_s
    total_s = time.perf_counter() - began_s
    timings = stream.reply().timings
    audio_s = float(timings["audio_s"] or 0.0)
    return {
        "segments": segments,
        "ttfa_s": first_audio_s or 0.0,
        "first_text_s": first_text_s or 0.0,
        "total_s": total_s,
        "rtf": total_s / audio_s if audio_s else 0.0,
        "audio_s": audio_s,
        "question_s": float(timings["question_s"] or 0.0),
        "ttfa_tokens": float(timings["ttfa_tokens"] or 0),
        "max_underrun_s": underrun_s,
        **{part: float(timings[part] or 0.0) for part in PARTS},
    }


def machine_of(model: EchoX) -> Machine:
    """Machine, threads and load of a measurement."""
    return {
        "threads": torch.get_num_threads(),
        "device": str(next(model.model.parameters()).device),
        "machine": f"{processor_name()}, {os.cpu_count()} CPUs",
        "torch": torch.__version__,
        "load_average_1m": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def spread(values: Sequence[float]) -> Spread:
    """Mean, median and 95th percentile."""
    return {
        "mean": float(np.mean(values)),
        "p50": float(np.percentile(values, 50)),
        "p95": float(np.percentile(values, 95)),
    }


def processor_name() -> str:
    """The processor's name, or its architecture where the system does not give the name."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
