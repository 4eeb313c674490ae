"""Estimated memory of training against the measured peak of real steps.

What is trained: with `--stage` alone the stage of nano as its recipe builds it, on the largest batch of an epoch (run
from the repository's root, after `runs/nano.sh`); with `--stage` and another `--case` the same objective around a
language model of random weights, on random numbers; without `--stage` the case's bare language model.

The peak is the resident set above what libraries and data take, plus the weights, which are in memory before. The C
library is set to return freed memory at once (MALLOC_MMAP_THRESHOLD_); by default it keeps holes, 200 MB of them beside
nano, nothing that shows beside 1B.

    python benchmarks/memory.py --stage s2t
    python benchmarks/memory.py --case 1b --stage echo
    python benchmarks/memory.py --case 1b --gradient-checkpointing
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from harness import Measured, resident_bytes, run
from torch import nn
from transformers import LlamaConfig, WhisperConfig

from echox.config import TrainingConfig, load_recipe
from echox.data.sampling import BucketBatchSampler
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.training.memory.estimate import (
    Workload,
    bare_objective,
    build_objective,
    causal_training_bytes,
    random_batch,
    training_bytes,
    written_batch,
)
from echox.training.networks.modules import autocast, enable_gradient_checkpointing, set_training
from echox.training.networks.optim import WeightAverage, build_optimizer, clip_gradients

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
CASES: dict[str, tuple[dict[str, Any], bool, dict[str, Any]]] = {
    # sizes of the language model, whether a LoRA on frozen bfloat16 weights is trained (else all of it), and a batch
    "nano": (
        {
            "vocab_size": 1536,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "tie_word_embeddings": False,
        },
        False,
        {"batch_size": 32, "tokens": 128, "reply_tokens": 64},
    ),
    "200m": (
        {
            "vocab_size": 32000,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 8,
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "tie_word_embeddings": True,
        },
        False,
        {"batch_size": 4, "tokens": 128, "reply_tokens": 64},
    ),
    "1b": (
        {
            "vocab_size": 32000,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
        },
        True,
        {"batch_size": 2, "tokens": 192, "reply_tokens": 96},
    ),
}


class Peak:
    """Largest resident set while inside, looked at every few milliseconds."""

    def __enter__(self) -> Peak:
        self.largest, self.running = resident_bytes(), True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.largest = max(self.largest, resident_bytes())
            time.sleep(0.002)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()


@dataclass
class Subject:
    """What is measured: an objective, its trained groups, how it is trained, two batches, and what to estimate.

    Attributes:
        config: of the whole model; a `LlamaConfig` for a bare language model.
        stage: name, or None for a bare language model.
    """

    objective: nn.Module
    groups: dict[str, list[nn.Parameter]]
    training: TrainingConfig
    batch: dict[str, Any]
    small: dict[str, Any]
    config: Any
    stage: str | None
    work: Workload

    def estimate(self) -> dict[str, float]:
        if self.stage is None:
            return causal_training_bytes(self.config, self.work)
        return training_bytes(self.config, self.stage, self.work)


def nano_stage(name: str) -> Subject:
    """The stage as its recipe builds it, and the largest batch of an epoch."""
    recipe = load_recipe(f"recipes/nano/{name}.yaml")
    stage, training = recipe.build(), recipe.training
    items, lengths = stage.dataset(), stage.lengths()
    size = int(training.batch_size) if training.batch_by == "items" else training.batch_size
    plan = BucketBatchSampler(lengths, size, seed=training.seed, by=training.batch_by)
    largest = max(plan, key=lambda rows: len(rows) * max(lengths[row] for row in rows))
    # Batches are varied by chance (conversations joined, turns left as text): the largest of a few.
    drawn = [stage.collate([items[row] for row in largest], random.Random(seed)) for seed in range(8)]
    shortest = sorted(range(len(items)), key=lambda row: lengths[row])[:2]
    small = stage.collate([items[row] for row in shortest], random.Random(0))
    config = EchoXConfig.from_pretrained("out/nano/package")
    if name == "encoder":
        config.s2t_config.audio_config = stage.model.config.audio_config
    settings = recipe.model if isinstance(recipe.model, dict) else vars(recipe.model)
    work = Workload(
        precision=training.precision,
        ema=bool(training.ema_decay),
        gradient_checkpointing=training.gradient_checkpointing,
        attention=settings.get("attn_implementation", "sdpa"),
        phones=len(stage.model.config.phones) + 1 if name == "encoder" else 0,
    )
    return Subject(
        stage.objective, stage.parameter_groups(), training, max(drawn, key=positions), small, config, name, work
    )


def positions(batch: dict[str, Any]) -> int:
    """Numbers of all tensors of a batch: how large it is."""
    return sum(value.numel() for value in batch.get("s2t", batch).values())


def random_subject(
    objective: nn.Module,
    batch: dict[str, Any],
    small: dict[str, Any],
    config: Any,
    stage: str | None,
    work: Workload,
    steps: int,
) -> Subject:
    """An objective of random weights, all that is trainable in one group; see `Subject`."""
    trained = [value for value in objective.parameters() if value.requires_grad]
    training = TrainingConfig(
        output_dir="unused",
        steps=steps,
        batch_size=work.batch_size,
        learning_rates={"all": 1e-5},
        precision=work.precision,
        gradient_checkpointing=work.gradient_checkpointing,
    )
    return Subject(objective, {"all": trained}, training, batch, small, config, stage, work)


def random_model(case: str, stage: str | None, options: argparse.Namespace) -> Subject:
    """A language model of random weights: alone, or in a stage with Whisper-base's ears and a decoder of 6 layers."""
    sizes, lora, load = CASES[case]
    work = Workload(
        precision=options.precision,
        gradient_checkpointing=options.gradient_checkpointing,
        frozen_dtype="bfloat16" if lora else "float32",
        lora_rank=16 if lora else 0,
        **load,
    )
    if options.batch_size:
        work = replace(work, batch_size=options.batch_size, audios=options.batch_size)
    few = replace(
        work, batch_size=1, audios=1, tokens=24, reply_tokens=8, audio_s=1.0, kept_frames=7, unit_words=8, words=4
    )
    text_config = LlamaConfig(**sizes)
    if stage is None:
        objective: nn.Module = bare_objective(text_config, work)
        batch, small, config = written_batch(work), written_batch(few), text_config
    else:
        config = whole_config(text_config)
        objective = build_objective(config, stage, work)
        batch, small = random_batch(config, stage, work), random_batch(config, stage, few)
    return random_subject(objective, batch, small, config, stage, work, options.steps)


