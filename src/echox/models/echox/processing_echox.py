"""`EchoXProcessor`: conversations of text and speech to model inputs, and unit words to units.

It is saved in one folder: the audio tower's feature extractor, the text tokenizer with the chat template, the unit
language, and the tokenizer of the recogniser if the model hears with one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import (
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SequenceFeatureExtractor,
)
from transformers.utils.generic import TensorType
from transformers.utils.hub import cached_file

from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig, SpeechEncoderConfig
from echox.models.pretrained import hub_options
from echox.models.text.retokenization import Retokenizer
from echox.models.text.tokenization_text import render_chat
from echox.models.towers.features import tower_inputs
from echox.models.unit_language.tokenization_auto import AutoUnitLanguage
from echox.models.unit_language.tokenization_unit_language import UNIT_LANGUAGE_FILE, UnitLanguage

RECOGNISER_TOKENIZER_FILE = "recogniser_tokenizer.json"
"""Tokenizer of the recogniser, in the format of the library ``tokenizers``."""

_ALWAYS = {"padding": True, "add_special_tokens": False, "images": None, "videos": None}
"""Settings of transformers' processors that have one value here."""

Conversation = Sequence[Mapping[str, Any]]
"""Messages ``{"role": ..., "content": ...}``: content is a string, or a list of parts ``{"type": "text", "text": str}``
and ``{"type": "audio", "audio": samples (S,)}``."""


