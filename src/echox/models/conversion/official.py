"""Configuration and tensors of the official EchoX release, for an ordinary `EchoXForConditionalGeneration`.

There are four sources: the release (language model, adapters, unit decoder), a Whisper (whose weights are not in the
release), a code-HiFi-GAN, and an optional PEFT folder. All names and shapes are compared before a tensor is read; then
each tensor is read once, directly into the model. Departures of the released weights from the published method become
the configuration's `Compatibility`.

Source: the released configuration and inference scripts of EchoX (https://github.com/FreedomIntelligence/EchoX);
docs/official-format.md.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, WhisperConfig

from echox.models.compatibility import Compatibility
from echox.models.conversion.checkpoint import (
    JsonObject,
    StoredTensor,
    check_names,
    open_checkpoint,
    read_json,
)
from echox.models.conversion.code_hifigan import PUBLIC_VOCODER, VocoderFiles, find_vocoder, open_vocoder
from echox.models.conversion.hub_files import find_file, is_hub_id
from echox.models.conversion.peft_folder import merge_peft, open_peft
from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig

OFFICIAL_MODEL_TYPES = ("EchoX", "ACLlama")
SYSTEM_PROMPT = (
    "You are a helpful language and speech assistant. You are able to understand the speech content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
"""Begins every prompt of the release's own scripts (its inference/echox_stream.py)."""
VOCODER_WEIGHTS = "g_00500000"
VOCODER_CONFIGS = ("vocoder_config.json", "config.json")
"""Names of the release's model class; transformers knows neither."""
UNIT_MODELS: dict[str | None, dict[str, int]] = {
    "large": {"num_hidden_layers": 2},
    "small": {"num_hidden_layers": 4, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048},
    None: {"num_hidden_layers": 6, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048},
}
"""``unit_model`` of the release to sizes of its unit decoder; other sizes are those of the language model."""
OTHER_UNIT_MODEL: dict[str, int] = {
    "num_hidden_layers": 8,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "intermediate_size": 2048,
}
"""The same for all other names."""
SMALL_HEAD_DIM = 64

# Llama 3's tokens by id, for the unit decoder's prompt: the release has these numbers in its code, independent of its
# tokenizer. "speaker" is the role after the assistant.
BEGIN_OF_TEXT, START_HEADER, END_HEADER, END_OF_TURN = 128000, 128006, 128007, 128009
SPEAKER, NEW_LINE = 65576, 198
UNIT_PROMPT_HEADER = (START_HEADER, BEGIN_OF_TEXT, SPEAKER, END_HEADER, BEGIN_OF_TEXT, NEW_LINE)
STRAY_UNIT_PROMPT_ID = 12800

LLAMA_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "mlp_bias",
    "attention_dropout",
    "max_position_embeddings",
    "tie_word_embeddings",
    "initializer_range",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)

# Our names to those of the release, longest first.
_RELEASE = {
    "s2t.alignment_adapter.projection.": "model.mm_projector1.",
    "s2t.alignment_adapter.layer.": "model.asr_transformer_encoder.layers.0.",
    "s2t.alignment_adapter.layer_norm.": "model.out_norm.",
    "s2t.ctc_head.": "model.audio_feature_head.",
    "s2t.shrinking_adapter.look_back.": "model.lbm.encoder_attn.",
    "s2t.shrinking_adapter.layer_norm.": "model.lbm.atten_layer_norm.",
    "s2t.language_model.": "",
    "denoising_adapter.up_proj.": "unit_translator.aligner_MLP.0.",
    "denoising_adapter.down_proj.": "unit_translator.aligner_MLP.3.",
    "echo_decoder.text_embedding.": "unit_translator.model.embed_tokens.",
    "echo_decoder.unit_embedding.": "unit_translator.unit_embedding.",
    "echo_decoder.state_projection.": "unit_translator.adapter.",
    "echo_decoder.backbone.": "unit_translator.model.",
    "echo_decoder.unit_head.": "unit_translator.lm_head.",
}
_WHISPER, _VOCODER = "s2t.audio_tower.", "vocoder."
_EMPTY = ("echo_decoder.prefix", "echo_decoder.separator")
"""Learned prompt vectors, which are empty in this form."""
_TIED_HEAD = "lm_head.weight"


