"""The paper's road on two simulated nodes of this machine, tiny and without its data: `runs/paper.sh --rehearse`.

    python scripts/paper_rehearsal.py out/rehearsal

What has to be downloaded is made here instead, random and tiny: corpora as they are after import, the language model,
whisper, the replies' units with their language, the vocoder; such steps, and the tables at the end, count as finished.
All else is the road itself: two calls of `runs/paper.sh`, as on two nodes that share a disk, make dialogues and shards,
train the three stages together over the loopback device, and package the model. In stage I both nodes are lost (every
process is killed, and the script called again); in stage II one process dies, which torchrun must mend. Last, the
package answers a question. Prints what was found, and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperModel

from echox import EchoX
from echox.audio import save_audio
from echox.data.manifest import (
    Dialogue,
    Turn,
    UnitUtterance,
    Utterance,
    write_dialogues,
    write_unit_utterances,
    write_utterances,
)
from echox.models.text.tokenization_text import train_text_tokenizer
from echox.models.unit_language.tokenization_unit_language import UnitLanguage
from echox.models.vocoder.auto import AutoUnitVocoder
from echox.models.vocoder.configuration_vocoder import LightVocoderConfig
from echox.training.records.record import RECORD_NAME, log_entries

ROOT = Path(__file__).resolve().parents[1]
RATE, NUM_UNITS, STEPS = 16_000, 12, {"s2t": 40, "t2c": 60, "echo": 6}
TOTAL_LENGTHS = {"s2t": 200, "t2c": 40, "echo": 640}
"""`training.batch_size` of two or three items, as each stage counts (`training.batch_by: total_length`)."""
REPLIES = ("The capital of France is Paris.", "A dog says woof.", "Red is a colour. Green is a colour too.")
SPOKEN = ("sharechatx", "magpie-speech")
RECORDED = ("librispeech", "mls-english")
WITH_REPLIES = ("audioqa", "hh-rlhf-speech")
PACKED = ("librispeech", "magpie-speech")
"""Corpora whose shards are written and read here: one recorded, one of conversations."""
DONE = (
    *(f"{step}-{corpus}" for step in ("download", "import") for corpus in (*RECORDED, *SPOKEN, *WITH_REPLIES)),
    *(f"shards-{corpus}" for corpus in (*RECORDED, *SPOKEN) if corpus not in PACKED),
    *("3b-language_model", "centroids", "vocoder-g_00500000", "vocoder-config.json"),
    *("3b-align", "3b-extract_units", "3b-unit_language", "3b-published_vocoder", "eval-3b", "latency-3b", "report-3b"),
)
"""Steps that need what must be downloaded, or judge what has learned nothing."""
TIMEOUT_S = 1500.0


def make_world(folder: Path) -> None:
    """Everything that the road finds when its downloads are done."""
    paper = folder / "out" / "paper"
    for corpus in (*RECORDED, *SPOKEN, *WITH_REPLIES):
        _corpus(paper / corpus, corpus)
    tokenizer = train_text_tokenizer(list(REPLIES) * 3, 300)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    language_model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes))
    for part in (tokenizer, language_model):
        part.save_pretrained(folder / "out" / "3b" / "language_model")
    whisper = WhisperConfig(
        vocab_size=64,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=24,
        max_source_positions=100,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    WhisperModel(whisper).save_pretrained(folder / "whisper")
    words: list[tuple[int, ...]] = [(unit,) for unit in range(NUM_UNITS)]
    UnitLanguage(words, [-2.0] * NUM_UNITS).save_pretrained(paper / "unit_language")
    write_unit_utterances(paper / "units" / "replies.jsonl", [_units(number) for number in range(12)])
    vocoder = LightVocoderConfig(
        num_units=NUM_UNITS,
        unit_hidden_size=8,
        unit_intermediate_size=16,
        num_unit_layers=1,
        hidden_size=8,
        intermediate_size=16,
        num_frame_layers=1,
        num_mel_bins=20,
        fft_size=512,
    )
    AutoUnitVocoder.from_config(vocoder).save_pretrained(paper / "vocoder")
    for name in DONE:
        (paper / f".done-{name}").touch()


def _corpus(folder: Path, name: str) -> None:
    rng, rows, dialogues = np.random.default_rng(len(name)), [], []
    folder.mkdir(parents=True)
    for number in range(12):
        reply = REPLIES[number % len(REPLIES)]
        save_audio(folder / f"{number}.wav", rng.normal(0, 0.1, 8_000 + 400 * number).astype(np.float32), RATE)
        duration_s, split = (8_000 + 400 * number) / RATE, "heldout" if number == 0 else "train"
        speaker = f"{name}/assistant" if name in WITH_REPLIES else f"{name}/{number}"
        rows.append(Utterance(f"u{number}", f"{number}.wav", reply, speaker, duration_s, split))
        said = Turn("user", "Say something.", f"{number}.wav", duration_s, speaker)
        dialogues.append(Dialogue(f"{name}-{number}", (said, Turn("assistant", reply)), split))
    write_utterances(folder / "utterances.jsonl", rows)
    if name in SPOKEN:
        write_dialogues(folder / "dialogues.jsonl", dialogues)


def _units(number: int) -> UnitUtterance:
    text = REPLIES[number % len(REPLIES)]
    of = [place for place in range(len(text.split())) for _ in range(2)]
    units = tuple((3 * place + len(text)) % NUM_UNITS for place in range(len(of)))
    split = "heldout" if number == 0 else "train"
    return UnitUtterance(f"r{number}", text, units, (2,) * len(units), tuple(of), split)


def make_recipes(folder: Path) -> None:
    """The recipes of the road with tiny sizes, under ``recipes/3b``."""
    tiny: dict[str, dict[str, Any]] = {
        "dialogue_shards": {"workers": 1, "filter": {"max_words_per_s": 30, "max_silence_ratio": 1.0}},
        "s2t": {
            "data": {"manifests": [f"out/paper/shards/{name}/dialogue_shards" for name in PACKED], "text_turns": 0.0},
            "model": {"speech_encoder": "whisper"},
            "lora": {"r": 2, "alpha": 4},
        },
        "t2c": {
            "data": {"min_span_words": 1},
            "model": {
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 48,
                "max_position_embeddings": 256,
                "options": {"max_unit_words": 40},
            },
        },
        "echo": {
            "data": {"speech": [f"out/paper/shards/{SPOKEN[1]}/dialogue_shards"]},
            "trigger": {"min_tokens": 2, "max_tokens": 8, "lookahead_tokens": 1},
            "targets": {"max_unit_words": 40, "allow_silence": True, "cache": "labels.db"},
            "weights": {"mix": "released"},
        },
        "package": {"dtype": "float32"},
    }
    target = folder / "recipes" / "3b"
    target.mkdir(parents=True)
    for name, changes in tiny.items():
        values = yaml.safe_load((ROOT / "recipes" / "3b" / f"{name}.yaml").read_text(encoding="utf-8"))
        if name in STEPS:
            changes["training"] = {
                "steps": STEPS[name],
                "batch_size": TOTAL_LENGTHS[name],
                "warmup_steps": 1,
                "precision": "fp32",
                "gradient_checkpointing": False,
                "log_every_steps": 1,
                "evaluate_every_steps": 0,
                "sample_every_steps": 0,
                "save_every_steps": 5,
                "device": "cpu",
                "threads": 1,
                "workers": 1 if name != "t2c" else 0,
                "tensorboard": False,
            }
            if name == "t2c":
                changes["training"]["learning_rates"] = {"decoder": 0.005}  # so that it ends what it says
        (target / f"{name}.yaml").write_text(yaml.safe_dump(_changed(values, changes)), encoding="utf-8")


def _changed(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return values | {
        name: _changed(values[name], value) if isinstance(values.get(name), dict) and isinstance(value, dict) else value
        for name, value in changes.items()
    }


class Nodes:
    """Two calls of `runs/paper.sh`, as on two machines that share a disk."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.began_s = folder, time.monotonic()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Call the script on both nodes."""
        for rank in range(2):
            environment = {
                **os.environ,
                "PYTHON": sys.executable,
                "WORK": str(self.folder),
                "RECIPES": str(self.folder / "recipes"),
                "SIZE": "3b",
                "NODES": "2",
                "NODE_RANK": str(rank),
                "GPUS": "1",
                "MASTER": "127.0.0.1",
                "PORT": str(self.port),
                "POLL_S": "1",
                "OMP_NUM_THREADS": "1",
            }
            with (self.folder / f"node_{rank}.log").open("ab") as log:
                command = [str(ROOT / "runs" / "paper.sh")]
                self.running.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )

    def wait_until(self, reached: Callable[[], bool], what: str) -> None:
        """Wait while both nodes work.

        Raises:
            RuntimeError: a node failed, ended before, or all took too long.
        """
        while not reached():
            ended = [node.poll() for node in self.running]
            if any(ended) or (all(code == 0 for code in ended) and not reached()):
                raise RuntimeError(f"expected {what}, found nodes that ended with {ended}: {self.folder}/node_*.log")
            if time.monotonic() - self.began_s > TIMEOUT_S:
                raise RuntimeError(f"expected {what} within {TIMEOUT_S:.0f} s: {self.folder}/node_*.log")
            time.sleep(0.05)

    def trainers(self) -> list[psutil.Process]:
        """The processes that train, not their launchers."""
        found = []
        for node in self.running:
            for child in psutil.Process(node.pid).children(recursive=True):
                try:
                    words = child.cmdline()
                except psutil.Error:
                    continue
                if "echox.training.loop" in words and "torch.distributed.run" not in words:
                    found.append(child)
        return found

    def lose(self) -> None:
        """Both machines go down at once."""
        alive = [psutil.Process(node.pid) for node in self.running if node.poll() is None]
        doomed = [*alive, *(child for node in alive for child in node.children(recursive=True))]
        for process in doomed:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for node in self.running:
            node.wait()
        psutil.wait_procs(doomed, timeout=30)
        self.running = []