class EchoXProcessor(ProcessorMixin):
    """Feature extractor, tokenizer (with chat template) and, where the model speaks, unit language.

    Args:
        feature_extractor: of the audio tower (`AutoAudioTower.feature_extractor`).
        tokenizer: the language model's, with an audio placeholder token.
        unit_language: unit words of the echo decoder; None for a model without speech.
        chat_template: None = the tokenizer's.
        recogniser_tokenizer: of the recogniser, for a model with aligner "recogniser".
    """

    def __init__(
        self,
        feature_extractor: SequenceFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        unit_language: UnitLanguage | None = None,
        chat_template: str | None = None,
        recogniser_tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.unit_language = unit_language
        self.recogniser_tokenizer = recogniser_tokenizer

    @classmethod
    def get_attributes(cls) -> list[str]:
        """Parts that transformers saves and loads; the others have files of their own."""
        return ["feature_extractor", "tokenizer"]

    @property
    def retokenizer(self) -> Retokenizer | None:
        """From the recogniser's tokens to the language model's; None: the model has no recogniser."""
        if self.recogniser_tokenizer is None:
            return None
        return Retokenizer(self.recogniser_tokenizer, self.tokenizer)

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        audio: np.ndarray | Sequence[np.ndarray] | None = None,
        sampling_rate: int | None = None,
        padding_side: str = "left",
        return_tensors: str | TensorType | None = "pt",
        **others: Any,
    ) -> BatchFeature:
        """Texts (chat template applied) and the audios of their placeholders, in reading order.

        Args:
            text: one or several prompts.
            audio: float32 (S,) waveforms, or one alone.
            sampling_rate: of all audios, in hertz; must be the feature extractor's.
            padding_side: "left" to generate, "right" to train.
            return_tensors: "pt" (also for None: rows are padded), or "np".
            **others: what transformers' ``apply_chat_template`` hands on: ``padding`` (always True),
                ``add_special_tokens`` (always False: the template wrote them), ``images`` and ``videos`` (None).

        Returns:
            input_ids (B, N), attention_mask (B, N) and, with audio, input_features and input_features_mask of
            `extract_features`.

        Raises:
            ValueError: bad audio or sampling rate (see `extract_features`), or a setting that is not possible here.
        """
        for name, value in others.items():
            if name not in _ALWAYS or value != _ALWAYS[name]:
                possible = ", ".join(f"{name}={only}" for name, only in _ALWAYS.items())
                raise ValueError(f"{name}: expected at most {possible}, found {name}={value!r}; leave it out")
        texts = [text] if isinstance(text, str) else list(text)
        encoded = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side=padding_side, return_tensors="pt"
        )
        inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
        if audio is not None and len(audio):
            waveforms = [audio] if isinstance(audio, np.ndarray) and audio.ndim == 1 else list(audio)
            inputs |= self.extract_features(waveforms, sampling_rate)
        return BatchFeature(inputs).convert_to_tensors(return_tensors)

    def prepare(
        self, conversations: Sequence[Conversation], sampling_rate: int | None = None, padding_side: str = "left"
    ) -> BatchFeature:
        """Conversations to the inputs of ``generate``: template, generation prompt, tokens, features."""
        texts = [render_chat(self.tokenizer, turns, add_generation_prompt=True) for turns in conversations]
        audios = [
            part["audio"]
            for turns in conversations
            for message in turns
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "audio"
        ]
        return self(texts, audios, sampling_rate, padding_side)

    def extract_features(
        self, waveforms: Sequence[np.ndarray], sampling_rate: int | None, whole_windows: bool = False
    ) -> dict[str, Tensor]:
        """Inputs of the audio tower, each waveform at its own length; see `tower_inputs`.

        Returns:
            input_features (A, mels, T) or, for a tower that reads waveforms, (A, T), float32, padded with 0 on the
            right; input_features_mask (A, T) int64.

        Raises:
            ValueError: another sampling rate, or a waveform that is not (S,) with S >= 1.
        """
        extractor = self.feature_extractor
        if sampling_rate != extractor.sampling_rate:
            raise ValueError(
                f"sampling_rate: expected {extractor.sampling_rate} Hz, found {sampling_rate}; resample the audio"
            )
        features, mask = tower_inputs(extractor, waveforms, whole_windows)
        return {"input_features": features, "input_features_mask": mask}

    def decode_units(self, unit_words: Sequence[int]) -> list[int]:
        """Reduced units of unit words.

        Raises:
            ValueError: this processor has no unit language.
        """
        if self.unit_language is None:
            raise ValueError(f"expected a unit language in this processor, found none; add {UNIT_LANGUAGE_FILE}")
        return self.unit_language.decode_reduced(unit_words)

    @property
    def model_input_names(self) -> list[str]:
        """Names of all inputs that this processor makes."""
        return ["input_ids", "attention_mask", "input_features", "input_features_mask"]

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Settings without the unit language and the recogniser's tokenizer, which have their own files."""
        beside = {name: getattr(self, name) for name in ("unit_language", "recogniser_tokenizer")}
        try:
            for name in beside:
                setattr(self, name, None)
            values = super().to_dict(*args, **kwargs)
        finally:
            for name, part in beside.items():
                setattr(self, name, part)
        return {name: value for name, value in values.items() if name not in beside}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> list[str]:  # type: ignore[override]
        """Write all parts into one folder."""
        written = super().save_pretrained(save_directory, **kwargs)
        # Also as a file of its own, which tools for Whisper read.
        self.feature_extractor.save_pretrained(save_directory)
        if self.unit_language is not None:
            self.unit_language.save_pretrained(save_directory)
        if self.recogniser_tokenizer is not None:
            text = self.recogniser_tokenizer.backend_tokenizer.to_str()
            (Path(save_directory) / RECOGNISER_TOKENIZER_FILE).write_text(text, encoding="utf-8")
        return written

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> EchoXProcessor:  # type: ignore[override]
        """Load what `save_pretrained` wrote; unit language and recogniser's tokenizer only if there is one.

        Code in the folder is not run, unless ``trust_remote_code`` is set.

        Raises:
            OSError: there is no processor, or the hub could not be asked for a part that is not in the cache.
        """
        kwargs.setdefault("trust_remote_code", False)
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        chosen = hub_options(kwargs)
        if _file_of(pretrained_model_name_or_path, UNIT_LANGUAGE_FILE, **chosen) is not None:
            processor.unit_language = AutoUnitLanguage.from_pretrained(pretrained_model_name_or_path, **chosen)
        processor.recogniser_tokenizer = read_recogniser_tokenizer(pretrained_model_name_or_path, **chosen)
        return processor


def read_recogniser_tokenizer(folder_or_id: str | os.PathLike[str], **options: Any) -> PreTrainedTokenizerFast | None:
    """The recogniser's tokenizer of a model folder or repository; None: it has none.

    Args:
        folder_or_id: folder or hub id.
        **options: see `hub_options`.
    """
    path = _file_of(folder_or_id, RECOGNISER_TOKENIZER_FILE, **options)
    return None if path is None else PreTrainedTokenizerFast(tokenizer_file=path)


def _file_of(folder_or_id: str | os.PathLike[str], name: str, **options: Any) -> str | None:
    """A file of a folder or repository; None if there is surely none. Raises OSError if the hub cannot be asked."""
    path: str | None = cached_file(str(folder_or_id), name, _raise_exceptions_for_missing_entries=False, **options)
    return path


for _config in (SpeechEncoderConfig, S2TConfig, EchoXConfig):
    AutoProcessor.register(_config, EchoXProcessor, exist_ok=True)
