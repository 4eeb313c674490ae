"""Stage "vocoder" with the iSTFT vocoder against discriminators, once its features are learned (`light_vocoder.py`).

What is built: the :class:`ISTFTVocoder` of ``model.start_from`` (or a new one) and :class:`VocoderDiscriminators`.
What is trained: both. Its batches: those of the features' stage, and a short stretch of each utterance's samples. Its
loss: the sum of the generator's (mel distance at three resolutions + adversarial + feature matching), the features' and
the discriminators'; as in `adversarial.py`, one backward pass trains both sides.

The stretch is spoken with the recording's own pitch and voicing: then it can be compared with the recording, and what
is learned is the sound of a given pitch. Pitch itself is learned by its own loss.

Source: as `adversarial.py`; the recording's pitch in training as in FastSpeech 2s (arXiv 2006.04558).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from echox.models.vocoder.modeling_discriminators import (
    VocoderDiscriminators,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
)
from echox.models.vocoder.modeling_light_vocoder import LightVocoderFeatures
from echox.models.vocoder.source_filter import SpectralGeometry
from echox.training.batches.normalisation import Denominators, share_of_step
from echox.training.stages.voice.acoustics import AnalysisConfig, envelope
from echox.training.stages.voice.adversarial import constant
from echox.training.stages.voice.light_vocoder import LightVocoderObjective, LightVocoderStage
from echox.training.stages.voice.spoken_units import SpokenUnits
from echox.training.stages.voice.vocoder_recipe import AdversarialConfig, VocoderSettings


class AdversarialISTFTObjective(nn.Module):
    """Generator with its features' losses, and discriminators.

    Batch: as `LightVocoderObjective`; waveform (B, S): the samples of the judged stretches; judged_from (B,): the
    feature frame at which each begins.
    """

    def __init__(self, acoustics: LightVocoderObjective, config: AdversarialConfig) -> None:
        super().__init__()
        self.acoustics, self.config = acoustics, config
        self.discriminators = VocoderDiscriminators(
            config.periods,
            config.period_channels,
            config.scales,
            config.scale_channels,
            config.resolutions,
            config.resolution_channels,
        )
        rate = acoustics.model.sampling_rate
        self.views = [
            (SpectralGeometry(rate, size // 4, size, bins), AnalysisConfig(window_samples=size, smoothing_hz=0.0))
            for size, bins in _MEL_VIEWS
        ]

    def denominators(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of the features' losses, theirs; of those of the sound, judged samples."""
        samples = torch.tensor(batch["waveform"].numel())
        parts = ("spectral_loss", "adversarial_loss", "feature_matching_loss", "discriminator_loss")
        return self.acoustics.denominators(batch) | dict.fromkeys(parts, samples)

    def forward(self, batch: dict[str, Tensor], denominators: Denominators | None = None) -> dict[str, Tensor]:
        """Losses by name; `loss` is their weighted sum."""
        config, real = self.config, batch["waveform"]
        said = self.acoustics.model.features(batch["units"], batch["durations_frames"])
        made = self._speak(said, batch)
        judged_real = self.discriminators(real)
        discriminating = discriminator_loss(judged_real, self.discriminators(made.detach()))
        with constant(self.discriminators):
            judged_made = self.discriminators(made)
        means = {
            **self.acoustics.parts(said, batch),
            "spectral_loss": self._mel_distance(made, real),
            "adversarial_loss": adversarial_loss(judged_made),
            "feature_matching_loss": feature_matching_loss(judged_real, judged_made),
            "discriminator_loss": discriminating,
        }
        losses = share_of_step(means, self, batch, denominators)
        loss = (
            config.acoustic_weight * self.acoustics.weighted(losses)
            + config.mel_weight * losses["spectral_loss"]
            + losses["adversarial_loss"]
            + config.feature_matching_weight * losses["feature_matching_loss"]
            + losses["discriminator_loss"]
        )
        return {"loss": loss, **losses}

    def _speak(self, said: LightVocoderFeatures, batch: dict[str, Tensor]) -> Tensor:
        """(B, S) the judged stretches, with what is needed before and after them to sound as in the whole."""
        geometry = self.acoustics.model.config.geometry()
        before, after = geometry.context_frames, 2
        count = batch["waveform"].shape[1] // geometry.hop_samples + before + after
        first = batch["judged_from"] - before
        place = first[:, None] + torch.arange(count, device=said.f0_hz.device)
        inside = (place >= 0) & (place < said.inside.shape[1])
        place = place.clamp(0, said.inside.shape[1] - 1)
        row = torch.arange(len(place), device=place.device)[:, None]
        assert said.bands is not None
        part = LightVocoderFeatures(
            said.log_mel[row, place],
            said.f0_hz[row, place],
            said.voicing[row, place],
            said.inside[row, place] & inside,
            said.bands[row, place],
        )
        waveform = self.acoustics.model.speak(
            part, batch["f0_hz"][row, place], batch["voiced"][row, place].float(), first
        )
        hop = geometry.hop_samples
        return waveform[:, before * hop : before * hop + batch["waveform"].shape[1]]

    def _mel_distance(self, made: Tensor, real: Tensor) -> Tensor:
        with torch.autocast(made.device.type, enabled=False):  # spectra need float32
            pair = torch.stack([made.float(), real.float()])
            views = [envelope(pair, *view).clamp_min(_FLOOR) for view in self.views]
            return torch.stack([(made - real).abs().mean() for made, real in views]).mean()


_MEL_VIEWS = ((256, 32), (512, 64), (1024, 80))
"""FFT size and mel bands of each spectrogram of the mel distance."""
_FLOOR = -14.0
"""Least log power density that the mel distance tells from silence."""


class AdversarialISTFTStage(LightVocoderStage):
    """Stage "vocoder" with the iSTFT vocoder and discriminators; see the module."""

    objective: AdversarialISTFTObjective

    def __init__(self, recipe: VocoderSettings) -> None:
        assert recipe.adversarial is not None
        super().__init__(recipe)
        self.adversarial = recipe.adversarial
        self.objective = AdversarialISTFTObjective(self.acoustics, recipe.adversarial)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The two sides, each with its own clipping and learning rate."""
        return {
            "generator": list(self.model.parameters()),
            "discriminators": list(self.objective.discriminators.parameters()),
        }

    def _batch(
        self, cuts: list[tuple[SpokenUnits, Sequence[int], Sequence[int], int]], rng: random.Random
    ) -> dict[str, Tensor]:
        """Adds the judged stretches: as many frames of each utterance as all have, from a random one on."""
        batch = super()._batch(cuts, rng)
        frames = min(self.adversarial.judged_frames, *(sum(durations) for _, _, durations, _ in cuts))
        hop, per_frame = self.model.config.samples_per_frame, self.model.config.features_per_frame
        stretches, places = [], []
        for item, _, durations, start in cuts:
            first = rng.randint(0, sum(durations) - frames)
            whole = self._recording(item, self.model.config)
            stretches.append(whole[(start + first) * hop : (start + first + frames) * hop])
            places.append(first * per_frame)
        return {**batch, "waveform": torch.stack(stretches), "judged_from": torch.tensor(places)}