def rehearse(folder: Path) -> dict[str, Any]:
    """The whole of it, in an empty folder; what was found.

    Raises:
        RuntimeError: a step did not do what it should.
    """
    make_world(folder)
    make_recipes(folder)
    out, nodes = folder / "out" / "3b", Nodes(folder)
    nodes.start()
    try:
        nodes.wait_until(lambda: any((out / "s2t" / "checkpoints").glob("step_*")), "a checkpoint of stage I")
        nodes.lose()
        print("stage I: both nodes lost after its first checkpoint; called again", flush=True)
        nodes.start()
        nodes.wait_until(lambda: any((out / "t2c" / "checkpoints").glob("step_*")), "a checkpoint of stage II")
        nodes.trainers()[-1].kill()
        print("stage II: one process killed after its first checkpoint", flush=True)
        nodes.wait_until(lambda: all(node.poll() == 0 for node in nodes.running), "the end of both nodes")
    finally:
        nodes.lose()
    return {"wall_s": round(time.monotonic() - nodes.began_s, 1), **checked(folder)}


def checked(folder: Path) -> dict[str, Any]:
    """What the finished road has left in a folder.

    Raises:
        RuntimeError: a step of a stage is missing or was logged twice, or nothing continued from a checkpoint.
    """
    out = folder / "out" / "3b"
    continued = sum(path.read_text(encoding="utf-8").count("continuing after step") for path in folder.glob("node_*"))
    figures: dict[str, Any] = {"continued": continued}
    for stage, steps in STEPS.items():
        record = json.loads((out / stage / RECORD_NAME).read_text(encoding="utf-8"))
        logged = log_entries(out / stage)
        trained = [entry["step"] for entry in logged if entry["kind"] == "train"]
        if record["steps"] != steps or trained != list(range(1, steps + 1)):
            raise RuntimeError(f"{stage}: expected steps 1 to {steps}, each once, found {trained}")
        if record["environment"]["world_size"] != 2:
            raise RuntimeError(f"{stage}: expected two processes, found {record['environment']['world_size']}")
        figures[stage] = {"steps": steps, "loss": next(entry["loss"] for entry in logged[::-1] if "loss" in entry)}
    if continued < 2:
        raise RuntimeError(f"expected stages I and II to continue from a checkpoint, found {continued} that did")
    reply = EchoX.from_pretrained(str(out / "package")).generate({"role": "user", "content": "Say something."})
    return {**figures, "reply_words": len(reply.text.split()), "reply_samples": len(reply.waveform)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/rehearsal"), help="made anew")
    folder = parser.parse_args(arguments).folder.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    print(json.dumps(rehearse(folder)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
