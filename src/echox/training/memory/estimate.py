"""Estimates of the memory that a model needs, before anything is downloaded: by part, by dtype, by training stage.

Weights are counted on modules on torch's meta device, which need no memory. A training step is simulated: the stage's
own objective runs forward and backward on fake tensors (without data), and the live ones are counted. So the count
includes losses in chunks, attention kernels, copies by autocast, LoRA and gradient checkpointing. docs/memory.md
compares it with measured peaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from echox.data.features.corpus_features import MEL_FRAMES_PER_S
from echox.device import choose_device
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig, SpeechEncoderConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.pretrained import CausalLM
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.towers.auto import AutoAudioTower
from echox.streaming.reply_text.trigger import Trigger
from echox.training.memory.rehearsal import Rehearsal
from echox.training.networks.attention import tower_attention
from echox.training.networks.lora import LoRASettings, add_lora
from echox.training.networks.modules import autocast, enable_gradient_checkpointing, set_training
from echox.training.networks.parallel import blocks_to_shard, kept_whole
from echox.training.stages.dialogue.lm import LMObjective
from echox.training.stages.hearing.encoder import EncoderObjective
from echox.training.stages.hearing.s2t import S2TObjective
from echox.training.stages.speaking.echo_objective import EchoObjective, EchoWeights
from echox.training.stages.speaking.echo_targets import Asked, Labelled, Segments, Targets
from echox.training.stages.speaking.t2c import T2CObjective

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.0, "nf4": 0.5}
"""Bytes per weight; int8 and nf4 apply to the language model's linear layers, the rest is float32 or bfloat16."""

_REST = {"int8": "float32", "nf4": "bfloat16"}
STAGES = ("lm", "encoder", "s2t", "t2c", "echo")


PHONES_PER_S, KEPT_PER_S, WORDS_PER_TOKEN = 12, 7, 0.75
"""Default rates of a `Workload`."""
KEPT_AT_FIRST_PER_S = 25
"""Most frames that an untrained CTC head keeps: all of them, of towers of 50 frames a second (`docs/memory.md`)."""
LETTERS_PER_WORD = 6
"""With punctuation, about the average of English."""


Batch = Mapping[str, object]
"""Arguments of an objective: tensors by name, and in stage echo more (`EchoBatch`)."""


@dataclass(frozen=True)
class Workload:
    """The sizes that a training step's memory depends on.

    Attributes:
        batch_size: rows. tokens: positions of a row in the language model, speech included. reply_tokens: those of
            them that are scored. unit_words: of a row's reply. words: of its text.
        audios: of the batch. audio_s: seconds of each. kept_frames: frames of each that the language model reads.
        segments: of the batch's replies in stage echo; 0: each as long as the trigger allows.
        precision: "bf16" (autocast) or "fp32". gradient_checkpointing: keep only each layer's input.
        frozen_dtype: of weights that are not trained. ema: averaged weights are kept. lora_rank: 0 = none.
        attention: of the language model in stage lm and of the decoder in stage t2c: "sdpa" or "eager".
        phones: classes of stage encoder's phone head; 0 = none.
        processes: of the run; with "hybrid" of one machine. parallel: with several processes (see `TrainingConfig`).
        cpu_offload: with "fsdp" and "hybrid": weights and optimizer states are in the memory of the CPU.
    """

    batch_size: int = 4
    tokens: int = 256
    reply_tokens: int = 128
    audio_s: float = 5.0
    unit_words: int = 256
    words: int = 0
    audios: int = 0
    kept_frames: int = 0
    segments: int = 0
    precision: str = "bf16"
    gradient_checkpointing: bool = False
    frozen_dtype: str = "float32"
    ema: bool = False
    lora_rank: int = 16
    attention: str = "sdpa"
    phones: int = 40
    processes: int = 1
    parallel: str = "ddp"
    cpu_offload: bool = False

    def __post_init__(self) -> None:
        """Compute sizes that were left out. Raises: ValueError for a number that is not positive."""
        for name in ("batch_size", "tokens", "reply_tokens", "audio_s", "unit_words", "processes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, found {getattr(self, name)}")
        usual = {
            "words": max(1, round(WORDS_PER_TOKEN * self.reply_tokens)),
            "audios": self.batch_size,
            "kept_frames": max(1, round(KEPT_PER_S * self.audio_s)),
        }
        for name, value in usual.items():
            object.__setattr__(self, name, getattr(self, name) or value)


