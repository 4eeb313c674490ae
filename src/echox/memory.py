"""What a model needs of memory, before anything is downloaded: by part, by dtype, by stage of training.

Weights are counted on modules built on torch's meta device: every size, no memory. Activations are not guessed by a
formula either: one and two layers run on fake tensors, what autograd saves is counted, and their difference is a layer.
So attention kernels, autocast's copies, LoRA and gradient checkpointing are in the count as they are in the run.
Measured against real peaks in docs/memory.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, LlamaModel

from echox.models.configuration_echox import EchoXConfig, S2TConfig
from echox.models.modeling_echox import DenoisingAdapter, EchoXForConditionalGeneration
from echox.models.modeling_speech_encoder import AlignmentAdapter, SpeechEncoder
from echox.training.loop import enable_gradient_checkpointing
from echox.training.lora import LoRASettings, add_lora

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.5}
"""Per weight; int8 and nf4 apply to the language model's linear layers, the rest is then float32 and bfloat16."""

_REST = {"int8": "float32", "nf4": "bfloat16"}
STAGES = ("lm", "encoder", "s2t", "t2c", "echo")


@dataclass(frozen=True)
class Workload:
    """What is in memory at once.

    Attributes:
        batch_size: rows. tokens: positions of a row in the language model, speech included. reply_tokens: of them,
            those that are scored. audio_s: seconds of speech of a row. unit_words: of a row's reply.
        precision: "bf16" (autocast) or "fp32". gradient_checkpointing: keep only each layer's input.
        frozen_dtype: of weights that are not trained. ema: averaged weights are kept too. lora_rank: 0 = none.
    """

    batch_size: int = 4
    tokens: int = 256
    reply_tokens: int = 128
    audio_s: float = 5.0
    unit_words: int = 256
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    frozen_dtype: str = "float32"
    ema: bool = False
    lora_rank: int = 16

    def __post_init__(self) -> None:
        """Raises: ValueError for a number that is not positive."""
        for name in ("batch_size", "tokens", "reply_tokens", "audio_s", "unit_words"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, found {getattr(self, name)}")


def build_on_meta(config: EchoXConfig) -> EchoXForConditionalGeneration:
    """The whole model without a byte of weights."""
    with torch.device("meta"):
        return EchoXForConditionalGeneration(config)


def parts_of(model: EchoXForConditionalGeneration) -> dict[str, nn.Module]:
    """Parts of the whole, as the tables name them."""
    parts = {f"s2t.{name}": part for name, part in model.s2t.named_children()}
    return parts | {name: part for name, part in model.named_children() if name != "s2t"}


def weight_bytes(model: EchoXForConditionalGeneration, dtype: str) -> dict[str, float]:
    """Bytes of each part's weights and buffers in memory.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype not in BYTES:
        raise ValueError(f"dtype: expected one of {', '.join(BYTES)}, found {dtype!r}")
    rest = BYTES[_REST.get(dtype, dtype)]
    found = {name: rest * _count(part) for name, part in parts_of(model).items()}
    if dtype in _REST:
        language_model = model.s2t.language_model
        head = language_model.get_output_embeddings()
        few_bits = sum(part.weight.numel() for part in language_model.modules()
                       if isinstance(part, nn.Linear) and part is not head)  # fmt: skip
        found["s2t.language_model"] -= (rest - BYTES[dtype]) * few_bits
    return found


def cache_bytes(config: EchoXConfig, positions: int, dtype: str = "float32") -> dict[str, float]:
    """Key-value memory of one session: the language model's of `positions`, the echo decoder's of one segment."""
    text, echo = config.s2t_config.text_config.get_text_config(), config.echo_decoder_config
    bytes_each = BYTES[_REST.get(dtype, dtype)]
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    written = 2.0 * text.num_hidden_layers * heads * width * positions
    said = 2.0 * echo.num_hidden_layers * echo.hidden_size * min(positions, echo.max_position_embeddings)
    return {"language_model": bytes_each * written, "echo_decoder": bytes_each * said}


def inference_bytes(config: EchoXConfig, dtype: str, positions: int, sessions: int = 1) -> dict[str, float]:
    """Weights by part, and the key-value memory of so many sessions of so many positions.

    Raises:
        ValueError: an unknown dtype.
    """
    found = weight_bytes(build_on_meta(config), dtype)
    for name, value in cache_bytes(config, positions, dtype).items():
        found[f"key-value memory, {name}"] = sessions * value
    return {name: value for name, value in found.items() if value}


def training_bytes(config: EchoXConfig, stage: str, work: Workload) -> dict[str, float]:
    """Peak memory of a stage by kind: weights, gradients, optimizer, averages, activations, loss.

    Raises:
        ValueError: an unknown stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, found {stage!r}")
    model = build_on_meta(config)
    trained, frozen = _trainable(model, stage, work)
    activations, loss = _activations(model, config, stage, work)
    found = {
        "trained weights": 4.0 * trained,
        "frozen weights": BYTES[work.frozen_dtype] * frozen,
        "gradients": 4.0 * trained,
        "optimizer": 8.0 * trained,
        "averages": 4.0 * trained if work.ema else 0.0,
        "activations": activations,
        "loss": loss,
    }
    return {name: value for name, value in found.items() if value}


def causal_training_bytes(text_config: Any, work: Workload) -> dict[str, float]:
    """Peak memory of training a bare language model, all of it or a LoRA (`Workload.lora_rank`): what can be measured.

    See benchmarks/memory.py.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(text_config)
    weights = _count(model)
    holder: Any = nn.Module()
    holder.language_model = model
    trained = _lora_weights(holder, work.lora_rank) if work.lora_rank else weights
    scores = work.batch_size * work.reply_tokens * text_config.get_text_config().vocab_size
    found = {
        "trained weights": 4.0 * trained,
        "frozen weights": BYTES[work.frozen_dtype] * weights if work.lora_rank else 0.0,
        "gradients": 4.0 * trained,
        "optimizer": 8.0 * trained,
        "activations": language_model_saved(text_config, work, work.lora_rank),
        "loss": _beyond_a_layer(_bytes_per_score(work) * scores, text_config, work, work.lora_rank),
    }
    return {name: value for name, value in found.items() if value}


def _beyond_a_layer(loss: float, text_config: Any, work: Workload, lora_rank: int) -> float:
    """With checkpointing the scores are gone when a layer is run again: of the two only the larger is there."""
    if not work.gradient_checkpointing:
        return loss
    whole = replace(work, gradient_checkpointing=False)
    layers = text_config.get_text_config().num_hidden_layers
    return max(0.0, loss - language_model_saved(text_config, whole, lora_rank) / layers)


def _bytes_per_score(work: Workload) -> float:
    """Scores are kept as computed, in float32 and as log probabilities; the backward pass makes their gradient."""
    return (2 if work.precision == "bf16" else 4) + 3 * 4


def _trainable(model: EchoXForConditionalGeneration, stage: str, work: Workload) -> tuple[int, int]:
    """Numbers of weights that a stage trains, and that it holds frozen."""
    s2t = model.s2t
    parts = parts_of(model)
    adapters = _count(s2t) - _count(s2t.audio_tower) - _count(s2t.language_model)
    language_model = _count(s2t.language_model)
    embedding = s2t.get_input_embeddings().weight.numel()
    speech = sum(_count(parts[name]) for name in ("denoising_adapter", "embedding_gate", "echo_decoder")
                 if name in parts)  # fmt: skip
    lora = _lora_weights(s2t, work.lora_rank)
    return {
        "lm": (language_model, 0),
        "encoder": (sum(_count(part) for part in (s2t.audio_tower, s2t.alignment_adapter, s2t.ctc_head)), 0),
        "s2t": (adapters + lora, _count(s2t.audio_tower) + language_model),
        "t2c": (_count(model.echo_decoder), embedding),
        # The teacher: a second T2C, with a copy of the text embedding.
        "echo": (speech + lora, _count(s2t) + _count(model.echo_decoder) + embedding + _vocoder(model)),
    }[stage]


def _activations(
    model: EchoXForConditionalGeneration, config: EchoXConfig, stage: str, work: Workload
) -> tuple[float, float]:
    """Bytes that autograd keeps for the backward pass, and of scores (float32 copies included) around the loss."""
    rows, frames = work.batch_size, int(50 * work.audio_s)
    width, vocabulary = config.s2t_config.hidden_size, config.s2t_config.vocab_size
    scores = 0.0
    saved = 0.0
    rank = 0 if stage == "lm" else work.lora_rank
    if stage in ("s2t", "echo", "lm"):
        saved += language_model_saved(config.s2t_config.text_config, work, rank)
        scores += rows * work.reply_tokens * vocabulary
    if stage in ("s2t", "encoder"):
        saved += alignment_saved(config.s2t_config, work)
        scores += rows * (frames // 2) * vocabulary
    if stage == "encoder":
        saved += tower_saved(config.s2t_config.audio_config, work)
    if stage in ("t2c", "echo"):
        saved += decoder_saved(model, work)
        scores += rows * work.unit_words * (config.echo_decoder_config.num_unit_words + 1)
    if stage == "echo":
        with _fake():
            adapter = DenoisingAdapter(width, config.denoising_intermediate_size, config.denoising_dropout)
            saved += _count_saved(adapter, lambda: adapter(_input(rows, work.reply_tokens, width)), work)
    loss = _bytes_per_score(work) * scores
    if stage in ("lm", "s2t", "echo"):
        loss = _beyond_a_layer(loss, config.s2t_config.text_config, work, rank)
    return saved, loss


def language_model_saved(text_config: Any, work: Workload, lora_rank: int = 0) -> float:
    """Bytes that the language model's layers keep for the backward pass."""
    sizes = text_config.get_text_config()

    def make(layers: int) -> nn.Module:
        shallow = copy.deepcopy(text_config)
        shallow.get_text_config().num_hidden_layers = layers
        if getattr(shallow.get_text_config(), "layer_types", None):
            shallow.get_text_config().layer_types = shallow.get_text_config().layer_types[:layers]
        made = AutoModelForCausalLM.from_config(shallow)
        if lora_rank:
            # Autocast copies frozen float32 weights, and autograd keeps the copies: their dtype is part of the count.
            made.requires_grad_(False).to(torch.float32 if work.frozen_dtype == "float32" else torch.bfloat16)
            holder: Any = nn.Module()
            holder.language_model = made
            for value in add_lora(holder, LoRASettings(r=lora_rank)):  # it reads no other part
                value.requires_grad_(True)
        return made.base_model

    def call(model: nn.Module) -> Any:
        states = _input(work.batch_size, work.tokens, sizes.hidden_size)
        return model(inputs_embeds=states, attention_mask=_pairs(work.batch_size, work.tokens), use_cache=False)

    return _by_layers(make, call, sizes.num_hidden_layers, work)


def alignment_saved(config: S2TConfig, work: Workload) -> float:
    """Bytes that the alignment adapter keeps for the backward pass."""
    with _fake():
        adapter = AlignmentAdapter(
            config.audio_config.d_model, config.hidden_size, config.adapter_attention_heads,
            config.adapter_intermediate_size, config.adapter_dropout, config.adapter_activation,
        )  # fmt: skip
        shape = (work.batch_size, int(25 * work.audio_s), adapter.projection.in_features)
        return _count_saved(
            adapter, lambda: adapter.layer_norm(adapter.layer(adapter.projection(_input(*shape)))), work
        )


def tower_saved(audio_config: Any, work: Workload) -> float:
    """Bytes that the audio tower keeps while it is trained."""

    def make(layers: int) -> nn.Module:
        shallow = copy.deepcopy(audio_config)
        shallow.encoder_layers = layers
        return _Tower(shallow)

    def call(model: nn.Module) -> Any:
        return model(_input(work.batch_size, audio_config.num_mel_bins, int(100 * work.audio_s)))

    return _by_layers(make, call, audio_config.encoder_layers, work)


def decoder_saved(model: EchoXForConditionalGeneration, work: Workload) -> float:
    """Bytes that the unit decoder's layers keep while it is trained."""
    config = next(part.config for part in model.echo_decoder.modules() if isinstance(part, LlamaModel))

    def make(layers: int) -> nn.Module:
        shallow = copy.deepcopy(config)
        shallow.num_hidden_layers = layers
        return LlamaModel(shallow)

    def call(made: nn.Module) -> Any:
        length = work.unit_words + work.reply_tokens
        states = _input(work.batch_size, length, config.hidden_size)
        return made(inputs_embeds=states, attention_mask=_pairs(work.batch_size, length), use_cache=False)

    without = replace(work, gradient_checkpointing=False)  # the stages switch it on in the language model alone
    return _by_layers(make, call, config.num_hidden_layers, without)


class _Tower(SpeechEncoder):
    """The tower without questions about its mask's values: fake tensors have none."""

    def forward(self, input_features: Tensor) -> Tensor:  # type: ignore[override]
        hidden = nn.functional.gelu(self.conv1(input_features))
        hidden = nn.functional.gelu(self.conv2(hidden)).transpose(1, 2)
        hidden = hidden + self.embed_positions.weight[: hidden.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, None)
        return self.layer_norm(hidden)


def _fake() -> FakeTensorMode:
    """Tensors with every property but contents: autocast treats them as it does real ones, unlike those on "meta"."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def _by_layers(
    make: Callable[[int], nn.Module], call: Callable[[nn.Module], Any], layers: int, work: Workload
) -> float:
    """Bytes saved by `layers` layers, from what one and two save; with checkpointing also one layer, run again."""

    def saved(count: int, checkpointing: bool) -> float:
        with torch.device("meta"):
            model = make(count)
        with _fake():
            model = model.to_empty(device="cpu").train()
            if checkpointing:
                enable_gradient_checkpointing(model)
            return _count_saved(model, lambda: call(model), work)

    checkpointing = work.gradient_checkpointing
    one, two = saved(1, checkpointing), saved(2, checkpointing)
    total = one + (layers - 1) * (two - one)
    if checkpointing:
        total += saved(2, False) - saved(1, False)
    return total


def _count_saved(module: nn.Module, run: Callable[[], Any], work: Workload) -> float:
    """Bytes of all tensors that autograd saves during `run`, each storage once, parameters left out."""
    own = {id(value.untyped_storage()) for value in [*module.parameters(), *module.buffers()]}
    kept: dict[int, tuple[Any, int]] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if id(storage) not in own:
            kept[id(storage)] = (storage, storage.nbytes())  # held, so that no id is used twice
        return value

    autocast: AbstractContextManager = (
        torch.autocast("cpu", torch.bfloat16) if work.precision == "bf16" else nullcontext()
    )
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), autocast:
        run()
    return float(sum(size for _, size in kept.values()))


def _lora_weights(s2t: nn.Module, rank: int) -> int:
    language_model: Any = s2t.language_model
    head = language_model.get_output_embeddings()
    linears = [part for part in language_model.modules() if isinstance(part, nn.Linear) and part is not head]
    return rank * sum(part.in_features + part.out_features for part in linears)


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in [*module.parameters(), *module.buffers()])


def _vocoder(model: EchoXForConditionalGeneration) -> int:
    return 0 if model.vocoder is None else _count(model.vocoder)


def _input(*shape: int) -> Tensor:
    return torch.empty(shape, requires_grad=True)


def _pairs(rows: int, length: int) -> Tensor:
    """A mask of who sees whom: a batch is padded, so there is one."""
    return torch.ones(rows, 1, length, length, dtype=torch.bool)
