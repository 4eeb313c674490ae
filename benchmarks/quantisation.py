"""What fewer bits cost and gain on this CPU: memory, prompt and token time, and how far the outputs move.

One random Llama, on one thread unless ``--threads`` says otherwise, in each form: float32, bfloat16, our 8-bit linears
(on float32 and on bfloat16), and torchao's 8-bit weights where that library is installed. Each form runs in its own
process, so that its peak memory is its own.

    python benchmarks/quantisation.py --hidden-size 2048 --layers 8
"""

from __future__ import annotations

import argparse
import gc
from typing import Any

import torch
from harness import Measured, fresh_process, resident_bytes, run, times_s
from transformers import LlamaConfig, LlamaForCausalLM

from echox.models.quantization.int8_linear import to_int8_linears
from echox.process_memory import peak_resident_bytes

FORMS = ("float32", "bfloat16", "int8", "int8_bfloat16", "torchao_int8_bfloat16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--hidden-size", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--prompt-tokens", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--form", choices=FORMS, help="measure this one only, in this process")


def convert(model: LlamaForCausalLM, form: str) -> LlamaForCausalLM:
    """The model with its weights in one of `FORMS`."""
    if form.endswith("bfloat16"):
        model = model.to(torch.bfloat16)
    if form.startswith("int8"):
        to_int8_linears(model, keep=model.lm_head)
    if form.startswith("torchao"):
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        quantize_(model.model, Int8WeightOnlyConfig())
    return model


def times_of_reply(model: LlamaForCausalLM, prompt: torch.Tensor, new_tokens: int) -> tuple[float, list[float]]:
    """Seconds of the prompt, and of each token after it."""
    state: dict[str, Any] = {}

    def read() -> None:
        state["output"] = model(prompt, use_cache=True)
        state["token"] = state["output"].logits[:, -1:].argmax(-1)

    def step() -> None:
        output = model(state["token"], past_key_values=state["output"].past_key_values, use_cache=True)
        state["token"] = output.logits[:, -1:].argmax(-1)

    (prefill_s,) = times_s(read, 1)
    return prefill_s, times_s(step, new_tokens)


@torch.inference_mode()
def cost_of_form(form: str, options: argparse.Namespace) -> dict[str, Any]:
    """Memory, times, and how far the next-token distribution moves from that of float32."""
    config = LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden_size,
        intermediate_size=4 * options.hidden_size,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden_size // 64,
        num_key_value_heads=options.hidden_size // 256 or 1,
        tie_word_embeddings=True,
    )
    before = resident_bytes()
    model = LlamaForCausalLM(config).eval()
    parameters = sum(value.numel() for value in model.parameters())
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(0, options.vocabulary, (1, options.prompt_tokens), generator=generator)
    reference = model(prompt).logits.float().log_softmax(-1)
    model = convert(model, form)
    gc.collect()
    model_bytes = resident_bytes() - before
    rounds = [times_of_reply(model, prompt, options.new_tokens) for _ in range(options.repeats)]
    steps_s = sorted(step_s for _, steps_s in rounds for step_s in steps_s)
    found = model(prompt).logits.float().log_softmax(-1)
    moved = (reference.exp() * (reference - found)).sum(-1).mean()
    peak = peak_resident_bytes()
    return {
        "parameters": parameters,
        "model_mb": round(model_bytes / 1e6, 1),
        "peak_mb": None if peak is None else round(peak / 1e6, 1),
        "prefill_ms": round(1e3 * min(prefill_s for prefill_s, _ in rounds), 1),
        "token_ms": round(1e3 * steps_s[len(steps_s) // 2], 2),
        "divergence_nats": float(f"{float(moved):.3g}"),
        "same_token": round(float((reference.argmax(-1) == found.argmax(-1)).float().mean()), 4),
    }


def measure(options: argparse.Namespace) -> Measured:
    if options.form:
        return Measured(cost_of_form(options.form, options))
    own = {name: value for name, value in vars(options).items() if name not in ("form", "output")}
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in own.items()]
    figures: dict[str, Any] = {}
    for form in FORMS:
        try:
            figures[form] = fresh_process([*arguments, "--form", form])
        except RuntimeError as error:  # torchao is optional
            figures[form] = {"error": str(error).splitlines()[-1][:200]}
        print(f"{form:<24} {figures[form]}", flush=True)
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
