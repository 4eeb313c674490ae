"""What a token of a small language model costs on this CPU in each form of its weights, and how far its states move.

python benchmarks/text_model.py --model out/mini/language_model --gguf path/to/SmolLM2-135M-Instruct.Q4_1.gguf

Forms, each over `echox.streaming`'s memory of rows unless it says otherwise:

* ``transformers``: float32, the model of transformers with its own cache;
* ``float32``, ``bfloat16``, ``int8``, ``int4``: as ``EchoX.from_pretrained(dtype=...)`` makes them;
* ``llama.cpp``: the GGUF file, one sequence, by the package ``cyllama`` where it is installed (it is no dependency).

Blocks of the forms alternate, and the best block of each counts, as the best copy counts for the bandwidth: other work
can only slow either. Seconds of the forms are CPU seconds, on one thread. ``share_of_limit`` is bytes of weights
read per token, times tokens, over that bandwidth.
``state_error_percent`` is the mean distance of last hidden states from float32's, ``other_token_percent`` the share of
positions with another most probable token, both over four short conversations, or random tokens without a model.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Measured, run, times_s
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig, LlamaForCausalLM

from echox.models.decoding.lean_llama import LeanSteps, LeanWeights, fits_fused, is_plain
from echox.models.decoding.row_cache import DecoderRows
from echox.models.quantization.int4_linear import Int4Linear
from echox.models.quantization.int8_linear import Int8Linear
from echox.models.quantization.low_bits import fast_head, quantise_on_cpu

FORMS = ("transformers", "float32", "bfloat16", "int8", "int4")
TEXTS = (
    ("What is the capital of France?", "The capital of France is Paris, which lies on the river Seine."),
    ("Why is the sky blue?", "The sky looks blue because air scatters blue light from the sun more than red light."),
    ("Tell me a joke.", "Why did the scarecrow win an award? Because he was outstanding in his field!"),
    ("How many legs does a spider have?", "A spider has eight legs, and insects have six."),
)
SYSTEM = "You are a helpful voice assistant. Answer in one short sentence."
PROMPT_TOKENS = 40
BLOCKS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="folder of a Llama (default: SmolLM2-135M's sizes, random weights)")
    parser.add_argument("--gguf", type=Path, help="the same model for llama.cpp")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="rows of a step")
    parser.add_argument("--tokens", type=int, default=16, help="steps in a block")


def copy_bandwidth() -> float:
    """Bytes a second that a large copy reads and writes, the best of ten, by CPU seconds as the forms."""
    source, target = torch.zeros(1 << 26), torch.zeros(1 << 26)
    return 2 * source.nbytes / min(times_s(lambda: target.copy_(source), 10, 1, time.process_time))


def random_llama() -> LlamaForCausalLM:
    """SmolLM2-135M's sizes."""
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)


def in_form(model: Any, form: str) -> Any:
    """The model with its weights in one of `FORMS`."""
    if form in ("transformers", "float32"):
        return model
    made = copy.deepcopy(model)
    if form == "bfloat16":
        return made.to(torch.bfloat16)
    quantise_on_cpu(made, torch.device("cpu"), getattr(torch, form))
    return made


def read_bytes(model: Any) -> int:
    """Bytes of weights that a token reads: all layers and the head; the embedding only if it is the head."""
    total = 0
    for layer in model.modules():
        if isinstance(layer, Int8Linear):
            total += layer.memory_bytes
        elif isinstance(layer, Int4Linear):
            total += layer.weight_codes.nbytes + 2 * 2 * layer.weight_scale.numel()  # bfloat16 twice a group
    head = model.get_output_embeddings().weight
    in_int4 = any(isinstance(layer, Int4Linear) for layer in model.modules())
    table = model.get_input_embeddings().weight
    others = {id(value): value.nbytes for value in model.parameters() if value is not table and value is not head}
    head_bytes = head.numel() // 2 + head.numel() // 8 if in_int4 else head.nbytes
    return total + sum(others.values()) + head_bytes


def rows_of(model: Any) -> LeanSteps | DecoderRows:
    """The memory that the engine would use."""
    if is_plain(model.model) and fits_fused(model.model):
        return LeanSteps(LeanWeights(model.model))
    return DecoderRows(model.model)


def writer(model: Any, form: str, batch: int) -> Callable[[], None]:
    """A function that writes one token in each of `batch` rows, after a prompt."""
    ids = torch.arange(100, 100 + PROMPT_TOKENS).expand(batch, -1)
    table = model.get_input_embeddings()
    if form == "transformers":
        cache, head = DynamicCache(), model.get_output_embeddings()
        state = model.model(input_ids=ids, past_key_values=cache).last_hidden_state[:, -1]

        def advance(inputs: torch.Tensor) -> torch.Tensor:
            return model.model(inputs_embeds=inputs, past_key_values=cache).last_hidden_state[:, -1]
    else:
        memory, head = rows_of(model), fast_head(model)
        for _ in range(batch):
            memory.join()
        state = memory.advance(table(ids))[:, -1]

        def advance(inputs: torch.Tensor) -> torch.Tensor:
            return memory.advance(inputs)[:, -1]

    def write() -> None:
        nonlocal state
        chosen = torch.tensor(head(state).argmax(-1).tolist())
        state = advance(table(chosen)[:, None])

    return write


