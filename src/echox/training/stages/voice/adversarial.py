"""Stage "vocoder" with code-HiFi-GAN: a generator against discriminators.

What is built: :class:`CodeHiFiGAN` and :class:`VocoderDiscriminators`. What is trained: both, and the durations. Its
batches: random parts of utterances as units with their samples, and whole unit sequences for the durations. Its loss:
the sum of the generator's (mel distance + adversarial + feature matching), the durations' and the discriminators'.

One loss and one backward pass train both sides: the discriminators' part reads detached waveforms, and in the
generator's part the discriminators' weights are constants. So each parameter gets the gradient of its own side, and the
loop needs no special case. ``training.clip_by_group`` clips the gradients of the sides separately.

Source: Kong et al. 2020 (arXiv 2010.05646), section 2.4; Polyak et al. 2021 (arXiv 2104.00355).
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from echox.files import save_model
from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig
from echox.models.vocoder.modeling_discriminators import (
    VocoderDiscriminators,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from echox.models.vocoder.modeling_hifigan import CodeHiFiGAN
from echox.models.vocoder.source_filter import SpectralGeometry
from echox.training.batches.normalisation import Denominators, share_of_step
from echox.training.stages.voice.acoustics import AnalysisConfig, envelope, log_spectral_distance_db
from echox.training.stages.voice.spoken_units import (
    CroppedStage,
    SpokenUnits,
    cut_frames,
    read_spoken_units,
    recording,
    unit_batch,
    vocoder_config,
    write_samples,
)
from echox.training.stages.voice.vocoder_recipe import AdversarialConfig, VocoderSettings


@contextmanager
def constant(module: nn.Module) -> Iterator[None]:
    """Within the ``with`` block, the module's weights are constants: they get no gradient."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


class AdversarialObjective(nn.Module):
    """Generator, durations and discriminators.

    Batch: cut_units (B, U), cut_durations_frames (B, U) and waveform (B, S), all of S samples; units and
    durations_frames of the whole utterances.
    """

    def __init__(self, generator: CodeHiFiGAN, config: AdversarialConfig) -> None:
        super().__init__()
        self.generator, self.config = generator, config
        self.discriminators = VocoderDiscriminators(
            config.periods, config.period_channels, config.scales, config.scale_channels
        )
        self.geometry = SpectralGeometry(generator.sampling_rate)

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Samples of the cut waveforms (for all losses of the sound), and units of whole utterances."""
        samples = torch.tensor(batch["waveform"].numel())
        parts = ("mel_loss", "adversarial_loss", "feature_matching_loss", "discriminator_loss")
        return dict.fromkeys(parts, samples) | {"duration_loss": (batch["units"] >= 0).sum()}

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Losses by name; `loss` is their weighted sum."""
        config, real = self.config, batch["waveform"]
        made = self.generator.vocode(batch["cut_units"], batch["cut_durations_frames"])
        discriminating = discriminator_loss(self.discriminators(real), self.discriminators(made.detach()))
        with constant(self.discriminators):
            judged_real, judged_made = self.discriminators(real), self.discriminators(made)
        spoken = batch["units"] >= 0
        off = self.generator.log_durations(batch["units"]).float() - batch["durations_frames"].log1p()
        means = {
            "mel_loss": self._mel_distance(made, real),
            "adversarial_loss": adversarial_loss(judged_made),
            "feature_matching_loss": feature_matching_loss(judged_real, judged_made),
            "duration_loss": (off.square() * spoken).sum() / spoken.sum(),
            "discriminator_loss": discriminating,
        }
        losses = share_of_step(means, self, batch, denominators)
        loss = (
            config.mel_weight * losses["mel_loss"]
            + losses["adversarial_loss"]
            + config.feature_matching_weight * losses["feature_matching_loss"]
            + config.duration_weight * losses["duration_loss"]
            + losses["discriminator_loss"]
        )
        return {"loss": loss, **losses}

    def _mel_distance(self, made: Tensor, real: Tensor) -> Tensor:
        with torch.autocast(made.device.type, enabled=False):  # spectra need float32
            return (self._log_mel(made.float()) - self._log_mel(real.float())).abs().mean()

    def _log_mel(self, waveform: Tensor) -> Tensor:
        return envelope(waveform, self.geometry, _UNSMOOTHED)


