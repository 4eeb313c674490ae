"""Simultaneous spoken conversations with a real server: are replies right, in time, and is memory flat?

    python benchmarks/serving_load.py --conversations 8 --minutes 10 --threads 1
    python benchmarks/serving_load.py --conversations 6 --minutes 6 --hurried   # many more replies: is memory flat?
    python benchmarks/serving_load.py --conversations 4 --minutes 8 --speculation both   # what speculative turns bring

Each conversation speaks bundled questions in real time, waits until the reply was played, and continues; after some
turns it hangs up and calls again. Afterwards every reply is compared with what the model alone answers to the same
audio and history. `--hurried` waits for nothing: each question interrupts the reply before and cuts the history to what
was heard, so those replies are not compared. Figures: `lost` and `mixed` replies, `underruns` of a player that waits
`prebuffer_s` before it begins, time to first audio from the commit of the turn (when the detector has decided) and from
the last voiced moment of the question (which includes the silence that ends a turn), memory of the server at the start
and end. Audio is sent when a microphone would have it. `--speculation both` starts two servers, one that begins replies
in pauses and one that does not, and lets them serve in turn, `--parts` times each: same machine, same load, one run.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import websockets
from harness import Measured, run

from echox import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.evaluation.subjects.local import model_fingerprint
from echox.speech_detection import MARGIN_AFTER_S, find_speech

RATE = 16000  # in: the sound comes back from `conversation.item.retrieve` bit by bit as it was heard
OUT_RATE = 24000
SILENCE_S = 0.7
MAX_REPLY_S = 30.0
SPECULATION_METRICS = ("echox_speculations_total{", "echox_discarded_compute_seconds_total ")


@dataclass
class Turn:
    """One question and its reply."""

    heard: str = ""
    text: str = ""
    sound: bytes = b""
    status: str = ""
    audio_s: float = 0.0
    first_audio_s: float | None = None
    first_audio_after_speech_s: float | None = None
    underruns: int = 0


@dataclass
class Player:
    """A player in real time that waits a moment before it begins."""

    prebuffer_s: float
    ends_at_s: float | None = None
    underruns: int = 0

    def play(self, now_s: float, duration_s: float) -> None:
        if self.ends_at_s is None:
            self.ends_at_s = now_s + self.prebuffer_s
        elif now_s > self.ends_at_s:
            self.underruns += 1
            self.ends_at_s = now_s + self.prebuffer_s
        self.ends_at_s += duration_s


@dataclass
class Figures:
    conversations: list[list[Turn]] = field(default_factory=list)
    lost: int = 0
    errors: list[str] = field(default_factory=list)


async def converse(url: str, seed: str, until_s: float, options: argparse.Namespace, figures: Figures) -> None:
    rng = random.Random(seed)
    questions = [load_audio(path, RATE) for path in bundled_questions()]
    await asyncio.sleep(rng.uniform(0, 2))
    while time.monotonic() < until_s:
        done: list[Turn] = []
        figures.conversations.append(done)
        async with websockets.connect(url, max_size=2**26, open_timeout=30) as ws:
            audio = {
                "input": {
                    "format": {"type": "audio/pcm", "rate": RATE},
                    "transcription": {"model": "echox"},
                    "turn_detection": {"type": "server_vad"},
                },
                "output": {"format": {"type": "audio/pcm", "rate": OUT_RATE}},
            }
            await ws.send(json.dumps({"type": "session.update", "session": {"type": "realtime", "audio": audio}}))
            for _ in range(options.turns):
                if time.monotonic() >= until_s:
                    break
                turn = one_turn(ws, rng.choice(questions), options)
                try:
                    done.append(await asyncio.wait_for(turn, MAX_REPLY_S))
                except (asyncio.TimeoutError, websockets.ConnectionClosed, RuntimeError) as error:
                    figures.lost += 1
                    figures.errors.append(f"{type(error).__name__}: {error}")
                    break


def voice_end_s(question: np.ndarray) -> float:
    """The last voiced moment of a question, s."""
    speech = find_speech(question, RATE)
    if speech is None:
        raise ValueError("expected speech in the question, found none")
    return (speech.end + speech.tail) / RATE - MARGIN_AFTER_S


async def one_turn(ws: Any, question: np.ndarray, options: argparse.Namespace) -> Turn:
    """Speak in real time, listen, and wait until the reply was played; hurried, neither takes time."""
    turn, player, hurried, chunk_s = Turn(), Player(options.prebuffer_s), options.hurried, options.chunk_s
    speech_ended_s, ended_s = float("inf"), voice_end_s(question)
    committed_s = 0.0
    item_id = ""

    async def speak() -> None:
        nonlocal speech_ended_s
        data = np.clip(np.rint(np.concatenate([question, np.zeros(int(SILENCE_S * RATE))]) * 32768), -32768, 32767)
        step, began_s = int(chunk_s * RATE), time.monotonic()
        speech_ended_s = began_s + ended_s
        for number, start in enumerate(range(0, len(data), step), 1):  # a chunk is there when its last sample is
            await asyncio.sleep(0.0 if hurried else max(0.0, began_s + number * chunk_s - time.monotonic()))
            chunk = base64.b64encode(data[start : start + step].astype("<i2").tobytes()).decode()
            await ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": chunk}))

    speaking = asyncio.create_task(speak())
    try:
        while True:
            event = json.loads(await ws.recv())
            now_s, kind = time.monotonic(), event["type"]
            if kind == "input_audio_buffer.committed":
                committed_s, item_id = now_s, event["item_id"]
            elif kind == "response.output_audio.delta":
                if turn.first_audio_s is None:
                    turn.first_audio_s, turn.first_audio_after_speech_s = now_s - committed_s, now_s - speech_ended_s
                duration_s = len(base64.b64decode(event["delta"])) / 2 / OUT_RATE
                turn.audio_s += duration_s
                player.play(now_s, duration_s)
            elif kind == "conversation.item.input_audio_transcription.completed":
                turn.heard = event["transcript"]
            elif kind == "response.done":
                turn.status = event["response"]["status"]
                turn.text = event["response"]["output"][0]["content"][0]["transcript"]
                await ws.send(json.dumps({"type": "conversation.item.retrieve", "item_id": item_id}))
            elif kind == "conversation.item.retrieved":
                turn.sound = base64.b64decode(event["item"]["content"][0]["audio"])
                break
            elif kind == "error":
                raise RuntimeError(event["error"]["message"])
        turn.underruns = player.underruns
        if not hurried:
            await asyncio.sleep(max(0.0, (player.ends_at_s or 0.0) - time.monotonic()) + 0.2)
        await speaking
    finally:
        speaking.cancel()
    return turn


def check(figures: Figures, model: EchoX) -> list[str]:
    """Replies that are not what the model alone says."""
    alone: dict[tuple[bytes, ...], tuple[str, str]] = {}  # all sounds of a call so far -> heard, text
    mixed = []
    for turns in figures.conversations:
        session = model.session()
        calls = [tuple(turn.sound for turn in turns[: number + 1]) for number in range(len(turns))]
        if any(call not in alone for call in calls):
            for turn, call in zip(turns, calls, strict=True):
                samples = np.frombuffer(turn.sound, "<i2").astype(np.float32) / 32768
                reply = session.reply(samples, sampling_rate=RATE, speak=False)
                alone[call] = reply.heard, reply.text
        for number, (turn, call) in enumerate(zip(turns, calls, strict=True), 1):
            if (turn.heard, turn.text) != alone[call]:
                heard, text = alone[call]
                mixed.append(f"turn {number}: {turn.heard!r} -> {turn.text!r}, alone {heard!r} -> {text!r}")
    return mixed


def quantiles(values: list[float]) -> dict[str, float]:
    return {f"p{level}": round(float(np.quantile(values, level / 100)), 3) for level in (50, 95, 99)} if values else {}


def start_server(threads: int, sessions: int, speculates: bool) -> tuple[subprocess.Popen[bytes], int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "echox",
        "serve",
        "--model",
        "nano",
        "--port",
        str(port),
        "--threads",
        str(threads),
    ]
    command += ["--max-sessions", str(sessions), "--speculate" if speculates else "--no-speculate"]
    server = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    for _ in range(1800):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as found:
                if found.status == 200:
                    return server, port
        except OSError:
            time.sleep(0.1)
    server.kill()
    raise RuntimeError("the server did not get ready")


class Arm:
    """One server, and what it was measured at."""

    def __init__(self, options: argparse.Namespace, speculates: bool) -> None:
        self.options = options
        self.server, self.port = start_server(options.threads, options.conversations, speculates)
        self.process = psutil.Process(self.server.pid)
        self.figures = Figures()
        self.memory_mb: list[float] = []
        self.cpu_s = self.clock_s = 0.0
        self.metrics: list[str] = []

    def serve(self, part: int, minutes: float) -> None:
        """Hold conversations for some minutes."""
        cpu, began_s = self.process.cpu_times(), time.monotonic()
        asyncio.run(self._load(part, began_s + 60 * minutes))
        now = self.process.cpu_times()
        self.cpu_s += now.user + now.system - cpu.user - cpu.system
        self.clock_s += time.monotonic() - began_s
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as found:
            self.metrics = found.read().decode().splitlines()

    async def _load(self, part: int, until_s: float) -> None:
        url = f"ws://127.0.0.1:{self.port}/v1/realtime"
        talks = [
            asyncio.create_task(converse(url, f"{part} {number}", until_s, self.options, self.figures))
            for number in range(self.options.conversations)
        ]
        while not all(talk.done() for talk in talks):
            self.memory_mb.append(self.process.memory_info().rss / 1e6)
            await asyncio.sleep(1)
        for talk in talks:
            talk.result()

    def stop(self) -> int:
        """Stop the server; return its exit status."""
        self.server.send_signal(signal.SIGTERM)
        return self.server.wait(30)

    def measured(self, model: EchoX) -> dict[str, Any]:
        """All figures; every reply is compared with what the model alone answers."""
        mixed = None if self.options.hurried else check(self.figures, model)
        for line in [*self.figures.errors, *(mixed or [])][:10]:
            print(line)
        speech_s = sum(turn.audio_s for talk in self.figures.conversations for turn in talk)
        return {
            **figures_of(self.figures, self.memory_mb),
            "mixed": None if mixed is None else len(mixed),
            "server_cores": round(self.cpu_s / self.clock_s, 2),
            "cpu_s_per_second_of_speech": round(self.cpu_s / speech_s, 3) if speech_s else None,
            "speculations": [line for line in self.metrics if line.startswith(SPECULATION_METRICS)],
            "server_errors": [line for line in self.metrics if line.startswith("echox_errors_total{")],
        }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--conversations", type=int, default=8)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--turns", type=int, default=6, help="of a call, before it hangs up")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the server")
    parser.add_argument("--hurried", action="store_true", help="as fast as the server can, for memory; no first audio")
    parser.add_argument("--prebuffer-s", type=float, default=0.1, help="of the player")
    parser.add_argument("--chunk-s", type=float, default=0.04, help="audio in one message of a client")
    parser.add_argument("--speculation", choices=("on", "off", "both"), default="on", help="replies begun in pauses")
    parser.add_argument("--parts", type=int, default=4, help="times that each server serves, with --speculation both")


def measure(options: argparse.Namespace) -> Measured:
    names = ["on", "off"] if options.speculation == "both" else [options.speculation]
    arms: dict[str, Arm] = {}
    parts = options.parts if len(names) > 1 else 1
    try:
        for name in names:
            arms[name] = Arm(options, speculates=name == "on")
        for part in range(parts):
            for name in sorted(names, reverse=part % 2 == 0):
                arms[name].serve(part, options.minutes / parts / len(names))
    finally:
        stopped = {name: arm.stop() for name, arm in arms.items()}
    model = EchoX.from_pretrained("nano")
    found = {name: {**arm.measured(model), "exit_status": stopped[name]} for name, arm in arms.items()}
    shared = {
        "conversations": options.conversations,
        "minutes": options.minutes,
        "chunk_s": options.chunk_s,
        "prebuffer_s": options.prebuffer_s,
        "speculation": options.speculation,
    }
    figures = {"with": found["on"], "without": found["off"]} if len(found) > 1 else found[options.speculation]
    return Measured({**figures, **shared}, model_fingerprint(model))


def figures_of(figures: Figures, memory_mb: list[float]) -> dict[str, Any]:
    """Counts, times and memory of all conversations."""
    turns = [turn for talk in figures.conversations for turn in talk]
    spoken = [turn for turn in turns if turn.first_audio_s is not None]
    quarter = max(1, len(memory_mb) // 4)
    return {
        "replies": len(turns),
        "lost": figures.lost + sum(turn.status != "completed" for turn in turns),
        "underruns": sum(turn.underruns for turn in turns),
        "replies_with_underruns": sum(turn.underruns > 0 for turn in turns),
        "first_audio_s": quantiles([turn.first_audio_s for turn in spoken if turn.first_audio_s is not None]),
        "first_audio_after_speech_s": quantiles(
            [turn.first_audio_after_speech_s for turn in spoken if turn.first_audio_after_speech_s is not None]
        ),
        "speech_s": round(sum(turn.audio_s for turn in turns), 1),
        "memory_mb": {
            "first_quarter": round(float(np.mean(memory_mb[:quarter])), 1),
            "last_quarter": round(float(np.mean(memory_mb[-quarter:])), 1),
            "max": round(max(memory_mb), 1),
        },
    }


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