def build_on_meta(config: EchoXConfig) -> EchoXForConditionalGeneration:
    """The whole model on the meta device."""
    with torch.device("meta"):
        return EchoXForConditionalGeneration(config)


def weight_bytes(model: EchoXForConditionalGeneration, dtype: str) -> dict[str, float]:
    """Bytes of each part's weights and buffers in memory.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype not in BYTES:
        raise ValueError(f"dtype: expected one of {', '.join(BYTES)}, found {dtype!r}")
    rest = BYTES[_REST.get(dtype, dtype)]
    found = {name: rest * _count(part) for name, part in model.parts().items()}
    if dtype in _REST:
        language_model = model.s2t.language_model
        head = language_model.get_output_embeddings()
        few_bits = sum(
            part.weight.numel() for part in language_model.modules() if isinstance(part, nn.Linear) and part is not head
        )
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
    """Bytes of weights by part, and of the key-value memory of `sessions` sessions of `positions` positions.

    Raises:
        ValueError: an unknown dtype.
    """
    found = weight_bytes(build_on_meta(config), dtype)
    for name, value in cache_bytes(config, positions, dtype).items():
        found[f"key-value memory, {name}"] = sessions * value
    return {name: value for name, value in found.items() if value}


def training_bytes(config: EchoXConfig, stage: str, work: Workload) -> dict[str, float]:
    """Peak memory of a stage by kind: weights, optimizer, averages, activations, backward pass.

    "activations" are the tensors alive when the loss is computed; "backward pass" is the additional memory at the peak
    of the step: gradients and short-lived tensors.

    Raises:
        ValueError: an unknown stage.
    """
    if stage not in STAGES:
        raise ValueError(f"stage: expected one of {', '.join(STAGES)}, found {stage!r}")
    with torch.device("meta"):
        objective = build_objective(config, stage, work)
    return _kinds(objective, random_batch(config, stage, work), work, config.s2t_config)


def causal_training_bytes(text_config: PreTrainedConfig, work: Workload) -> dict[str, float]:
    """Peak memory of training a bare language model, all of it or a LoRA (`Workload.lora_rank`), by kind."""
    with torch.device("meta"):
        objective = bare_objective(text_config, work)
    config = S2TConfig(text_config=text_config, audio_token_id=0)
    return _kinds(objective, written_batch(work), work, config)


def _kinds(objective: nn.Module, batch: Batch, work: Workload, config: S2TConfig) -> dict[str, float]:
    trained = sum(value.numel() for value in objective.parameters() if value.requires_grad)
    frozen = _frozen_bytes(objective, work)
    activations, peak = step_bytes(objective, batch, work, config)
    found = {
        "trained weights": 4.0 * trained,
        "frozen weights": frozen,
        "optimizer": 8.0 * trained,
        "averages": 4.0 * trained if work.ema else 0.0,
        "activations": activations,
        "backward pass": peak - activations,
    }
    if work.processes > 1:
        found = _of_one_process(found, objective, trained, work)
    return {name: value for name, value in found.items() if value}


OFFLOADED = "in the memory of the CPU"
"""Name of the memory that a process needs, but not on its device."""


def _of_one_process(found: dict[str, float], objective: nn.Module, trained: int, work: Workload) -> dict[str, float]:
    """The memory of one of several processes, from that of a single process.

    "ddp": all of it, and the buckets for exchanging gradients. "fsdp" and "hybrid": a share of the weights, optimizer
    states and averages, and all of the teacher's weights; and, gathered in the type of the computation, all other
    weights outside blocks, and two blocks (one in use, one being gathered). Each process has its own activations. All
    gradients are counted: an upper bound.
    """
    if work.parallel == "ddp":
        return found | {"gradient buckets": 4.0 * trained}
    resting = ("trained weights", "frozen weights", "optimizer", "averages")
    whole = sum(value.numel() for value in kept_whole(objective))
    shards = {name: (found[name] - 4.0 * whole * (name == "frozen weights")) / work.processes for name in resting}
    blocks = [sum(value.numel() for value in block.parameters()) for block in blocks_to_shard(objective)]
    outside = sum(value.numel() for value in objective.parameters()) - sum(blocks) - whole
    each = 2.0 if work.precision == "bf16" else 4.0
    gathered = {"gathered weights": each * (outside + 2 * max(blocks, default=0))}
    kept = {"weights kept whole": 4.0 * whole}
    if work.cpu_offload:
        moved = {OFFLOADED: sum(shards.values())}
        return moved | kept | gathered | {name: value for name, value in found.items() if name not in resting}
    return found | shards | kept | gathered


def _frozen_bytes(objective: nn.Module, work: Workload) -> float:
    """Frozen weights: the language model in the given type; speech encoder, teacher and embeddings in float32."""
    tensors = [*objective.named_parameters(), *objective.named_buffers()]
    frozen = {name: value.numel() for name, value in tensors if not value.requires_grad}
    written = ("language_model", "model.model.", "model.lm_head.")
    language_model = sum(size for name, size in frozen.items() if any(part in name for part in written))
    return 4.0 * (sum(frozen.values()) - language_model) + BYTES[work.frozen_dtype] * language_model


# -------------------------------------------------------------------------------- a stage on the meta device


def build_objective(config: EchoXConfig, stage: str, work: Workload) -> nn.Module:
    """The stage's own objective, with its frozen and trained weights; to be called under ``torch.device("meta")``."""
    if stage == "lm":
        return bare_objective(config.s2t_config.text_config, replace(work, lora_rank=0))
    if stage == "encoder":
        return EncoderObjective(_encoder(config.s2t_config, work))
    t2c = T2CForUnitGeneration(config.echo_decoder_config)
    if stage == "t2c":
        t2c.text_embedding.requires_grad_(False)
        t2c.set_attn_implementation(work.attention)
        return T2CObjective(t2c)
    if stage == "s2t":
        s2t = S2TForConditionalGeneration(config.s2t_config)
        _freeze_but(s2t, s2t, s2t.aligner.trained_parts(), work)
        return S2TObjective(s2t)
    model = EchoXForConditionalGeneration(config)
    _freeze_but(model, model.s2t, (model.denoising_adapter, model.embedding_gate, model.echo_decoder), work)
    t2c.requires_grad_(False)
    return EchoObjective(model, t2c, GivenSegments(config, work), EchoWeights(), Trigger(), _Letters())  # type: ignore[arg-type]


