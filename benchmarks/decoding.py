"""How near text decoding comes to what the memory allows, at any size, with random weights.

python benchmarks/decoding.py --size small --device cpu --threads 2
python benchmarks/decoding.py --size 8b --device cuda --dtype bfloat16 --sessions 1 16

At batch 1 every weight is read once for each token, so the limit is the bandwidth of the memory over the bytes of the
weights. The bandwidth is measured in the same run, by copying. Ways of making the step:

* ``engine``: the language model's step as `echox.streaming` makes it, with its memory of rows;
* ``compiled``: the same, compiled (on a GPU one CUDA graph), as `EchoX.compile` makes it;
* ``transformers``: the same model with a plain ``DynamicCache``.

Then whole replies: the question through audio tower and adapters, text, units and sound, for some sessions at once.
Random weights say nothing, but they cost what trained ones cost. Vocabulary and units beyond nano's are never chosen,
so that nano's tokenizer and unit language can serve.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from harness import Measured, run
from many_sessions import Listener, new_sound
from transformers import DynamicCache, WhisperFeatureExtractor

from echox import EchoX
from echox.api.loading import bundled_questions, find_model
from echox.audio import load_audio
from echox.evaluation.latency.probe import spread
from echox.models.echox.configuration_echox import EchoXConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.process_memory import peak_resident_bytes
from echox.streaming import GenerationSettings
from echox.streaming.engine import Engine

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SMALL = {
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 32000,
    },
    "audio_config": {"d_model": 256, "encoder_layers": 4, "encoder_attention_heads": 4, "encoder_ffn_dim": 1024},
    "echo": {"hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 512},
}
"""A model of the 3B's form that a CPU can hold: about 0.1 B weights in its language model."""
PROMPT_TOKENS = 64
BLOCKS = 4


def random_model(size: str, device: str, dtype: torch.dtype) -> EchoX:
    """EchoX of a published size, or `SMALL`, with random weights and nano's tokenizer and unit language."""
    processor = EchoXProcessor.from_pretrained(find_model("nano"))
    config = EchoXConfig.from_dict(sizes_of(size, processor))
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = EchoXForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    head = model.get_output_embeddings().weight
    with torch.no_grad():
        head[len(processor.tokenizer) :] = 0  # some known token is always likelier than these
        head[processor.tokenizer.all_special_ids] = 0
    bins = config.s2t_config.audio_config.num_mel_bins
    processor.feature_extractor = WhisperFeatureExtractor(feature_size=bins)
    return EchoX(model, processor, GenerationSettings(max_question_s=30.0))