_UNSMOOTHED = AnalysisConfig(window_samples=1024, smoothing_hz=0.0)


class AdversarialVocoderStage(CroppedStage):
    """Stage "vocoder" with code-HiFi-GAN; see the module."""

    name = "vocoder"
    model: CodeHiFiGAN
    objective: AdversarialObjective

    def __init__(self, recipe: VocoderSettings) -> None:
        assert recipe.adversarial is not None
        self.recipe = recipe
        self.train_items, self.heldout_items, self.files = read_spoken_units(recipe.data, recipe.training.seed)
        units = 1 + max(max(item.row.units) for item in [*self.train_items, *self.heldout_items])
        torch.manual_seed(recipe.training.seed)
        self.model = CodeHiFiGAN(vocoder_config(CodeHiFiGANConfig, recipe.model.sizes, num_units=units))
        self.crop_frames = int(recipe.data.crop_s * self.model.frame_rate_hz)
        self.objective = AdversarialObjective(self.model, recipe.adversarial)
        self.geometry = self.objective.geometry

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The two sides and the durations, each with its own clipping and learning rate."""
        durations = list(self.model.dur_predictor.parameters())
        of_durations = {id(parameter) for parameter in durations}
        return {
            "generator": [parameter for parameter in self.model.parameters() if id(parameter) not in of_durations],
            "durations": durations,
            "discriminators": list(self.objective.discriminators.parameters()),
        }

    def collate(self, items: list[SpokenUnits], rng: random.Random) -> dict[str, Tensor]:
        """See :class:`AdversarialObjective` for the keys."""
        hop = self.model.config.samples_per_frame
        frames = min(self.crop_frames, *(item.frames for item in items))
        cuts, waveforms = [], []
        for item in items:
            start = rng.randint(0, item.frames - frames)
            cuts.append(cut_frames(item.row, start, frames))
            whole = self._recording(item)
            waveforms.append(whole[start * hop : (start + frames) * hop])
        cut = {f"cut_{name}": value for name, value in unit_batch(cuts).items()}
        whole_units = unit_batch([(item.row.units, item.row.durations_frames) for item in items])
        return {**cut, **whole_units, "waveform": torch.stack(waveforms)}

    def _recording(self, item: SpokenUnits) -> Tensor:
        samples = item.frames * self.model.config.samples_per_frame
        return recording(self.files[item.recording], samples, self.model.sampling_rate)

    def evaluate(self) -> dict[str, float]:
        """Held-out errors of the spectrum with true durations, and of the durations."""
        rows = []
        device = next(self.model.parameters()).device
        for item in self.heldout_items:
            batch = unit_batch([(item.row.units, item.row.durations_frames)])
            units, durations = (value.to(device) for value in batch.values())
            spoken = self.model(units, durations).waveform[0].float().cpu()
            guess = self.model.predict_durations(units)
            distance = log_spectral_distance_db(spoken, self._recording(item), self.geometry, self.recipe.analysis)
            error, ratio = (guess - durations).abs().float().mean(), guess.sum() / durations.sum()
            rows.append((distance, float(error), float(ratio)))
        names = ("log_spectral_distance_db", "duration_error_frames", "duration_ratio")
        return dict(zip(names, np.mean(rows, axis=0).tolist(), strict=True))

    def sample(self, folder: Path) -> None:
        """Held-out utterances as WAV files: the recording, and the vocoder with true and with predicted durations."""
        items = self.heldout_items[: self.recipe.data.sample_items]
        write_samples(folder, self.model, items, [self.files[item.recording] for item in items])

    def save(self, folder: Path) -> None:
        """The generator with folded weights, ready for inference; the discriminators stay in the checkpoints."""
        folded = CodeHiFiGAN(copy.deepcopy(self.model.config))
        folded.load_state_dict(self.model.state_dict())
        save_model(folded.fold_weight_norm(), folder)
