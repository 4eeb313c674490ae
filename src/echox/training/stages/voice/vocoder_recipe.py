"""Settings of stage "vocoder", for both of its vocoders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from echox.config import TrainingConfig
from echox.files import JsonObject
from echox.training.stages.voice.acoustics import AnalysisConfig
from echox.training.stages.voice.spoken_units import VocoderData


@dataclass
class VocoderModel:
    """Which vocoder; `sizes` are arguments of its configuration (`configuration_vocoder.py`).

    Attributes:
        start_from: folder of a trained vocoder of the same units to continue from (kind istft); its configuration
            holds instead of `sizes`.
    """

    kind: Literal["light", "istft", "code_hifigan"] = "light"
    sizes: JsonObject = field(default_factory=dict)
    start_from: str | None = None


@dataclass
class VocoderLossWeights:
    """Weights of the parts of the light vocoder's loss."""

    mel: float = 1.0
    f0: float = 0.2
    voicing: float = 0.3
    duration: float = 0.3


@dataclass
class AdversarialConfig:
    """Sizes of the discriminators and weights of the losses (Kong et al. 2020, section 2.4).

    Attributes:
        resolutions: FFT sizes of the spectrogram discriminators. resolution_channels: of their layers.
        judged_frames: unit frames of each utterance that become sound and are judged, for kind istft.
        acoustic_weight: of the losses of envelope, pitch, voicing and durations (`VocoderLossWeights`), for kind istft.
    """

    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    period_channels: tuple[int, ...] = (32, 128, 512, 1024, 1024)
    scales: int = 3
    scale_channels: int = 128
    resolutions: tuple[int, ...] = ()
    resolution_channels: int = 32
    judged_frames: int = 32
    acoustic_weight: float = 1.0
    mel_weight: float = 45.0
    feature_matching_weight: float = 2.0
    duration_weight: float = 1.0


@dataclass
class VocoderSettings:
    """Settings that all vocoders' stages read: `analysis` and `weights` are for the kinds light and istft.

    Attributes:
        adversarial: for ``kind: code_hifigan``, and for istft once its features are learned; None: features only.

    Raises:
        ValueError: `adversarial` or ``model.start_from`` does not go with ``model.kind``.
    """

    stage: str
    data: VocoderData
    training: TrainingConfig
    model: VocoderModel = field(default_factory=VocoderModel)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    weights: VocoderLossWeights = field(default_factory=VocoderLossWeights)
    adversarial: AdversarialConfig | None = None

    def __post_init__(self) -> None:
        kind = self.model.kind
        if kind != "istft" and (self.adversarial is not None) != (kind == "code_hifigan"):
            raise ValueError(
                "adversarial: expected this section for model.kind: code_hifigan (or istft) and only there, found "
                f"model.kind: {kind}"
            )
        if self.model.start_from is not None and kind != "istft":
            raise ValueError(f"model.start_from: expected model.kind: istft, found {kind}; leave it out")