def whole_config(text_config: LlamaConfig) -> EchoXConfig:
    """A whole model around a language model: Whisper-base's ears, a prefix decoder as in recipes/3b."""
    audio = WhisperConfig(
        d_model=512,
        encoder_layers=6,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        num_mel_bins=80,
        decoder_layers=0,
    )
    width, vocabulary = text_config.hidden_size, text_config.vocab_size
    s2t = S2TConfig(
        audio_config=audio, text_config=text_config, audio_token_id=vocabulary - 1, adapter_attention_heads=16
    )
    decoder = UnitDecoderConfig(
        form="prefix",
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=2048,
        text_hidden_size=width,
        text_vocab_size=vocabulary,
        num_unit_words=8500,
    )
    return EchoXConfig(s2t_config=s2t, echo_decoder_config=decoder)


@contextmanager
def read_shapes(subject: Subject) -> Iterator[dict[str, int]]:
    """Inside, what comes to the parts is written down: sizes that a batch alone does not tell."""
    seen: dict[str, int] = {}

    def note(**sizes: int) -> None:
        for name, value in sizes.items():
            seen[name] = max(seen.get(name, 0), value)

    def written(_: nn.Module, args: Any, values: Any) -> None:
        given = values.get("inputs_embeds", values.get("input_ids"))
        note(batch_size=given.shape[0], tokens=given.shape[1])

    def kept(_: nn.Module, args: Any, output: Any) -> None:
        note(kept_frames=output[0].shape[1])

    def spoken(_: nn.Module, args: Any, output: Any) -> None:
        _, word_ids, units, _ = args
        words = max(len(set(row) - {-1}) for row in word_ids.tolist())
        note(rows=len(units), unit_words=units.shape[1], words=words, read=word_ids.shape[1])

    handles = []
    for name, part in subject.objective.named_modules():
        if name.endswith("language_model.model") or (subject.stage in ("lm", None) and name == "model.model"):
            handles.append(part.register_forward_pre_hook(written, with_kwargs=True))
        elif name.endswith("shrinking_adapter"):
            handles.append(part.register_forward_hook(kept))
        elif name in ("model.echo_decoder", "model.decoder"):
            handles.append(part.register_forward_hook(spoken))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def workload(subject: Subject, seen: dict[str, int]) -> Workload:
    """The batch as an estimate is asked for it."""
    batch = subject.batch.get("s2t", subject.batch)
    found: dict[str, Any] = {name: seen[name] for name in ("batch_size", "tokens", "kept_frames") if name in seen}
    rows = found.get("batch_size", len(next(iter(batch.values()))))
    found["batch_size"] = rows
    if subject.stage != "encoder" and ("labels" in batch or "weights" in batch):
        scored = batch["labels"] != -100 if "labels" in batch else batch["weights"][:, 1:] > 0
        found["reply_tokens"] = round(int(scored.sum()) / rows)
    if "input_features" in batch:
        found |= {"audios": len(batch["input_features"]), "audio_s": batch["input_features"].shape[2] / 100}
    if "rows" in seen:
        share = seen["rows"] / rows  # segments of a dialogue, each padded to the longest
        found |= {
            "segments": seen["rows"],
            "unit_words": round(share * seen["unit_words"]),
            "words": round(share * seen["words"]),
        }
        if subject.stage == "t2c":
            found["reply_tokens"] = seen["read"]
    return replace(subject.work, **found)


