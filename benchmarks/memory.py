"""Estimated memory of training against the measured peak of real steps. The last line is JSON.

Each case is a stage's own arithmetic (its model, loss, autocast, AdamW) on random numbers in a process of its own; the
peak is the resident set above what the libraries take. The C library is told to give freed memory back at once
(MALLOC_MMAP_THRESHOLD_); as it comes it keeps holes, 200 MB of them beside nano, nothing that shows beside 1B.

    python benchmarks/memory.py --case nano
    python benchmarks/memory.py --case 1b
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from echox.memory import Workload, causal_training_bytes
from echox.training.lora import LoRASettings, add_lora

ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
CASES: dict[str, tuple[dict[str, Any], bool, dict[str, int]]] = {
    # sizes of the language model, whether a LoRA on frozen bfloat16 weights is trained (else all of it), and a batch
    "nano": (
        {"vocab_size": 1536, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4,
         "num_attention_heads": 4, "tie_word_embeddings": False},
        False, {"batch_size": 32, "tokens": 128, "reply_tokens": 64},
    ),
    "200m": (
        {"vocab_size": 32000, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8,
         "num_attention_heads": 16, "num_key_value_heads": 4, "tie_word_embeddings": True},
        False, {"batch_size": 4, "tokens": 128, "reply_tokens": 64},
    ),
    "1b": (
        {"vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
         "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True},
        True, {"batch_size": 2, "tokens": 192, "reply_tokens": 96},
    ),
}  # fmt: skip


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


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


def train(config: LlamaConfig, work: Workload, lora: bool, options: argparse.Namespace) -> None:
    """Real steps of a language model: all of it in float32, or a LoRA on frozen bfloat16."""
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if lora else torch.float32)
    if lora:
        model.requires_grad_(False)
        holder: Any = torch.nn.Module()
        holder.language_model = model
        for value in add_lora(holder, LoRASettings()):
            value.requires_grad_(True)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], fused=True)
    model.train()
    for _ in range(options.steps):
        states = torch.randn(work.batch_size, work.tokens, config.hidden_size, requires_grad=True)
        labels = torch.randint(0, config.vocab_size, (work.batch_size * work.reply_tokens,))
        mask = torch.ones(work.batch_size, work.tokens, dtype=torch.long)
        mask[0, -3:] = 0
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            hidden = model.base_model(inputs_embeds=states, attention_mask=mask, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[:, : work.reply_tokens].reshape(-1, config.hidden_size))
            loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="nano")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch-size", type=int)
    options = parser.parse_args()
    if not set(ALLOCATOR) <= set(os.environ):  # read when a process starts: start again with it
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    torch.set_num_threads(1)
    sizes, lora, load = CASES[options.case]
    load = load | ({"batch_size": options.batch_size} if options.batch_size else {})
    config = LlamaConfig(**sizes)
    work = Workload(precision=options.precision, gradient_checkpointing=options.gradient_checkpointing,
                    frozen_dtype="bfloat16" if lora else "float32", lora_rank=16 if lora else 0, **load)  # fmt: skip
    estimated = causal_training_bytes(config, work)
    tiny = LlamaConfig(**sizes | {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1,
                                  "num_attention_heads": 2, "num_key_value_heads": 2})  # fmt: skip
    # The same in small first: what libraries load and keep at first use is no part of a model's need.
    train(tiny, Workload(batch_size=1, tokens=8, reply_tokens=4, precision=options.precision), lora, options)
    began_s, before = time.monotonic(), resident_bytes()
    with Peak() as peak:
        train(config, work, lora, options)
    measured = peak.largest - before
    total = sum(estimated.values())
    print(json.dumps({
        "what": "memory of training", "case": options.case, "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "load": round(os.getloadavg()[0], 2),
        "wall_s": round(time.monotonic() - began_s, 1), "work": asdict(work),
        "estimated_mb": {name: round(value / 1e6, 1) for name, value in estimated.items()},
        "total_estimated_mb": round(total / 1e6, 1), "peak_measured_mb": round(measured / 1e6, 1),
        "estimated_over_measured": round(total / measured, 3),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