def bare_objective(text_config: PreTrainedConfig, work: Workload) -> LMObjective:
    """The objective of a language model alone, with all weights trained or a LoRA."""
    model = AutoModelForCausalLM.from_config(text_config)
    model.set_attn_implementation(work.attention)
    if work.lora_rank:
        _freeze_language_model(model, work)
        _add_lora(model, work)
    return LMObjective(model)


def _freeze_but(
    whole: nn.Module, s2t: S2TForConditionalGeneration, trained: Sequence[nn.Module | None], work: Workload
) -> None:
    """Freeze all weights but those of `trained` and of a LoRA, as in stages s2t and echo."""
    whole.requires_grad_(False)
    s2t.audio_tower.set_attn_implementation("sdpa")  # as the stages do
    _freeze_language_model(s2t.language_model, work)
    if work.lora_rank:
        _add_lora(s2t.language_model, work)
    for part in trained:
        if part is not None:
            part.requires_grad_(True)


def _freeze_language_model(language_model: CausalLM, work: Workload) -> None:
    # Autocast copies frozen float32 weights, and autograd keeps the copies, so the type matters.
    language_model.requires_grad_(False)
    if work.frozen_dtype != "float32" and work.precision == "bf16":
        nn.Module.to(language_model, torch.bfloat16)


def _add_lora(language_model: CausalLM, work: Workload) -> None:
    for value in add_lora(language_model, LoRASettings(r=work.lora_rank)):
        value.requires_grad_(True)


