"""``echox eval latency``: first audio, real-time factor and underruns, in this process or at the client of a server.

Nothing is scored or transcribed meanwhile. `DEFINITIONS` says what each figure means.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from echox.api.card import markdown_table
from echox.evaluation.latency.playback import play
from echox.evaluation.latency.probe import choose_questions, is_corpus, latency_rows, machine_of, summarize_rows
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.items import read_recordings
from echox.evaluation.subjects.local import LocalSubject
from echox.evaluation.subjects.remote import SERVER_RATE_HZ, RemoteSubject
from echox.evaluation.subjects.subject import Subject
from echox.files import write_text

DEFINITIONS = {
    "clock": "in process: starts when the question's samples are in memory, counts this process alone (no microphone, "
    "network or end-of-speech detection); server: starts when the request is sent, at the client",
    "ttfa_s": "until the first chunk of the reply's speech that is not empty",
    "first_text_s": "until the first text",
    "total_s": "until the last piece of the reply",
    "rtf": "total_s per second of the reply's speech: lower is better; rtf_overall: sums over all replies",
    "ttfa_tokens": "text tokens written before the first speech (in process)",
    "max_underrun_s": "delay of the latest chunk in a player that starts with the first one; above 0.1 s a listener "
    "notices a gap",
    "encode_s, prefill_s, text_s, echo_s, vocoder_s": "compute of each part over the whole reply (in process)",
}
ROWS_FILE, FIGURES_FILE, REPORT_FILE, CDF_FILE = "replies.jsonl", "latency.json", "latency.md", "first_audio.png"


def run_latency(
    subject: Subject, data: Path | None, output: Path, count: int, warm_up: int, concurrency: Sequence[int]
) -> str:
    """Measure, write ``latency.json``, ``latency.md``, a row for each reply and the plot; return the Markdown.

    Args:
        subject: the model to be measured.
        data: nano corpus, or a file or folder of items; None: the embedded held-out questions.
        output: folder.
        count: questions.
        warm_up: replies that are not counted.
        concurrency: numbers of concurrent requests to a server, each measured separately.

    Raises:
        ValueError: no spoken question there, or nothing was spoken.
    """
    questions = _questions(data, count)
    output.mkdir(parents=True, exist_ok=True)
    measured: JsonObject = {"subject": subject.name, "definitions": DEFINITIONS, "runs": []}
    rows: dict[str, list[dict[str, float]]] = {}
    for at_once in concurrency:
        if isinstance(subject, LocalSubject):
            found = latency_rows(subject.model, questions, warm_up)
            machine: JsonObject = {**machine_of(subject.model)}
        else:
            assert isinstance(subject, RemoteSubject)
            found = _server_rows(subject, questions, warm_up, at_once)
            machine = {}
        rows[f"{at_once} at once"] = found
        measured["runs"].append({"concurrency": at_once, **summarize_rows(found, warm_up), **machine})
    text = render(measured)
    write_text(output / FIGURES_FILE, json.dumps(measured, indent=1) + "\n")
    write_text(output / REPORT_FILE, text)
    lines = [json.dumps({"run": name, **row}) for name, found in rows.items() for row in found]
    write_text(output / ROWS_FILE, "\n".join(lines) + "\n")
    draw_first_audio(rows, output / CDF_FILE)
    return text


def render(measured: JsonObject) -> str:
    """The figures as Markdown, with their definitions."""
    lines = ["# Latency", "", f"Measured: {measured['subject']}."]
    for figures in measured["runs"]:
        where = (
            f"{figures['threads']} thread(s) on {figures['machine']}, torch {figures['torch']}, load average "
            f"{figures['load_average_1m']:.1f}"
            if "machine" in figures
            else "by the client's clock"
        )
        spreads = {name: value for name, value in figures.items() if isinstance(value, dict)}
        rows = [[name, *(f"{value[part]:.3f}" for part in ("mean", "p50", "p95"))] for name, value in spreads.items()]
        lines += [
            "",
            f"Replies at once: {figures['concurrency']}; {figures['questions']} questions after "
            f"{figures['warm_up']} that were not counted, {figures['unspoken']} without speech; {where}. "
            f"rtf_overall {figures['rtf_overall']:.3f}.",
            "",
        ]
        lines += markdown_table(["seconds (rtf: ratio, ttfa_tokens: tokens)", "mean", "p50", "p95"], rows)
    lines += ["", "## What the figures mean", "", *(f"- **{name}**: {text}." for name, text in DEFINITIONS.items())]
    return "\n".join(lines) + "\n"


def draw_first_audio(rows: dict[str, list[dict[str, float]]], path: Path) -> bool:
    """Cumulative distribution of the time to first audio; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:  # the "eval" extra
        return False
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name, found in rows.items():
        times = sorted(1000 * row["ttfa_s"] for row in found if row["segments"])
        axes.step(times, [(place + 1) / len(times) for place in range(len(times))], where="post", label=name)
    axes.set(xlabel="time to first audio, ms", ylabel="share of replies", ylim=(0, 1.02))
    axes.legend()
    figure.savefig(path, dpi=110)
    return True


def _questions(data: Path | None, count: int) -> list[Path | bytes]:
    """Questions of the embedded set, of a nano corpus, or of any items that are spoken."""
    folder = data or embedded_heldout()
    if is_corpus(folder):
        return list(choose_questions(folder, count))
    return [item.audios[-1] for item in read_recordings(folder)[:count]]


def _server_rows(
    server: RemoteSubject, questions: Sequence[Path | bytes], warm_up: int, at_once: int
) -> list[dict[str, float]]:
    for number in range(warm_up):
        _streamed(server, questions[number % len(questions)])
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda question: _streamed(server, question), questions))


def _streamed(server: RemoteSubject, question: Path | bytes) -> dict[str, float]:
    """One reply, measured at the client."""
    body = server.request([{"role": "user", "content": [{"type": "audio", "audio": question}]}], True, stream=True)
    began_s = time.perf_counter()
    first_text_s = 0.0
    arrivals_s: list[float] = []
    durations_s: list[float] = []
    for event in server.events(body):
        now_s = time.perf_counter() - began_s
        for choice in event.get("choices", []):
            delta = choice.get("delta", {})
            audio = delta.get("audio") or {}
            if (delta.get("content") or audio.get("transcript")) and not first_text_s:
                first_text_s = now_s
            samples = len(base64.b64decode(audio["data"])) // 2 if audio.get("data") else 0
            if samples:
                arrivals_s.append(now_s)
                durations_s.append(samples / SERVER_RATE_HZ)
    total_s = time.perf_counter() - began_s
    starts_s = [sum(durations_s[:place]) for place in range(len(durations_s))]
    late_s = [arrival_s - arrivals_s[0] - start_s for arrival_s, start_s in zip(arrivals_s, starts_s, strict=True)]
    audio_s = sum(durations_s)
    return {
        "segments": len(arrivals_s),
        "ttfa_s": arrivals_s[0] if arrivals_s else 0.0,
        "first_text_s": first_text_s,
        "total_s": total_s,
        "rtf": total_s / audio_s if audio_s else 0.0,
        "audio_s": audio_s,
        "max_underrun_s": max([0.0, *late_s]),
        "underruns": float(play(arrivals_s, durations_s).underruns),
    }
