"""The preparation pipeline on hours of synthetic speech: the same output every way, and what a second worker brings.

python benchmarks/data_pipeline.py
python benchmarks/data_pipeline.py --folder out/data/bench --no-recognition --limit 500 --only one two

Needs nano's corpus and units (runs/nano.sh). Input: its replies (5.8 h), half as shards of which one is cut, with some
recordings corrupted and some texts exchanged. Ways: ``one`` process, ``two`` processes, ``killed`` (two; first one of
them is killed, then the whole run, which is started again), ``ray`` (a local cluster, two actors). Figures:
hashes, wall seconds, dropped by reason, speed-up, load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import yaml
from harness import Measured, load_average, run

from echox.data.manifest import Utterance, audio_path, read_utterances, write_shar, write_utterances

WAYS = ("one", "two", "killed", "ray")


def make_input(speech: Path, folder: Path, limit: int | None) -> list[dict[str, str]]:
    """Damaged input, made once: 6 corrupted recordings, 6 exchanged texts, 1 cut shard of 100 clips."""
    items = read_utterances(speech)[:limit]
    inputs = [{"utterances": str(folder / "plain.jsonl")}, {"shards": str(folder / "shar")}]
    if (folder / "made").exists():
        return inputs
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    placed = [
        Utterance(
            item.id,
            os.path.relpath(audio_path(speech, item.audio), folder),
            item.text,
            item.speaker,
            item.duration_s,
            item.split,
            item.word_ends_s,
        )
        for item in items
    ]
    half = len(placed) // 2
    plain, sharded = placed[:half], placed[half:]
    step = half // 12
    for place in range(6):
        item = plain[place * step]
        content = audio_path(folder / "plain.jsonl", item.audio).read_bytes()
        damaged = folder / f"damaged-{place}.wav"
        damaged.write_bytes(content[: len(content) // 3] if place % 2 else os.urandom(4000))
        plain[place * step] = Utterance(item.id, damaged.name, item.text, item.speaker, item.duration_s, item.split)
    for place in range(6, 12):
        item = plain[place * step]
        text = "These words are about something else entirely, nobody says them here."
        plain[place * step] = Utterance(item.id, item.audio, text, item.speaker, item.duration_s, item.split)
    write_utterances(folder / "plain.jsonl", plain)
    write_shar(sharded, folder / "plain.jsonl", folder / "shar", shard_size=100)
    cut = sorted((folder / "shar").glob("recording.*.tar"))[0]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (folder / "made").touch()
    return inputs


def run_way(way: str, recipe: Path, output: Path) -> tuple[dict, float]:
    """One way, in a process of its own; returns its figures and wall seconds."""
    shutil.rmtree(output, ignore_errors=True)
    workers = 1 if way == "one" else 2
    command = [
        sys.executable,
        "-m",
        "echox",
        "run",
        str(recipe),
        f"output_dir={output}",
        f"workers={workers}",
        *(["--ray", "local"] if way == "ray" else []),
    ]
    began_s = time.monotonic()
    if way == "killed":
        kill_a_worker_then_all(command, output)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - began_s


def kill_a_worker_then_all(command: list[str], output: Path) -> None:
    """Start a run, kill one worker after ten chunks and everything after ten more."""
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(output / ".work" / "check.jsonl", 10, job)
    workers = [child for child in psutil.Process(job.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    workers[0].send_signal(signal.SIGKILL)
    wait_for(output / ".work" / "check.jsonl", 20, job)
    family = psutil.Process(job.pid).children(recursive=True)
    job.kill()
    for child in family:
        if child.is_running():
            child.kill()
    job.wait()


def wait_for(journal: Path, lines: int, job: subprocess.Popen) -> None:
    """Wait until the journal has that many lines."""
    while not journal.exists() or journal.read_text().count("\n") < lines:
        if job.poll() is not None:
            raise RuntimeError(f"the run ended ({job.returncode}) before {lines} chunks were done; raise --limit")
        time.sleep(0.05)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=Path("out/data/bench"), help="for input and outputs")
    parser.add_argument("--speech", type=Path, default=Path("out/nano/speech/replies.jsonl"))
    parser.add_argument("--units", type=Path, default=Path("out/nano/units"))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--no-recognition", action="store_true", help="quicker; wrong texts then stay")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))


def measure(options: argparse.Namespace) -> Measured:
    output = options.folder.resolve()
    recipe = {
        "stage": "prepare_data",
        "inputs": make_input(options.speech.resolve(), output / "input", options.limit),
        "output_dir": "given",
        "filter": {"max_wer": None if options.no_recognition else 0.5},
        "units": {"extractor": str(options.units.resolve())},
        "unit_language": {"vocabulary_size": 1000},
        "shards": {"size": 500},
    }
    path = output / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    figures: dict[str, dict] = {}
    for way in options.only:
        load_before = load_average()
        found, wall_s = run_way(way, path, output / way)
        figures[way] = {
            "wall_s": round(wall_s, 1),
            "hash": found["hash"],
            "kept_hours": found["kept_hours"],
            "reasons": found["reasons"],
            "load_average_1m": [load_before, load_average()],
        }
        print(f"{way:7s} {wall_s:8.1f} s  {found['kept_hours']:.2f} h kept  {found['hash'][:16]}", flush=True)
    result = {
        "ways": figures,
        "identical": len({row["hash"] for row in figures.values()}) == 1,
        "recognition": not options.no_recognition,
    }
    if {"one", "two"} <= set(figures):
        result["speed_up_with_2_workers"] = round(figures["one"]["wall_s"] / figures["two"]["wall_s"], 3)
    return Measured(result)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