@dataclass
class OfficialCheckpoint:
    """A checked release; no tensor is read yet.

    Attributes:
        config: of our model.
        tensors: every tensor of our model by our name.
        dtype: of the language model as stored.
    """

    config: EchoXConfig
    tensors: dict[str, StoredTensor]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Size of all tensors as stored."""
        return sum(tensor.num_bytes for tensor in self.tensors.values())


def is_official(folder_or_id: str | os.PathLike[str]) -> bool:
    """Whether a folder (or hub id) holds the official release, not a model of this package.

    Raises:
        ValueError: it holds no model, or cannot be asked.
    """
    path = find_file(folder_or_id, "config.json")
    if path is None:
        raise ValueError(f"{folder_or_id}: expected a model, found no config.json; correct the folder or hub id")
    return _names_release(read_json(path))


def _names_release(values: JsonObject) -> bool:
    classes = {f"{name}ForCausalLM" for name in OFFICIAL_MODEL_TYPES}
    return values.get("model_type") in OFFICIAL_MODEL_TYPES or bool(classes & set(values.get("architectures") or []))


def official_config(
    values: JsonObject,
    whisper: WhisperConfig,
    vocoder: CodeHiFiGANConfig | None,
    audio_token_id: int,
    masked_token_id: int | None = None,
) -> EchoXConfig:
    """Our configuration of the release's.

    Args:
        values: of the release's ``config.json``.
        whisper: of the audio tower.
        vocoder: of the unit vocoder.
        audio_token_id: of ``<audio_patch>`` in the release's tokenizer.
        masked_token_id: its padding token, if prompts contain it (see `Compatibility`).

    Raises:
        ValueError: not a configuration of the release, or one without a part that EchoX needs.
    """
    if not _names_release(values):
        raise ValueError(
            f"config.json: expected model_type {' or '.join(OFFICIAL_MODEL_TYPES)}, found {values.get('model_type')!r}"
        )
    for name, part in (
        ("adapter_size", "audio adapters"),
        ("unit_output", "unit decoder"),
        ("unit_vocab_size", "unit decoder"),
    ):
        if values.get(name) is None:
            raise ValueError(f"config.json: expected {name}, found none: this checkpoint has no {part}")
    if values["unit_output"] == "pretrain":
        raise ValueError(
            "config.json: expected unit_output of a model that speaks, found 'pretrain': such a "
            "checkpoint has no denoising adapter (aligner_MLP)"
        )
    if values["adapter_size"] != whisper.d_model:
        raise ValueError(
            f"audio tower: expected a Whisper of width {values['adapter_size']} (adapter_size), found "
            f"{whisper.d_model}; name the Whisper that these weights were trained with"
        )
    llama = LlamaConfig(**{name: values[name] for name in LLAMA_FIELDS if name in values})
    s2t = S2TConfig(
        audio_config=whisper,
        text_config=llama,
        audio_token_id=audio_token_id,
        adapter_attention_heads=llama.num_attention_heads,
        compatibility=Compatibility(
            frame_wise_adapter=True,
            look_back_at_kept=True,
            fixed_windows=True,
            repeated_bos=True,
            masked_token_id=masked_token_id,
            stray_unit_prompt_id=STRAY_UNIT_PROMPT_ID,
            extra_segment_tokens=1,
        ).to_dict(),
    )
    return EchoXConfig(
        s2t_config=s2t,
        echo_decoder_config=_unit_decoder_config(values, llama),
        vocoder_config=vocoder,
        system_prompt=SYSTEM_PROMPT,
    )


def _unit_decoder_config(values: JsonObject, llama: LlamaConfig) -> UnitDecoderConfig:
    name = values.get("unit_model")
    sizes: JsonObject = dict(UNIT_MODELS.get(name, OTHER_UNIT_MODEL))
    own_width = "hidden_size" in sizes
    for field in ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"):
        sizes.setdefault(field, getattr(llama, field))
    rope: JsonObject = dict(llama.rope_parameters or {})
    return UnitDecoderConfig(
        form="text_prefix",
        **sizes,
        head_dim=SMALL_HEAD_DIM if own_width else llama.head_dim,
        text_hidden_size=llama.hidden_size,
        text_vocab_size=llama.vocab_size,
        num_unit_words=values["unit_vocab_size"],
        normalize_states=False,
        num_separator_vectors=0,
        prompt_prefix_ids=list(UNIT_PROMPT_HEADER),
        prompt_suffix_ids=[END_OF_TURN, *UNIT_PROMPT_HEADER],
        end_token_id=END_OF_TURN,
        rope_theta=rope.pop("rope_theta"),
        rope_scaling_parameters=rope,
        hidden_act=llama.hidden_act,
        attention_bias=llama.attention_bias,
        mlp_bias=llama.mlp_bias,
        max_position_embeddings=llama.max_position_embeddings,  # the release has 2048, which has no effect
        rms_norm_eps=llama.rms_norm_eps,
        initializer_range=llama.initializer_range,
    )


def official_name(name: str) -> str:
    """The release's name of one of our tensors.

    Raises:
        ValueError: a tensor that the release does not have.
    """
    for ours, theirs in _RELEASE.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(f"{name}: expected a tensor of the release, found one that it does not have")


def open_official(
    folder_or_id: str | os.PathLike[str],
    audio_token_id: int,
    masked_token_id: int | None = None,
    audio_tower: str | os.PathLike[str] | None = None,
    vocoder: str | os.PathLike[str] | None = None,
    peft: str | os.PathLike[str] | None = None,
) -> OfficialCheckpoint:
    """Find all parts and compare all names and shapes; no tensor is read yet.

    Args:
        folder_or_id: the release.
        audio_token_id: see `official_config`.
        masked_token_id: see `official_config`.
        audio_tower: folder or hub id of the Whisper; None: ``audio_tower`` of the release's configuration, a hub id or
            a folder, also one in the release or beside it.
        vocoder: folder or hub id of the unit vocoder, or its ``g_*`` file; None: the release, or ``vocoder/`` there.
        peft: folder or hub id of a LoRA that is merged into the weights.

    Raises:
        ValueError: a part is missing, truncated or of another model; the message lists all names that do not fit.
    """
    path = find_file(folder_or_id, "config.json")
    if path is None:
        raise ValueError(f"{folder_or_id}: expected the official release, found no config.json")
    values = read_json(path)
    whisper_place = audio_tower or _named_tower(path, values)
    whisper_config = find_file(whisper_place, "config.json")
    if whisper_config is None:
        raise ValueError(
            f"{whisper_place}: expected a Whisper checkpoint, found no config.json; name its folder or "
            "hub id (audio_tower=, --audio-tower)"
        )
    # What is small comes first: nobody waits for 19 GB to hear that a part is missing.
    lora = None if peft is None else open_peft(peft)
    vocoder_config, vocoder_tensors = open_vocoder(_vocoder_files(folder_or_id, vocoder))
    whisper = WhisperConfig.from_dict(read_json(whisper_config))
    config = official_config(values, whisper, vocoder_config, audio_token_id, masked_token_id)
    whisper_tensors = _encoder(open_checkpoint(whisper_place))
    released = open_checkpoint(folder_or_id)
    if lora is not None:
        released = merge_peft(released, lora)
    sources = {"release": released, "whisper": whisper_tensors, "vocoder": vocoder_tensors}
    places = {"release": str(folder_or_id), "whisper": str(whisper_place), "vocoder": "unit vocoder"}
    tensors = match_tensors(config, sources, places)
    return OfficialCheckpoint(config, tensors, released["model.embed_tokens.weight"].dtype)


def match_tensors(
    config: EchoXConfig, sources: dict[str, dict[str, StoredTensor]], places: dict[str, str]
) -> dict[str, StoredTensor]:
    """Our tensors, each from its source ("release", "whisper", "vocoder"), after a check of all names and shapes.

    Args:
        config: of our model.
        sources: tensors of each source.
        places: names of the sources, for messages.

    Raises:
        ValueError: missing, unexpected or misshapen tensors; the message lists all of them.
    """
    with torch.device("meta"):
        state = EchoXForConditionalGeneration(config).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    expected: dict[str, dict[str, tuple[int, ...]]] = {source: {} for source in sources}
    origin: dict[str, tuple[str, str]] = {}
    for name, shape in shapes.items():
        if name in _EMPTY:
            continue
        if name.startswith(_WHISPER):
            source, theirs = "whisper", name.removeprefix(_WHISPER)
        elif name.startswith(_VOCODER):
            source, theirs = "vocoder", name.removeprefix(_VOCODER)
        else:
            source, theirs = "release", official_name(name)
            if theirs == _TIED_HEAD and config.tie_word_embeddings:
                continue  # it is the embedding, also if it is stored
        origin[name] = (source, theirs)
        expected[source][theirs] = shape
    problems = []
    for source, tensors in sources.items():
        optional = [name for name in tensors if name.endswith("rotary_emb.inv_freq")]
        optional += [_TIED_HEAD] * config.tie_word_embeddings
        try:
            check_names(places[source], expected[source], tensors, optional)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(" ".join(problems))
    return {name: sources[source][theirs] for name, (source, theirs) in origin.items()}


def _encoder(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The encoder of a Whisper, of WhisperForConditionalGeneration, or of an encoder alone."""
    plain = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    inner = {name.removeprefix("encoder."): tensor for name, tensor in plain.items() if name.startswith("encoder.")}
    return inner or plain


