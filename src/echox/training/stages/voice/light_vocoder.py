"""Stage "vocoder" with the light vocoder, and with the iSTFT vocoder before it meets discriminators: its features.

What is built: a :class:`LightVocoder` or an :class:`ISTFTVocoder`. What is trained: all of it. Its batches: whole
utterances (cut when long) as reduced units with their true durations, and their analysis by `acoustics.py`. Its loss:
absolute error of the normalised log-mel envelope + pitch where voiced + voicing + log durations.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from echox.files import JsonObject, save_model
from echox.models.vocoder.auto import AutoUnitVocoder
from echox.models.vocoder.configuration_vocoder import ISTFTVocoderConfig, LightVocoderConfig
from echox.models.vocoder.modeling_light_vocoder import LightVocoder, LightVocoderFeatures
from echox.models.vocoder.modeling_unit_vocoder import frame_positions
from echox.training.batches.normalisation import Denominators, share_of_step
from echox.training.stages.voice.acoustics import acoustic_targets, log_spectral_distance_db
from echox.training.stages.voice.spoken_units import (
    CroppedStage,
    SpokenUnits,
    cut_units,
    read_spoken_units,
    recording,
    unit_batch,
    vocoder_config,
    write_samples,
)
from echox.training.stages.voice.vocoder_recipe import VocoderLossWeights, VocoderSettings


class LightVocoderObjective(nn.Module):
    """Envelope, pitch, voicing and durations.

    Batch: units, durations_frames (`unit_batch`); log_mel (B, T, mels), f0_hz (B, T), voiced (B, T) bool.
    """

    log_mel_std: Tensor

    def __init__(self, model: LightVocoder, weights: VocoderLossWeights) -> None:
        super().__init__()
        self.model, self.weights = model, weights
        self.register_buffer("log_mel_std", torch.tensor(model.config.log_mel_std), persistent=False)

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Frames of features, voiced ones, and units."""
        frames = batch["durations_frames"].sum() * self.model.config.features_per_frame
        voiced, units = batch["voiced"].sum(), (batch["units"] >= 0).sum()
        return {"mel_loss": frames, "f0_loss": voiced, "voicing_loss": frames, "duration_loss": units}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Losses by name; `loss` is their weighted sum."""
        said = self.model.features(batch["units"], batch["durations_frames"])
        losses = share_of_step(self.parts(said, batch), self, batch, denominators)
        return {"loss": self.weighted(losses), **losses}

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the losses that `parts` names."""
        names = ("mel", "f0", "voicing", "duration")
        return torch.stack([getattr(self.weights, name) * losses[f"{name}_loss"] for name in names]).sum()

    def parts(self, said: LightVocoderFeatures, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Means by name; `mel_loss` and `f0_loss` in units of the training data's standard deviation."""
        units, durations = batch["units"], batch["durations_frames"]
        log_durations = self.model.duration_predictor(units).float()
        spoken = units >= 0
        voiced = batch["voiced"] & said.inside
        off_pitch = (said.f0_hz / batch["f0_hz"]).log() / self.model.config.log_f0_std
        pitch_error = nn.functional.smooth_l1_loss(off_pitch, torch.zeros_like(off_pitch), reduction="none")
        voicing_error = nn.functional.binary_cross_entropy_with_logits(
            said.voicing, batch["voiced"].float(), reduction="none"
        )
        return {
            "mel_loss": _mean_where(((said.log_mel - batch["log_mel"]).abs() / self.log_mel_std).mean(-1), said.inside),
            "f0_loss": _mean_where(pitch_error, voiced),
            "voicing_loss": _mean_where(voicing_error, said.inside),
            "duration_loss": _mean_where((log_durations - durations.clamp_min(1).log()).abs(), spoken),
        }


class LightVocoderStage(CroppedStage):
    """Stage "vocoder" with the light or the iSTFT vocoder; see the module.

    Raises:
        ValueError: no voiced speech; sizes that the vocoder does not know; a vocoder to start from that is another.
    """

    name = "vocoder"
    model: LightVocoder
    objective: nn.Module

    def __init__(self, recipe: VocoderSettings) -> None:
        self.recipe = recipe
        self.train_items, self.heldout_items, self.files = read_spoken_units(recipe.data, recipe.training.seed)
        units = 1 + max(max(item.row.units) for item in [*self.train_items, *self.heldout_items])
        start = recipe.model.start_from
        begun = None if start is None else _started(start, units, recipe.model.sizes)
        kind = ISTFTVocoderConfig if recipe.model.kind == "istft" else LightVocoderConfig
        sizes = vocoder_config(kind, recipe.model.sizes, num_units=units) if begun is None else begun.config
        self.geometry = sizes.geometry()
        self._analyse(sizes)
        torch.manual_seed(recipe.training.seed)
        self.model = self._new(kind, units) if begun is None else begun
        self.crop_frames = int(recipe.data.crop_s * self.model.frame_rate_hz)
        self.acoustics = LightVocoderObjective(self.model, recipe.weights)
        self.objective = self.acoustics

    def _new(self, kind: type[LightVocoderConfig], units: int) -> LightVocoder:
        """A vocoder with new weights and the statistics of the training data."""
        mean, std, f0_mean_hz, log_f0_std = self._statistics()
        measured = {"log_mel_mean": mean, "log_mel_std": std, "f0_mean_hz": f0_mean_hz, "log_f0_std": log_f0_std}
        vocoder = AutoUnitVocoder.from_config(
            vocoder_config(kind, self.recipe.model.sizes, num_units=units, **measured)
        )
        assert isinstance(vocoder, LightVocoder)
        return vocoder

    def _analyse(self, sizes: LightVocoderConfig) -> None:
        """Compute all targets, one utterance after the other in three arrays: 60 MB an hour."""
        items = [*self.train_items, *self.heldout_items]
        lengths = [item.frames * sizes.features_per_frame for item in items]
        self.offsets = np.cumsum([0, *lengths])
        self.log_mel = np.empty((self.offsets[-1], sizes.num_mel_bins), dtype=np.float16)
        self.f0_hz = np.empty(self.offsets[-1], dtype=np.float32)
        self.voiced = np.empty(self.offsets[-1], dtype=bool)
        for item, begin, end in zip(items, self.offsets[:-1], self.offsets[1:], strict=True):
            found = acoustic_targets(self._recording(item, sizes), self.geometry, self.recipe.analysis)
            self.log_mel[begin:end] = found.log_mel.numpy()
            self.f0_hz[begin:end], self.voiced[begin:end] = found.f0_hz.numpy(), found.voiced.numpy()

    def _recording(self, item: SpokenUnits, sizes: LightVocoderConfig) -> Tensor:
        return recording(self.files[item.recording], item.frames * sizes.samples_per_frame, sizes.sampling_rate)

    def _statistics(self) -> tuple[list[float], list[float], float, float]:
        """Mean and standard deviation of each mel band, and of the pitch, over the training items."""
        end = self.offsets[len(self.train_items)]
        chosen = np.random.default_rng(0).integers(0, end, 100_000)  # precise to three digits
        bands = self.log_mel[chosen].astype(np.float64)
        pitch = np.log(self.f0_hz[chosen][self.voiced[chosen]].astype(np.float64))
        if not len(pitch):
            raise ValueError(
                "analysis: expected voiced speech, found none; set f0_min_hz and f0_max_hz to the range of this voice"
            )
        spread = np.maximum(bands.std(0), 0.1).round(4).tolist()
        return bands.mean(0).round(4).tolist(), spread, float(np.exp(pitch.mean())), max(float(pitch.std()), 0.01)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """One group."""
        return {"vocoder": list(self.model.parameters())}

    def collate(self, items: list[SpokenUnits], rng: random.Random) -> dict[str, Tensor]:
        """See :class:`LightVocoderObjective` for the keys."""
        return self._batch([(item, *cut_units(item.row, self.crop_frames, rng)) for item in items], rng)

    def _batch(
        self, cuts: list[tuple[SpokenUnits, Sequence[int], Sequence[int], int]], rng: random.Random
    ) -> dict[str, Tensor]:
        """A batch from items with the units, the durations and the first frame of their cuts."""
        places = []
        for item, _, durations, start in cuts:
            begin = int(self.offsets[item.recording]) + start * self._per_frame
            places.append(slice(begin, begin + sum(durations) * self._per_frame))
        padded, no_pitch_hz = nn.utils.rnn.pad_sequence, self.model.config.f0_mean_hz
        return {
            **unit_batch([(units, durations) for _, units, durations, _ in cuts]),
            "log_mel": padded([torch.from_numpy(self.log_mel[place].astype(np.float32)) for place in places], True),
            "f0_hz": padded([torch.from_numpy(self.f0_hz[place]) for place in places], True, no_pitch_hz),
            "voiced": padded([torch.from_numpy(self.voiced[place]) for place in places], True),
        }

    @property
    def _per_frame(self) -> int:
        return self.model.config.features_per_frame

    def evaluate(self) -> dict[str, float]:
        """Mean over held-out utterances of `_measure`."""
        measured = [self._measure(item) for item in self.heldout_items]
        return {name: float(np.mean([row[name] for row in measured])) for name in measured[0]}

    def _measure(self, item: SpokenUnits) -> dict[str, float]:
        """Errors with true durations, of the durations, and (each unit averaged over time) with predicted ones."""
        device = next(self.model.parameters()).device
        batch = self._batch([(item, item.row.units, item.row.durations_frames, 0)], random.Random(0))
        batch = {name: value.to(device) for name, value in batch.items()}
        units, durations, truth = (batch[name] for name in ("units", "durations_frames", "log_mel"))
        losses = {f"heldout_{name}": float(value) for name, value in self.acoustics(batch).items()}
        said = self.model.features(units, durations)
        guess = self.model.predict_durations(units)
        of_units = {
            name: _unit_means(mel, frames, self._per_frame)
            for name, mel, frames in (
                ("truth", truth, durations),
                ("true", said.log_mel, durations),
                ("predicted", self.model.features(units, guess).log_mel, guess),
            )
        }
        spoken = self.model(units, durations).waveform[0].float().cpu()
        original = self._recording(item, self.model.config)
        return {
            **losses,
            **{name: float(value) for name, value in feature_errors(said, batch).items()},
            "mel_error_of_units_db": _DB * float((of_units["true"] - of_units["truth"]).abs().mean()),
            "mel_error_of_units_predicted_durations_db": _DB
            * float((of_units["predicted"] - of_units["truth"]).abs().mean()),
            "duration_error_frames": float((guess - durations).abs().float().mean()),
            "duration_ratio": float(guess.sum() / durations.sum()),
            "log_spectral_distance_db": log_spectral_distance_db(spoken, original, self.geometry, self.recipe.analysis),
        }

    def sample(self, folder: Path) -> None:
        """Held-out utterances as WAV files: the recording, and the vocoder with true and with predicted durations."""
        items = self.heldout_items[: self.recipe.data.sample_items]
        write_samples(folder, self.model, items, [self.files[item.recording] for item in items])

    def save(self, folder: Path) -> None:
        """The model."""
        save_model(self.model, folder)


def _started(folder: str, units: int, sizes: JsonObject) -> LightVocoder:
    """The trained vocoder to continue from. Raises ValueError: see `LightVocoderStage`."""
    vocoder = AutoUnitVocoder.from_pretrained(folder)
    if not isinstance(vocoder, LightVocoder) or vocoder.config.num_units < units:
        found = f"{type(vocoder).__name__} of {vocoder.config.num_units} units"
        raise ValueError(f"{folder}: expected a trained iSTFT vocoder of {units} units, found {found}")
    if sizes:
        raise ValueError(f"model.sizes: expected none beside start_from (those of {folder} hold), found {sizes}")
    return vocoder.train()


_DB = 10 / math.log(10)
"""One neper of power in decibels."""


def feature_errors(said: LightVocoderFeatures, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of one utterance: mean error of the envelope, of the pitch where the truth is voiced, and share of wrong voicing.

    Args:
        said: of the vocoder, with the durations of the truth.
        batch: the truth, with the keys of :class:`LightVocoderObjective`.
    """
    return {
        "mel_error_db": _DB * (said.log_mel - batch["log_mel"]).abs().mean(),
        "f0_error_hz": _mean_where((said.f0_hz - batch["f0_hz"]).abs(), batch["voiced"]),
        "voicing_error": ((said.voicing > 0) != batch["voiced"]).float().mean(),
    }


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean over True positions; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp_min(1)


def _unit_means(features: Tensor, durations_frames: Tensor, per_frame: int) -> Tensor:
    """(1, T, D) features of one utterance averaged over each of its units: (U, D)."""
    unit_of_frame = frame_positions(durations_frames)[0][0].repeat_interleave(per_frame)
    sums = features.new_zeros(durations_frames.shape[1], features.shape[-1]).index_add_(0, unit_of_frame, features[0])
    return sums / (durations_frames[0, :, None] * per_frame)
