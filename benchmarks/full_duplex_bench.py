"""Full-Duplex-Bench 1.0 with our server: answers its recordings, and runs its own evaluation.

    git clone https://github.com/DanielLin94144/Full-Duplex-Bench out/full_duplex_bench
    python benchmarks/full_duplex_bench.py --bench out/full_duplex_bench --make out/fdb --count 4
    python benchmarks/full_duplex_bench.py --bench out/full_duplex_bench --data v1_0/synthetic_pause_handling

Each sample is a folder with ``input.wav``. It is sent to a real server in real time, and what comes back is written as
a listener would have recorded it: ``output.wav``, as long as the input, and ``output.json``, its words and their times.
The benchmark transcribes with NVIDIA's parakeet on a GPU; here the server's own transcription endpoint does, so figures
of another recogniser differ somewhat. Then ``eval_pause_handling.py`` and ``eval_smooth_turn_taking.py`` of a checkout
run as they are (they need tqdm). The other evaluations of 1.0 need more than a CPU: backchannels silero-vad and
torchaudio, interruptions an OpenAI key.

The recordings are not in the repository (a folder of Google Drive, partly CC BY-NC). `--make` synthesises a few in
their layout: pause handling, and smooth turn taking. Source: https://arxiv.org/abs/2503.04721.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile
import websockets
from harness import Measured, run
from serving_load import start_server

from echox.audio import load_audio
from echox.data.corpora.nano.world import build_dialogues
from echox.data.engines.engine import Voice
from echox.data.scoring import normalize_words
from echox.serving.protocol.wire import AudioFormat
from echox.training.stages.hearing.pauses import speak_with_pause
from echox.training.stages.hearing.turn_head import pause_places

RATE, CHUNK_S = 24000, 0.04
PCM = AudioFormat("audio/pcm", RATE)
TASKS = {"pause_handling": "eval_pause_handling.py", "turn_taking": "eval_smooth_turn_taking.py"}


def make(folder: Path, count: int) -> list[Path]:
    """Synthesise samples in the layout of the benchmark; returns the folders of the tasks."""
    rng = random.Random("full duplex bench")
    dialogues = [one for one in build_dialogues() if one.split == "heldout" and len(one.turns) == 2]
    texts = [text for text in (one.turns[0].text or "" for one in dialogues) if len(text.split()) >= 6]
    known = {" ".join(normalize_words(turn.text or "")) for one in dialogues for turn in one.turns}
    for task in TASKS:
        for number, text in enumerate(rng.sample(texts, count), 1):
            sample = folder / task / str(number)
            sample.mkdir(parents=True, exist_ok=True)
            cuts = [(rng.choice(pause_places(text, known)), rng.uniform(0.6, 1.2))] if task == "pause_handling" else []
            tail_s = 0.2 if task == "pause_handling" else 4.0  # a reply after the end is none in a pause
            speech = speak_with_pause(text, Voice("flite", "slt"), cuts, rng, tail_s)
            soundfile.write(sample / "input.wav", speech.waveform, 16000)
            marks: list[dict[str, Any]]
            if task == "pause_handling":
                marks = [{"text": "[PAUSE]", "timestamp": list(one)} for one in speech.pauses]
                (sample / "pause.json").write_text(json.dumps(marks))
            else:
                marks = [{"text": "[TURN-TAKING]", "timestamp": [speech.end_s, speech.end_s]}]
                (sample / "turn_taking.json").write_text(json.dumps(marks))
    return [folder / task for task in TASKS]


async def answer(port: int, detection: dict[str, Any], sample: Path) -> None:
    """Play one recording to the server, and record what is heard."""
    question = load_audio(sample / "input.wav", RATE)
    heard = np.zeros(len(question), np.float32)
    plays_from = 0  # position up to which the loudspeaker has something to play
    step, began_s = int(CHUNK_S * RATE), 0.0

    def now() -> int:
        return int((time.monotonic() - began_s) * RATE)

    async with websockets.connect(f"ws://127.0.0.1:{port}/v1/realtime", max_size=2**26) as ws:
        audio = {"input": {"turn_detection": detection}}
        await ws.send(json.dumps({"type": "session.update", "session": {"type": "realtime", "audio": audio}}))
        while json.loads(await ws.recv())["type"] != "session.updated":
            pass
        began_s = time.monotonic()

        async def listen() -> None:
            nonlocal plays_from
            async for message in ws:
                event = json.loads(message)
                if event["type"] == "response.output_audio.delta":
                    chunk = PCM.decode(base64.b64decode(event["delta"]))
                    start = max(plays_from, now())
                    kept = chunk[: max(0, len(heard) - start)]
                    heard[start : start + len(kept)] = kept
                    plays_from = start + len(chunk)
                elif event["type"] == "input_audio_buffer.speech_started":  # the client stops its loudspeaker
                    heard[now() :] = 0.0
                    plays_from = now()

        listening = asyncio.create_task(listen())
        for number, start in enumerate(range(0, len(question), step), 1):
            await asyncio.sleep(max(0.0, began_s + number * CHUNK_S - time.monotonic()))
            data = PCM.encode(question[start : start + step])
            event = {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}
            await ws.send(json.dumps(event))
        listening.cancel()
    soundfile.write(sample / "output.wav", heard, RATE)
    words = transcribe(port, sample / "output.wav") if np.abs(heard).max() > 0.01 else []
    chunks = [{"text": one["word"], "timestamp": [one["start"], one["end"]]} for one in words]
    text = " ".join(one["word"] for one in words)
    (sample / "output.json").write_text(json.dumps({"text": text, "chunks": chunks}, indent=2))


def transcribe(port: int, path: Path) -> list[dict[str, Any]]:
    """Words of a recording with their times; none if there is no speech in it."""
    fields = {"model": "any", "response_format": "verbose_json", "timestamp_granularities[]": "word"}
    url = f"http://127.0.0.1:{port}/v1/audio/transcriptions"
    found = httpx.post(url, data=fields, files={"file": ("a.wav", path.read_bytes())}, timeout=60)
    if found.status_code == 400:  # a fragment in which no word was recognised
        return []
    return list(found.raise_for_status().json()["words"])


def evaluate(bench: Path, task: str, folder: Path) -> dict[str, float]:
    """What the benchmark's own script prints."""
    script = bench / "v1_v1.5" / "evaluation" / TASKS[task]
    if not script.is_file():
        raise ValueError(f"{script}: expected a checkout of Full-Duplex-Bench, found none; see --help")
    printed = subprocess.run([sys.executable, script, "--root_dir", folder], capture_output=True, text=True)
    found = dict(re.findall(r"^Average ([a-z ]+):\s+([\d.]+)$", printed.stdout, re.MULTILINE))
    if not found:  # the turn-taking script divides by the number of replies, which may be 0
        return {"failed": 1.0}
    return {name.replace(" ", "_"): round(float(value), 3) for name, value in found.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--bench", type=Path, required=True, help="checkout of Full-Duplex-Bench")
    parser.add_argument("--data", type=Path, nargs="*", default=[], help="folders of a task, with a folder per sample")
    parser.add_argument("--make", type=Path, help="synthesise samples into this folder, and use them")
    parser.add_argument("--count", type=int, default=4, help="samples of a task that are synthesised")


def measure(options: argparse.Namespace) -> Measured:
    folders = [*options.data, *(make(options.make, options.count) if options.make else [])]
    figures: dict[str, Any] = {}
    server, port = start_server(options.threads, 2, speculates=True)
    try:
        for name, detection in (("server_vad", {"type": "server_vad"}), ("semantic_vad", {"type": "semantic_vad"})):
            for folder in folders:
                task = next((one for one in TASKS if one in folder.name), None)
                if task is None:
                    raise ValueError(
                        f"{folder}: expected {' or '.join(TASKS)} in its name; the others are not run here"
                    )
                samples = sorted(one.parent for one in folder.glob("*/input.wav"))
                for sample in samples:
                    asyncio.run(answer(port, detection, sample))
                figures[f"{name} {folder.name}"] = {"samples": len(samples), **evaluate(options.bench, task, folder)}
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