def train(subject: Subject, batch: dict[str, Any], steps: int) -> None:
    """Real steps, as `echox.training.loop` takes them."""
    device = next(subject.objective.parameters()).device
    optimizer = build_optimizer(subject.groups, subject.training)
    trained = {name: value for name, value in subject.objective.named_parameters() if value.requires_grad}
    average = WeightAverage(trained, subject.training.ema_decay) if subject.work.ema else None
    set_training(subject.objective)
    for _ in range(steps):
        with autocast(device, subject.training.precision):
            loss = subject.objective(batch)["loss"]
        loss.backward()
        clip_gradients(subject.groups, subject.training)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--case", choices=CASES, default="nano")
    parser.add_argument("--stage", choices=("lm", "encoder", "s2t", "t2c", "echo"))
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int)


def settle() -> None:
    """Return freed memory to the system, so that the peak counts from what is in use."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def weight_bytes(objective: nn.Module) -> int:
    """Bytes of parameters and buffers, each storage once."""
    storages = [value.untyped_storage() for value in [*objective.parameters(), *objective.buffers()]]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def measure(options: argparse.Namespace) -> Measured:
    if not set(ALLOCATOR) <= set(os.environ):  # read when a process starts: start again with it
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    nano = options.stage is not None and options.case == "nano"
    subject = nano_stage(options.stage) if nano else random_model(options.case, options.stage, options)
    if subject.training.gradient_checkpointing:
        enable_gradient_checkpointing(subject.objective)
    # A small batch first: what libraries load and keep at first use is no part of a model's need.
    train(subject, subject.small, 1)
    settle()
    weights = weight_bytes(subject.objective)
    began_s, before = time.monotonic(), resident_bytes()
    with Peak() as peak, read_shapes(subject) as seen:
        train(subject, subject.batch, options.steps)
    wall_s = time.monotonic() - began_s
    measured = peak.largest - before + weights
    subject.work = workload(subject, seen)
    estimated = subject.estimate()
    total = sum(estimated.values())
    return Measured(
        {
            "case": options.case,
            "stage": options.stage,
            "wall_s": round(wall_s, 1),
            "work": asdict(subject.work),
            "estimated_mb": {name: round(value / 1e6, 1) for name, value in estimated.items()},
            "weights_measured_mb": round(weights / 1e6, 1),
            "total_estimated_mb": round(total / 1e6, 1),
            "peak_measured_mb": round(measured / 1e6, 1),
            "estimated_over_measured": round(total / measured, 3),
        }
    )


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