def sizes_of(size: str, processor: EchoXProcessor) -> dict[str, Any]:
    """A configuration of the published sizes, or `SMALL`, whose ids are those of `processor`."""
    values = json.loads((RECIPES / ("3b" if size == "small" else size) / "config.json").read_text(encoding="utf-8"))
    s2t, echo = values["s2t_config"], values["echo_decoder_config"]
    text = s2t["text_config"]
    if size == "small":
        text.update(SMALL["text_config"])
        s2t["audio_config"].update(SMALL["audio_config"])
        s2t["adapter_attention_heads"] = text["num_attention_heads"]
        echo.update(SMALL["echo"], text_hidden_size=text["hidden_size"], text_vocab_size=text["vocab_size"])
        values["denoising_intermediate_size"] = text["intermediate_size"]
    tokenizer, language = processor.tokenizer, processor.unit_language
    s2t["audio_token_id"] = tokenizer.convert_tokens_to_ids("<|audio|>")
    text.update({name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    echo["num_unit_words"] = len(language)
    values["vocoder_config"]["num_units"] = 1 + max(unit for word in language.words for unit in word)
    return values


def copy_bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes, the best of ten."""
    size = (2 << 30 if torch.device(device).type == "cuda" else 256 << 20) // 4
    source, target = (torch.zeros(size, dtype=torch.int32, device=device) for _ in range(2))
    best_s = min(timed_s(lambda: target.copy_(source), device) for _ in range(10))
    return 2 * size * 4 / best_s


def timed_s(work: Callable[[], Any], device: str) -> float:
    """Seconds of one call, to its end on the device."""
    synchronize(device)
    began_s = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began_s


def synchronize(device: str) -> None:
    """Wait for a GPU; a CPU is never ahead of us."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def tokens_per_s(steps: dict[str, Callable[[], Any]], device: str, batch: int, count: int) -> dict[str, float]:
    """Tokens of all rows a second of each way: the best of `BLOCKS` blocks, the ways alternating.

    The best, as the bandwidth is the best: other work on the machine can only slow either.
    """
    for step in steps.values():
        for _ in range(3):
            step()
    best: dict[str, float] = dict.fromkeys(steps, 0.0)
    for _ in range(BLOCKS):
        for name, step in steps.items():
            block_s = timed_s(lambda step=step: [step() for _ in range(count)], device)
            best[name] = max(best[name], batch * count / block_s)
    return best


def engine_step(engine: Engine, batch: int) -> Callable[[], Any]:
    """One token for `batch` rows as `echox.streaming` writes it: state to token to state."""
    memory = engine.new_memory(batch)
    for _ in range(batch):
        memory.join()
    start = engine.embed([5] * PROMPT_TOKENS, {}).expand(batch, -1, -1)
    state = memory.advance(start, [PROMPT_TOKENS] * batch, 0)[:, -1]

    def step() -> None:
        nonlocal state
        chosen = engine.logits(state).argmax(-1).tolist()
        state = memory.advance(engine.embed(chosen, {})[:, None], [1] * batch, 0)[:, -1]

    return step


def transformers_step(lm: Any, batch: int) -> Callable[[], Any]:
    """The same by the model of transformers and its own cache."""
    head, table, cache = lm.get_output_embeddings(), lm.get_input_embeddings(), DynamicCache()
    ids = torch.full((batch, PROMPT_TOKENS), 5, device=lm.device)
    state = lm.base_model(input_ids=ids, past_key_values=cache).last_hidden_state[:, -1]

    def step() -> None:
        nonlocal state
        chosen = torch.tensor(head(state).argmax(-1).tolist(), device=lm.device)
        output = lm.base_model(inputs_embeds=table(chosen)[:, None], past_key_values=cache)
        state = output.last_hidden_state[:, -1]

    return step


@torch.inference_mode()
def text_decoding(model: EchoX, batches: list[int], count: int, compiled: bool) -> dict[str, Any]:
    """Tokens a second of each way and batch, and its share of the limit."""
    device = str(model.engine.device)
    lm = model.model.s2t.language_model
    unread = 0 if lm.config.tie_word_embeddings else lm.get_input_embeddings().weight.nbytes
    weights = sum(value.nbytes for value in lm.parameters()) - unread
    bandwidth = copy_bandwidth(device)
    found: dict[str, Any] = {
        "copy_bandwidth_gb_s": bandwidth / 1e9,
        "weights_gb": weights / 1e9,
        "limit_steps_s": bandwidth / weights,
    }
    engines = {"engine": model.engine}
    if compiled:
        engines["compiled"] = Engine(model.model, model.processor, model.engine.trigger, compile=True)
    for batch in batches:
        steps = {name: engine_step(engine, batch) for name, engine in engines.items()}
        steps["transformers"] = transformers_step(lm, batch)
        for name, rate in tokens_per_s(steps, device, batch, count).items():
            share = rate / batch / found["limit_steps_s"]
            found[f"{name}, batch {batch}"] = {"tokens_per_s": rate, "share_of_limit": share}
            print(f"{name:<13} batch {batch:<3} {rate:8.1f} tokens/s   {100 * share:5.1f} % of the bandwidth limit")
    return found


def replies(model: EchoX, sessions: int, tokens: int) -> dict[str, Any]:
    """Whole replies of some sessions that ask at the same moment."""
    asked = load_audio(bundled_questions()[0], model.sampling_rate)  # noise would be refused: no speech in it
    settings = {"temperature": 1.0, "echo_temperature": 1.0, "max_new_tokens": tokens}
    model.scheduler.start()
    try:
        for counted in (False, True):
            questions = [new_sound(asked, 1000 * counted + number) for number in range(sessions)]
            began_s = time.perf_counter()
            listeners = [Listener(model, question, **settings) for question in questions]
            for listener in listeners:
                listener.done.wait()
            total_s = time.perf_counter() - began_s
            if not counted:
                continue
            for listener in listeners:
                if listener.task.error is not None:
                    raise listener.task.error
            spoken = [listener for listener in listeners if listener.arrivals_s]
            audio_s = sum(chunk.duration_s for one in spoken for chunk in one.chunks)
            return {
                "sessions": sessions,
                "spoken": len(spoken),
                "ttfa_s": spread([one.arrivals_s[0] for one in spoken]),
                "stalled": sum(one.playback.underruns > 0 for one in spoken),
                "text_tokens_per_s": sum(one.task.timings.num_tokens for one in listeners) / total_s,
                "rtf": total_s / audio_s,
                "sessions_in_real_time": audio_s / total_s,
            }
    finally:
        model.scheduler.stop()
    raise AssertionError("the counted round returns")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", choices=["small", "3b", "8b"], default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="rows of a step of text")
    parser.add_argument("--tokens", type=int, default=32, help="steps in a block")
    parser.add_argument("--compile", action="store_true", help="also compiled steps, and replies by them")
    parser.add_argument("--sessions", type=int, nargs="*", default=[1, 4], help="whole replies at once")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default: all)")


def measure(options: argparse.Namespace) -> Measured:
    model = random_model(options.size, options.device, getattr(torch, options.dtype))
    parameters = sum(value.numel() for value in model.model.parameters())
    print(f"{options.size}: {parameters / 1e9:.2f} B weights, {options.dtype}, random")
    figures: dict[str, Any] = {
        "size": options.size,
        "parameters": parameters,
        "dtype": options.dtype,
        "text": text_decoding(model, options.batch, options.tokens, options.compile),
        "replies": [],
    }
    if options.compile:
        model.compile()
    for sessions in options.sessions:
        found = replies(model, sessions, options.tokens)
        figures["replies"].append(found)
        print(
            f"{sessions:>3} sessions  first audio p50 {1000 * found['ttfa_s']['p50']:.0f} ms, p95 "
            f"{1000 * found['ttfa_s']['p95']:.0f} ms, rtf {found['rtf']:.2f}, stalled {found['stalled']}"
        )
    if torch.device(options.device).type == "cuda":
        figures["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    peak = peak_resident_bytes()
    figures["peak_mb"] = None if peak is None else round(peak / 1e6, 1)
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