def reader(model: Any, form: str) -> Callable[[], float]:
    """A function that runs a prompt of `PROMPT_TOKENS`, and returns its seconds."""
    embeds = model.get_input_embeddings()(torch.arange(100, 100 + PROMPT_TOKENS)[None])
    memory = rows_of(model)
    memory.join()

    def read() -> float:
        memory.truncate(0, 0)
        began_s = time.process_time()
        if form == "transformers":
            model.model(inputs_embeds=embeds)
        else:
            memory.advance(embeds)
        return time.process_time() - began_s

    read()
    return read


def llama_cpp(path: Path) -> tuple[Callable[[], None], Callable[[], float]]:
    """The same two measurements by llama.cpp, on one thread."""
    from cyllama.llama import llama_cpp as cpp

    cpp.disable_logging()
    settings = cpp.LlamaContextParams()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 4096, 1, 1
    context = cpp.LlamaContext(cpp.LlamaModel(str(path), cpp.LlamaModelParams()), settings)
    place = 0

    def decode(tokens: list[int]) -> None:
        nonlocal place
        batch = cpp.LlamaBatch(n_tokens=len(tokens), embd=0, n_seq_max=1)
        for number, token in enumerate(tokens):
            batch.add(token, place + number, [0], number == len(tokens) - 1)
        context.decode(batch)
        place += len(tokens)

    def read() -> float:
        nonlocal place
        context.kv_cache_clear()
        place = 0
        began_s = time.process_time()
        decode(list(range(100, 100 + PROMPT_TOKENS)))
        return time.process_time() - began_s

    read()
    return lambda: decode([200]), read


def token_ids(options: argparse.Namespace) -> list[torch.Tensor]:
    """Prompts with their replies, in the model's own template; random ones without a model."""
    if options.model is None:
        return [torch.randint(0, 49152, (1, 48), generator=torch.Generator().manual_seed(1))]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    found = []
    for question, reply in TEXTS:
        turns = [("system", SYSTEM), ("user", question), ("assistant", reply)]
        text = tokenizer.apply_chat_template([{"role": one, "content": said} for one, said in turns], tokenize=False)
        found.append(tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"])
    return found


def states_of(model: Any, form: str, texts: list[torch.Tensor]) -> list[torch.Tensor]:
    """Last hidden states of each text, in float32, without the first position."""
    found = []
    for ids in texts:
        memory = rows_of(model)
        memory.join()
        found.append(memory.advance(model.get_input_embeddings()(ids))[0, 1:].float())
    return found


@torch.inference_mode()
def measure(options: argparse.Namespace) -> Measured:
    source = random_llama() if options.model is None else AutoModelForCausalLM.from_pretrained(options.model)
    source = source.float().eval()
    models = {form: in_form(source, form) for form in options.forms}
    gc.collect()
    bandwidth = copy_bandwidth()
    texts = token_ids(options)
    expected = states_of(source, "float32", texts)
    figures: dict[str, Any] = {"bandwidth_gb_s": bandwidth / 1e9, "forms": {}}
    for form, model in models.items():
        found = states_of(model, form, texts)
        errors = torch.cat([(a - b).norm(dim=-1) / b.norm(dim=-1) for a, b in zip(found, expected)])
        head = source.get_output_embeddings()
        chosen = fast_head(model)
        same = [
            chosen(a.to(model.dtype)).argmax(-1) == head(b).argmax(-1) for a, b in zip(found, expected, strict=True)
        ]
        figures["forms"][form] = {
            "read_mb": read_bytes(model) / 1e6,
            "state_error_percent": 100 * float(errors.mean()),
            "other_token_percent": 100 * (1 - float(torch.cat(same).float().mean())),
        }
    for batch in options.batch:
        writers = {form: writer(model, form, batch) for form, model in models.items()}
        readers = {form: reader(model, form) for form, model in models.items()}
        if options.gguf is not None and batch == 1:
            figures["forms"]["llama.cpp"] = {"read_mb": options.gguf.stat().st_size / 1e6}
            writers["llama.cpp"], readers["llama.cpp"] = llama_cpp(options.gguf)
        if batch == 1:
            best_s = {form: min(read() for _ in range(BLOCKS)) for form, read in readers.items()}
            for form, prompt in best_s.items():
                figures["forms"][form]["prompt_ms"] = 1e3 * prompt
        for form, rate in best_rates(writers, batch, options.tokens).items():
            one = figures["forms"][form]
            share = rate / batch * one["read_mb"] * 1e6 / bandwidth
            one.setdefault("tokens_per_s", {})[f"batch_{batch}"] = rate
            one.setdefault("share_of_limit", {})[f"batch_{batch}"] = share
            print(
                f"{form:<13} batch {batch:<3} {rate:8.1f} tokens/s   {100 * share:5.1f} % of the bandwidth", flush=True
            )
    return Measured(figures)


def best_rates(writers: dict[str, Callable[[], None]], batch: int, count: int) -> dict[str, float]:
    """Tokens of all rows a second: the best of `BLOCKS` blocks, the forms alternating."""
    best: dict[str, float] = dict.fromkeys(writers, 0.0)
    for write in writers.values():
        write()
    for _ in range(BLOCKS):
        for form, write in writers.items():
            began_s = time.process_time()
            for _ in range(count):
                write()
            best[form] = max(best[form], batch * count / (time.process_time() - began_s))
    return best


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
