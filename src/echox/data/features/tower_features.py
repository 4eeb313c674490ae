"""The features of one audio tower: made for a corpus, varied in training, and padded to batches.

Letters: A audios, T inputs along time (mel frames or samples), S samples.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from echox.data.features.corpus_features import (
    MEL_FRAMES_PER_S,
    AugmentationConfig,
    Features,
    FeatureStore,
    augment,
    feature_store,
    pad_features,
)
from echox.data.features.waveform_augmentation import augment_waveform
from echox.models.towers.auto import AutoAudioTower
from echox.models.towers.features import tower_inputs


class TowerFeatures:
    """What a tower reads, for training and measuring.

    Args:
        audio_config: of the tower.
    """

    def __init__(self, audio_config: PreTrainedConfig) -> None:
        self.spec = AutoAudioTower.spec(audio_config)
        self.extractor = AutoAudioTower.feature_extractor(audio_config)

    def store(self, files: Sequence[Path], folder: Path, name: str, as_served: bool = False) -> FeatureStore:
        """Features of files, computed once and kept in a folder; see `feature_store`."""
        mels = self.spec.num_mel_bins
        kind = "waveforms" if mels is None else f"{mels}mels"
        return feature_store(files, folder / f"{name}-{kind}.npy", mels, as_served=as_served)

    def mel_frames(self, count: int) -> int:
        """Hundredths of a second of so many inputs: the unit of lengths in recipes, whatever the tower reads."""
        return round(count * MEL_FRAMES_PER_S / self.spec.inputs_per_s)

    def augmented(self, features: Tensor, config: AugmentationConfig, rng: random.Random) -> Tensor:
        """A varied copy of one audio's features: (T, mels), or (S, 1)."""
        if self.spec.num_mel_bins is not None:
            return augment(features, config, rng)
        return augment_waveform(features[:, 0], config, rng)[:, None]

    def batch(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """``input_features`` and ``input_features_mask`` (see `AudioTower.forward`) of A audios."""
        if self.spec.num_mel_bins is not None:
            return pad_features(features)
        return tower_inputs(self.extractor, [np.asarray(item[:, 0]) for item in features])


def item_features(store: Features, row: int) -> Tensor:
    """(T, mels) or (S, 1), float32, of one item."""
    return torch.from_numpy(np.array(store[row], dtype=np.float32))
