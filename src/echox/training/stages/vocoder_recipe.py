"""Settings of stage "vocoder", for both of its vocoders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from echox.config import TrainingConfig
from echox.data.acoustics import AnalysisConfig
from echox.files import JsonObject
from echox.training.stages.spoken_units import VocoderData


@dataclass
class VocoderModel:
    """Which vocoder; `sizes` are arguments of its configuration (`configuration_vocoder.py`)."""

    kind: Literal["light", "code_hifigan"] = "light"
    sizes: JsonObject = field(default_factory=dict)


@dataclass
class VocoderLossWeights:
    """Weights of the parts of the light vocoder's loss."""

    mel: float = 1.0
    f0: float = 0.2
    voicing: float = 0.3
    duration: float = 0.3


@dataclass
class AdversarialConfig:
    """Sizes of the discriminators and weights of the losses of code-HiFi-GAN (Kong et al. 2020, section 2.4)."""

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    scales: int = 3
    scale_channels: int = 128
    mel_weight: float = 45.0
    feature_matching_weight: float = 2.0
    duration_weight: float = 1.0


@dataclass
class VocoderSettings:
    """Settings that both stages read: `adversarial` is for ``kind: code_hifigan``, `analysis` and `weights` for light.

    Raises:
        ValueError: `adversarial` does not go with ``model.kind``.
    """

    stage: str
    data: VocoderData
    training: TrainingConfig
    model: VocoderModel = field(default_factory=VocoderModel)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    weights: VocoderLossWeights = field(default_factory=VocoderLossWeights)
    adversarial: AdversarialConfig | None = None

    def __post_init__(self) -> None:
        if (self.adversarial is not None) != (self.model.kind == "code_hifigan"):
            raise ValueError(
                "adversarial: expected this section for model.kind: code_hifigan and only there, found "
                f"model.kind: {self.model.kind}"
            )
