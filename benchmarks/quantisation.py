"""What fewer bits cost and gain on this CPU: memory, prompt and token time, and how far the outputs move.

One random Llama, one thread unless told otherwise, in each form: float32, bfloat16, our 8-bit linears (on float32 and
on bfloat16), and torchao's 8-bit weights where that library is installed. Each form runs in its own process, so that
its peak memory is its own. The last line is JSON.

    python benchmarks/quantisation.py --hidden-size 2048 --layers 8
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FORMS = ("float32", "bfloat16", "int8", "int8_bfloat16", "torchao_int8_bfloat16")


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(form: str, options: argparse.Namespace) -> dict[str, Any]:
    import gc

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from echox.models.quantization.int8_linear import to_int8_linears

    torch.set_num_threads(options.threads)
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden_size,
        intermediate_size=4 * options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 64,
        num_key_value_heads=options.hidden_size // 256 or 1,
        tie_word_embeddings=True,
    )
    before_mb = resident_mb()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    parameters = sum(value.numel() for value in model.parameters())
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, options.vocabulary, (1, options.prompt_tokens), generator=generator)
    with torch.inference_mode():
        reference = model(prompt).logits.float().log_softmax(-1)
        if form.endswith("bfloat16"):
            model = model.to(torch.bfloat16)
        if form.startswith("int8"):
            to_int8_linears(model, keep=model.lm_head)
        if form.startswith("torchao"):
            from torchao.quantization import Int8WeightOnlyConfig, quantize_

            quantize_(model.model, Int8WeightOnlyConfig())
        gc.collect()
        model_mb = resident_mb() - before_mb
        prefill_s, step_s = [], []
        for _ in range(options.repeats):
            began_s = time.perf_counter()
            output = model(prompt, use_cache=True)
            prefill_s.append(time.perf_counter() - began_s)
            token = output.logits[:, -1:].argmax(-1)
            for _ in range(options.new_tokens):
                began_s = time.perf_counter()
                step = model(token, past_key_values=output.past_key_values, use_cache=True)
                step_s.append(time.perf_counter() - began_s)
                token = step.logits[:, -1:].argmax(-1)
        found = model(prompt).logits.float().log_softmax(-1)
    moved = (reference.exp() * (reference - found)).sum(-1).mean()
    return {
        "parameters": parameters,
        "model_mb": round(model_mb, 1),
        "prefill_ms": round(1e3 * min(prefill_s), 1),
        "token_ms": round(1e3 * sorted(step_s)[len(step_s) // 2], 2),
        "divergence_nats": float(f"{float(moved):.3g}"),
        "same_token": round(float((reference.argmax(-1) == found.argmax(-1)).float().mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--form", choices=FORMS, help="measure this one only, in this process")
    options = parser.parse_args()
    if options.form:
        print(json.dumps(measure(options.form, options)))
        return
    load = os.getloadavg()[0]
    results: dict[str, Any] = {}
    for form in FORMS:
        command = [sys.executable, __file__, *sys.argv[1:], "--form", form]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            results[form] = {"error": run.stderr.strip().splitlines()[-1][:200]}
        else:
            results[form] = json.loads(run.stdout.splitlines()[-1])
        print(f"{form:<24} {results[form]}", flush=True)
    print(
        json.dumps(
            {
                "what": "quantisation",
                "machine": platform.processor() or platform.machine(),
                "threads": options.threads,
                "load_before": round(load, 2),
                "load_after": round(os.getloadavg()[0], 2),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3, 1),
                "forms": results,
            }
        )
    )


if __name__ == "__main__":
    main()