def _named_tower(path: Path, values: JsonObject) -> str:
    """The Whisper that a release's configuration names; where that is a path, from the release or beside it."""
    named = values.get("audio_tower")
    for folder in (path.parent, path.parent.parent):
        if named and (folder / named).is_dir():
            return str(folder / named)
    if named and (Path(named).is_dir() or is_hub_id(named)):
        return str(named)
    raise ValueError(
        f"{path}: audio_tower: expected a folder or a hub id, found {named!r}; name the Whisper (audio_tower=, "
        "--audio-tower openai/whisper-large-v3)"
    )


def _vocoder_files(release: str | os.PathLike[str], vocoder: str | os.PathLike[str] | None) -> VocoderFiles:
    place = release if vocoder is None else vocoder
    for inside in ("vocoder", ""):
        files = find_vocoder(Path(place, inside)) if Path(place).exists() else _hub_vocoder(str(place), inside)
        if files is not None:
            return files
    raise ValueError(
        f"unit vocoder: expected {VOCODER_WEIGHTS} and its {' or '.join(VOCODER_CONFIGS)} in {place}, or in vocoder/ "
        f"there, found none; download both from {PUBLIC_VOCODER}/ and name their folder (vocoder=, --vocoder)"
    )


def _hub_vocoder(hub_id: str, inside: str) -> VocoderFiles | None:
    """The vocoder in a folder of a hub repository; None: there is none."""
    prefix = f"{inside}/" if inside else ""
    weights = find_file(hub_id, prefix + VOCODER_WEIGHTS)
    if weights is None:
        return None
    for name in VOCODER_CONFIGS:
        find_file(hub_id, prefix + name)  # beside the weights, where it is looked for
    return find_vocoder(weights)