def _encoder(config: S2TConfig, work: Workload) -> SpeechEncoderForCTC:
    """The model of stage "encoder": the speech encoder of S2T with a phone head."""
    settings = {name: getattr(config, name) for name in vars(config) if name.startswith("adapter_")}
    encoder = SpeechEncoderForCTC(
        SpeechEncoderConfig(
            audio_config=config.audio_config,
            hidden_size=config.hidden_size,
            vocab_size=config.vocab_size,
            blank_token_id=config.audio_token_id,
            phones=[str(phone) for phone in range(work.phones)],
            phone_layer=max(1, AutoAudioTower.spec(config.audio_config).num_layers - 2),
            **settings,
        )
    )
    frames = work.audio_s * MEL_FRAMES_PER_S
    encoder.set_attn_implementation(tower_attention(choose_device("auto"), True, work.precision, frames))
    return encoder


class GivenSegments(Targets):
    """Targets of stage echo by their sizes: numbers of segments, tokens, words and unit words."""

    def __init__(self, config: EchoXConfig, work: Workload) -> None:
        self.work, self.segments = work, work.segments or segments_of(config, work)
        self.max_word_letters = config.echo_decoder_config.max_word_letters

    def reply_ids(self, own_ids: Tensor, reference: Tensor) -> Tensor:
        """No tokens: the segments are given."""
        return torch.full_like(reference, -1)

    def begin(self, asked: Asked, ahead: bool = False) -> Callable[[], list[Labelled]]:
        """The same segments for every batch; takes no time."""
        return lambda: [self._of(segments) for segments, _ in asked]

    def _of(self, segments: Segments) -> Labelled:
        work, count = self.work, self.segments
        sizes = work.reply_tokens, work.unit_words, work.words
        tokens, unit_words, words_of_text = (-(-size * work.batch_size // count) for size in sizes)
        spoken = {
            name: value.to(segments.token_ids.device)
            for name, value in spoken_batch_of(count, tokens, unit_words, words_of_text, self.max_word_letters).items()
        }
        ids, words = spoken["input_ids"], spoken["word_ids"]
        letters = spoken.get("word_letters")
        given = Segments(ids, words, torch.zeros_like(ids), [(0, 0)] * count, [0] * count, letters)
        return given, spoken["unit_words"], spoken["unit_word_of"]

    def num_known(self, segments: Segments) -> int:
        """All of them."""
        return len(segments)


class _Letters:
    """The part of a tokenizer that `EchoObjective` uses: the id of the full stop, and no special tokens."""

    unk_token_id = None
    all_special_ids: tuple[int, ...] = ()
    added_tokens_decoder: Mapping[int, object] = {}

    def convert_tokens_to_ids(self, token: str) -> int:
        """That of the full stop."""
        return 0


def segments_of(config: EchoXConfig, work: Workload) -> int:
    """Number of segments of a batch of replies, if it is not given: each as long as the trigger allows."""
    return work.batch_size * -(-work.reply_tokens // config.trigger_max_tokens)


# -------------------------------------------------------------------------------- batches


def random_batch(config: EchoXConfig, stage: str, work: Workload) -> Batch:
    """A batch in the form of the stage, with the sizes of `work`."""
    s2t = config.s2t_config
    if stage == "lm":
        return written_batch(work)
    if stage == "t2c":
        sizes = work.batch_size, work.reply_tokens, work.unit_words, work.words
        return spoken_batch_of(*sizes, config.echo_decoder_config.max_word_letters)
    heard = _heard_batch(s2t, work)
    if stage == "encoder":
        phones = torch.ones(work.audios, max(1, int(PHONES_PER_S * work.audio_s)), dtype=torch.long)
        return {"labels": heard.pop("ctc_labels"), "phone_labels": phones, **heard}
    batch = {**_dialogue_batch(s2t, work), **heard}
    if s2t.aligner == "recogniser":  # it transcribes without a graph, and its tokens are positions like others
        other = 2 if s2t.audio_token_id == 1 else 1
        batch["input_ids"] = batch["input_ids"].masked_fill(batch["input_ids"] == s2t.audio_token_id, other)
        batch = {name: value for name, value in batch.items() if name not in heard}
    if stage == "s2t":
        return batch
    batch.pop("ctc_labels", None)
    return {"s2t": batch, "reply_texts": [""] * work.batch_size}


def written_batch(work: Workload) -> dict[str, Tensor]:
    """A batch of stage lm whose replies are the last tokens of each row."""
    weights = torch.zeros(work.batch_size, work.tokens)
    weights[:, work.tokens - min(work.reply_tokens, work.tokens - 1) :] = 1.0
    return {"input_ids": torch.zeros_like(weights, dtype=torch.long), "weights": weights}


def _heard_batch(config: S2TConfig, work: Workload) -> dict[str, Tensor]:
    """Audios of one length; the first is shorter, so that a mask is needed."""
    spec = AutoAudioTower.spec(config.audio_config)
    length = max(8, round(work.audio_s * MEL_FRAMES_PER_S)) * round(spec.inputs_per_s / MEL_FRAMES_PER_S)
    frames = round(work.audio_s * spec.frames_per_s) // 2  # of the CTC head
    mask = torch.ones(work.audios, length, dtype=torch.long)
    mask[0, -4 * spec.samples_per_frame // (2 * spec.samples_per_input) :] = 0
    bands = () if spec.num_mel_bins is None else (spec.num_mel_bins,)
    features = torch.randn(work.audios, *bands, length)
    labels = torch.ones(work.audios, max(1, min(round(KEPT_PER_S * work.audio_s), frames) // 2), dtype=torch.long)
    return {"input_features": features, "input_features_mask": mask, "ctc_labels": labels}


def _dialogue_batch(config: S2TConfig, work: Workload) -> dict[str, Tensor]:
    """Rows that have `work.tokens` positions with the kept frames inserted; the first row is shorter."""
    assert config.audio_token_id is not None
    each = -(-work.audios // work.batch_size)
    text = max(work.tokens - each * work.kept_frames, work.reply_tokens + 2) + each
    other = 2 if config.audio_token_id == 1 else 1
    ids = torch.full((work.batch_size, text), other)
    for audio in range(work.audios):
        ids[audio % work.batch_size, audio // work.batch_size] = config.audio_token_id
    mask, labels = torch.ones_like(ids), torch.full_like(ids, -100)
    labels[:, text - work.reply_tokens :] = other
    mask[0, -1], labels[0, -1] = 0, -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def spoken_batch_of(
    rows: int, tokens: int, unit_words: int, words: int, max_word_letters: int = 0
) -> dict[str, Tensor]:
    """A batch of stage t2c with these numbers of rows, tokens, unit words and text words; letters if they are read."""
    letters = torch.zeros(rows, min(words, tokens), min(max_word_letters, LETTERS_PER_WORD), dtype=torch.long)
    word_ids = torch.arange(tokens) * min(words, tokens) // tokens
    unit_word_of = torch.arange(unit_words) * min(words, tokens) // unit_words
    return {
        "input_ids": torch.zeros(rows, tokens, dtype=torch.long),
        "word_ids": word_ids.expand(rows, -1).contiguous(),
        "unit_words": torch.zeros(rows, unit_words, dtype=torch.long),
        "unit_word_of": unit_word_of.expand(rows, -1).contiguous(),
        **({"word_letters": letters} if max_word_letters else {}),
    }


# -------------------------------------------------------------------------------- a step on fake tensors


def step_bytes(objective: nn.Module, batch: Batch, work: Workload, config: S2TConfig) -> tuple[float, float]:
    """Bytes alive when the loss of a step is computed, and at the peak of the step, without weights.

    Args:
        objective: on "meta"; its weights become fake tensors.
        batch: for the objective.
        work: precision, gradient checkpointing, number of kept frames.
        config: of the S2T, for the blank label.
    """
    other = 2 if config.audio_token_id == 1 else 1
    labelled_per_s = AutoAudioTower.spec(config.audio_config).frames_per_s / 2
    runs = work.kept_frames / max(1, round(labelled_per_s * work.audio_s))
    rehearsal = Rehearsal((0 if config.audio_token_id else 3, other), runs)
    set_training(rehearsal.made_fake(objective))
    if work.gradient_checkpointing:
        enable_gradient_checkpointing(objective)
    spoken = batch.get("s2t", batch)
    assert isinstance(spoken, dict)
    if "input_features" in spoken:
        spoken["input_features"] = rehearsal.fake.from_tensor(spoken["input_features"])
    with rehearsal:
        with autocast(torch.device("cpu"), work.precision):
            loss = objective(batch)["loss"]
        kept = rehearsal.alive
        loss.backward()
    return kept, rehearsal.highest


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in [*module.parameters(), *module.buffers()])
