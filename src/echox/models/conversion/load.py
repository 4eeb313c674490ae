"""`load_official`: loads the official release as an ordinary model and processor."""

from __future__ import annotations

import os

import torch
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from echox.models.conversion.checkpoint import read_json
from echox.models.conversion.hub_files import find_file
from echox.models.conversion.materialise import DeviceMap, materialise
from echox.models.conversion.official import open_official
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.processing_echox import EchoXProcessor
from echox.models.unit_language.tokenization_unit_pieces import unit_language_of

AUDIO_TOKEN = "<audio_patch>"
OFFICIAL_CHAT_TEMPLATE = (
    "{%- set bos = bos_token if repeat_bos is not defined or repeat_bos else '' -%}"
    "{%- macro opened(role) -%}"
    "{{ '<|start_header_id|>' + bos + role + '<|end_header_id|>' }}"
    "{%- endmacro -%}"
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- set parts = message['content'] -%}"
    "{%- if parts is string -%}{%- set parts = [{'type': 'text', 'text': parts}] -%}{%- endif -%}"
    "{%- set audios = parts | selectattr('type', 'equalto', 'audio') | list -%}"
    "{{- opened(message['role']) -}}"
    "{%- if audios or message['role'] != 'user' -%}{{- bos + '\\n' -}}{%- endif -%}"
    "{%- for audio in audios -%}{{- '" + AUDIO_TOKEN + "' -}}{%- endfor -%}"
    "{{- bos -}}"
    "{%- for part in parts -%}{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- endif -%}{%- endfor -%}"
    "{{- '<|eot_id|>' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- opened('assistant') + bos + '\\n' -}}{%- endif -%}"
)
"""The prompt format of the release's training: one new line where Llama 3 has two, none before typed questions, the
audios of a turn before its text, and (`Compatibility.repeated_bos`) the beginning of text before every piece."""


def load_official(
    folder_or_id: str | os.PathLike[str],
    audio_tower: str | os.PathLike[str] | None = None,
    vocoder: str | os.PathLike[str] | None = None,
    peft: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    device_map: DeviceMap | None = None,
) -> tuple[EchoXForConditionalGeneration, EchoXProcessor]:
    """Load the official release.

    Args:
        folder_or_id: its folder or hub id, with its tokenizer.
        audio_tower: folder or hub id of the Whisper; None: the one in the release's configuration.
        vocoder: folder of the unit vocoder or its ``g_*`` file; None: beside the release, or in ``vocoder/`` there.
        peft: folder or hub id of a LoRA to merge.
        dtype: of the weights in memory; None: as the language model is stored.
        device: where the model goes.
        device_map: places of its parts instead; see `materialise`.

    Returns:
        Model and processor; ``save_pretrained`` of both makes an ordinary folder.

    Raises:
        ValueError: a part is missing, truncated, or does not fit; everything is checked before anything is read.
    """
    tokenizer = _tokenizer(folder_or_id)
    audio_token_id = tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)
    if not isinstance(audio_token_id, int) or audio_token_id == tokenizer.unk_token_id:
        raise ValueError(f"{folder_or_id}: expected the token {AUDIO_TOKEN} in its tokenizer, found none")
    # If padding and the end of a turn are one token, prompts contain it, and the release masks it.
    masked_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id == tokenizer.eos_token_id else None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    checkpoint = open_official(folder_or_id, audio_token_id, masked_token_id, audio_tower, vocoder, peft)
    config = checkpoint.config
    words = config.echo_decoder_config.num_unit_words
    assert config.vocoder_config is not None, "the release has a vocoder"
    language = unit_language_of(tokenizer, config.s2t_config.vocab_size, words, config.vocoder_config.num_units)
    extractor = WhisperFeatureExtractor(feature_size=config.s2t_config.audio_config.num_mel_bins)
    model = materialise(config, checkpoint.tensors, dtype or checkpoint.dtype, device, device_map)
    return model, EchoXProcessor(extractor, tokenizer, language)


def _tokenizer(folder_or_id: str | os.PathLike[str]) -> PreTrainedTokenizerFast:
    """The release's tokenizer with the chat template of its training."""
    path = find_file(folder_or_id, "tokenizer.json")
    if path is None:
        raise ValueError(f"{folder_or_id}: expected a tokenizer.json beside the weights, found none")
    read_json(path)
    # Not AutoTokenizer: it reads the model type in config.json, which transformers does not know.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(folder_or_id))
    if tokenizer.eos_token_id is None:
        raise ValueError(f"{folder_or_id}: expected a tokenizer with an eos token, found none")
    tokenizer.chat_template = OFFICIAL_CHAT_TEMPLATE
    return tokenizer
