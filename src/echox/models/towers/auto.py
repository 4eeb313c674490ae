"""`AutoAudioTower` and `AutoRecogniser`: the tower and the recogniser of the family that a configuration names."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, SequenceFeatureExtractor

from echox.models.pretrained import hub_options
from echox.models.towers.base import AudioTower, Recogniser, TowerSpec
from echox.models.towers.hubert import HubertTower, Wav2Vec2Tower, WavLMTower
from echox.models.towers.moonshine import MoonshineTower
from echox.models.towers.moonshine_recogniser import MoonshineRecogniser
from echox.models.towers.whisper import WhisperTower

TOWERS: dict[str, type[AudioTower]] = {
    "whisper": WhisperTower,
    "moonshine": MoonshineTower,
    "hubert": HubertTower,
    "wav2vec2": Wav2Vec2Tower,
    "wavlm": WavLMTower,
}
"""Towers by the ``model_type`` of their configuration."""

RECOGNISERS: dict[str, type[MoonshineRecogniser]] = {"moonshine": MoonshineRecogniser}
"""Recognisers by the ``model_type`` of their tower's configuration."""


class AutoAudioTower:
    """Facts about, and makes or loads, the tower of a configuration's family."""

    @staticmethod
    def kind(config: PreTrainedConfig) -> type[AudioTower]:
        """The class.

        Raises:
            ValueError: no tower of this family.
        """
        found = TOWERS.get(config.model_type)
        if found is None:
            raise ValueError(
                f"audio_config: expected model_type {', '.join(TOWERS)}, found {config.model_type!r}; name a "
                "checkpoint of one of these families"
            )
        return found

    @staticmethod
    def spec(config: PreTrainedConfig) -> TowerSpec:
        """Frames per second, width, inputs and limits, without building it."""
        return AutoAudioTower.kind(config).spec_of(config)

    @staticmethod
    def feature_extractor(config: PreTrainedConfig) -> SequenceFeatureExtractor:
        """The feature extractor of its inputs."""
        return AutoAudioTower.kind(config).feature_extractor_of(config)

    @staticmethod
    def from_config(config: PreTrainedConfig) -> AudioTower:
        """A tower with new weights."""
        return AutoAudioTower.kind(config)(config)

    @staticmethod
    def from_checkpoint(name_or_path: str | os.PathLike[str], **kwargs: Any) -> AudioTower:
        """The encoder of a published checkpoint, in eval mode; see `AudioTower.from_checkpoint`.

        Raises:
            ValueError: a checkpoint of another family, or one without all weights of an encoder.
        """
        config = AutoConfig.from_pretrained(name_or_path, **hub_options(kwargs))
        if config.model_type not in TOWERS:
            raise ValueError(
                f"{name_or_path}: expected a checkpoint of {', '.join(TOWERS)}, found model type {config.model_type!r}"
            )
        return TOWERS[config.model_type].from_checkpoint(name_or_path, **kwargs)


class AutoRecogniser:
    """Makes the recogniser of a tower's family."""

    @staticmethod
    def from_config(config: PreTrainedConfig) -> Recogniser:
        """A recogniser with new weights.

        Raises:
            ValueError: this family has none.
        """
        found = RECOGNISERS.get(config.model_type)
        if found is None:
            raise ValueError(
                f"aligner 'recogniser': expected a tower of {', '.join(RECOGNISERS)}, found {config.model_type!r}; use "
                "aligner 'ctc'"
            )
        return found(config)
