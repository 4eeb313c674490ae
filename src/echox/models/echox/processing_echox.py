"""`EchoXProcessor`: conversations of text and speech to model inputs, and unit words to units.

It is saved in one folder: Whisper's feature extractor, the text tokenizer with the chat template, the unit language.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase, ProcessorMixin, WhisperFeatureExtractor

from echox.models.echox.configuration_echox import EchoXConfig, S2TConfig, SpeechEncoderConfig
from echox.models.echox.tokenization_text import render_chat
from echox.models.t2c.tokenization_auto import AutoUnitLanguage
from echox.models.t2c.tokenization_unit_language import UNIT_LANGUAGE_FILE, UnitLanguage

Conversation = Sequence[Mapping[str, Any]]
"""Messages ``{"role": ..., "content": ...}``: content is a string, or a list of parts ``{"type": "text", "text": str}``
and ``{"type": "audio", "audio": samples (S,)}``."""


class EchoXProcessor(ProcessorMixin):
    """Feature extractor, tokenizer (with chat template) and, where the model speaks, unit language.

    Args:
        feature_extractor: Whisper's; its number of mel bins must be the audio tower's.
        tokenizer: the language model's, with an audio placeholder token.
        unit_language: unit words of the echo decoder; None for a model without speech.
        chat_template: None = the tokenizer's.
    """

    def __init__(
        self,
        feature_extractor: WhisperFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        unit_language: UnitLanguage | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template or tokenizer.chat_template)
        self.unit_language = unit_language

    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str],
        audio: Sequence[np.ndarray] | None = None,
        sampling_rate: int | None = None,
        padding_side: str = "left",
    ) -> BatchFeature:
        """Texts (chat template applied) and the audios of their placeholders, in reading order.

        Args:
            text: one or several prompts.
            audio: float32 (S,) waveforms.
            sampling_rate: of all audios, in hertz; must be the feature extractor's.
            padding_side: "left" to generate, "right" to train.

        Returns:
            input_ids (B, N), attention_mask (B, N) and, with audio, input_features (A, mels, T) and
            input_features_mask (A, T).

        Raises:
            ValueError: bad audio or sampling rate (see `extract_features`).
        """
        texts = [text] if isinstance(text, str) else list(text)
        encoded = self.tokenizer(
            texts, add_special_tokens=False, padding=True, padding_side=padding_side, return_tensors="pt"
        )
        inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
        if audio:
            inputs |= self.extract_features(audio, sampling_rate)
        return BatchFeature(inputs)

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
        """Log-mel features, each waveform at its own length (the last partial frame is filled with silence).

        Every waveform is analysed alone, so that its features do not depend on the batch. With ``whole_windows``
        (`Compatibility.fixed_windows`) the last window of 30 s is filled with silence too.

        Returns:
            input_features (A, mels, T) float32, padded with 0 on the right; input_features_mask (A, T) int64.

        Raises:
            ValueError: another sampling rate, or a waveform that is not (S,) with S >= 1.
        """
        extractor = self.feature_extractor
        if sampling_rate != extractor.sampling_rate:
            raise ValueError(
                f"sampling_rate: expected {extractor.sampling_rate} Hz, found {sampling_rate}; resample the audio"
            )
        rows = []
        for waveform in waveforms:
            samples = np.asarray(waveform, dtype=np.float32)
            if samples.ndim != 1 or samples.size == 0:
                raise ValueError(f"audio: expected samples (S,), at least one, found shape {samples.shape}")
            # The extractor drops a partial hop, and its reflection at the ends needs at least two hops.
            hops = max(-(-len(samples) // extractor.hop_length), 2)
            if whole_windows:
                hops = -(-hops // extractor.nb_max_frames) * extractor.nb_max_frames
            samples = np.pad(samples, (0, hops * extractor.hop_length - len(samples)))
            features = extractor(
                samples, sampling_rate=sampling_rate, padding="longest", truncation=False, return_tensors="pt"
            )
            rows.append(features["input_features"][0].T)
        lengths = torch.tensor([len(row) for row in rows])
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).transpose(1, 2).contiguous()
        mask = (torch.arange(padded.shape[2]) < lengths[:, None]).long()
        return {"input_features": padded, "input_features_mask": mask}

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
        """Settings without the unit language, which has its own file."""
        language, self.unit_language = self.unit_language, None
        try:
            values = super().to_dict(*args, **kwargs)
        finally:
            self.unit_language = language
        values.pop("unit_language", None)
        return values

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> list[str]:  # type: ignore[override]
        """Write all parts into one folder."""
        written = super().save_pretrained(save_directory, **kwargs)
        # Also as a file of its own, which tools for Whisper read.
        self.feature_extractor.save_pretrained(save_directory)
        if self.unit_language is not None:
            self.unit_language.save_pretrained(save_directory)
        return written

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> EchoXProcessor:  # type: ignore[override]
        """Load what `save_pretrained` wrote; the unit language only if there is one.

        Code in the folder is not run, unless ``trust_remote_code`` is set.
        """
        kwargs.setdefault("trust_remote_code", False)
        processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir() or (folder / UNIT_LANGUAGE_FILE).exists():
            keys = ("revision", "cache_dir", "subfolder")
            chosen = {key: value for key, value in kwargs.items() if key in keys}
            try:
                processor.unit_language = AutoUnitLanguage.from_pretrained(pretrained_model_name_or_path, **chosen)
            except OSError:
                if folder.is_dir():
                    raise
                processor.unit_language = None  # a repository of a model without speech
        return processor


for _config in (SpeechEncoderConfig, S2TConfig, EchoXConfig):
    AutoProcessor.register(_config, EchoXProcessor, exist_ok=True)
