"""Unit vocoders: reduced units -> durations -> waveform. The common interface, and the light vocoder that nano ships.

Shapes: B utterances, U reduced units (padded with -1), F unit frames (50/s), T feature frames (100/s), S samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from echox.models.vocoder.configuration_vocoder import LightVocoderConfig, UnitVocoderConfig
from echox.models.vocoder.source_filter import SynthesisState, breath, last_of, synthesise, synthesise_next


@dataclass
class VocoderOutput(ModelOutput):
    """What a vocoder says.

    Attributes:
        waveform: (B, S) float32, zero beyond each row's length.
        waveform_lengths: (B,) samples: exactly the sum of the row's durations times the samples of a frame.
        durations_frames: (B, U) int64, 0 at padding; U counts the units that are not negative.
    """

    waveform: Tensor | None = None
    waveform_lengths: Tensor | None = None
    durations_frames: Tensor | None = None


class NewFrames(NamedTuple):
    """Unit frames with which rows of speech go on, padded on the right.

    Attributes:
        units: (B, N) the unit of each frame, -1 after the end of the speech.
        elapsed: (B, N) frames since the unit began. durations: (B, N) frames of the unit, at least 1.
        starts: (B,) absolute place of the first.
        totals: (B,) frames of the whole speech; the largest integer while it goes on.
        counts: (B,) frames that are meant in each row; None = all N.
        inner: whether all that these frames complete lies within the speech, away from its beginning and its end.
    """

    units: Tensor
    elapsed: Tensor
    durations: Tensor
    starts: Tensor
    totals: Tensor
    counts: Tensor | None
    inner: bool


class UnitVocoder(PreTrainedModel, ABC):
    """Interface of all unit vocoders: `forward`, `predict_durations`, `sampling_rate`, `frame_rate_hz`.

    A row of a padded batch gives what the row gives alone. Subclasses implement `predict_durations`, `vocode`, and for
    speech in parts (`vocoder_stream.VocoderStream`) `begin` and `go_on`: state comes in and goes out, none stays here.
    """

    config_class: type[UnitVocoderConfig] = UnitVocoderConfig
    main_input_name = "units"

    @property
    def sampling_rate(self) -> int:
        """Of the waveform, Hz."""
        return self.config.sampling_rate

    @property
    def frame_rate_hz(self) -> int:
        """Unit frames per second."""
        return self.config.frame_rate_hz

    def forward(
        self, units: Tensor, durations_frames: Tensor | None = None, speaker_ids: Tensor | None = None
    ) -> VocoderOutput:
        """Speak reduced units.

        Args:
            units: (B, U) int64 ids; negative ones (padding, wherever they are) are dropped.
            durations_frames: (B, U) frames of each unit, at least 1; None = predicted.
            speaker_ids: (B,) int64, for a vocoder of several voices; None = its default voice.

        Raises:
            ValueError: no unit in a row, an id beyond the inventory or the speakers, durations of another shape or
                below 1.
        """
        speakers = self.config.num_speakers
        if speaker_ids is not None and int(speaker_ids.max()) >= speakers:
            raise ValueError(
                f"speaker_ids: expected ids below num_speakers = {speakers} (with 0 speakers: none at all), found "
                f"{speaker_ids.tolist()}"
            )
        units, durations_frames = check_units(units, durations_frames, self.config.num_units)
        if durations_frames is None:
            durations_frames = self.predict_durations(units)
        lengths = durations_frames.sum(1) * self.config.samples_per_frame
        waveform = self.vocode(units, durations_frames, speaker_ids)
        inside = torch.arange(waveform.shape[1], device=waveform.device) < lengths[:, None]
        return VocoderOutput(waveform * inside, lengths, durations_frames)

    @abstractmethod
    def predict_durations(self, units: Tensor) -> Tensor:
        """Frames of each unit, (B, U) int64, at least 1; 0 at padding (-1)."""

    @abstractmethod
    def vocode(self, units: Tensor, durations_frames: Tensor, speaker_ids: Tensor | None = None) -> Tensor:
        """Waveform (B, S) of checked units; anything may follow the end of a shorter row."""

    @abstractmethod
    def begin(self) -> tuple[Tensor, ...]:
        """State of one row of speech before its first frame, a named tuple of tensors (1, ...)."""

    @abstractmethod
    def go_on(
        self, frames: NewFrames, state: Any, speaker_ids: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Speak the next frames of rows of speech.

        Args:
            frames: what is new.
            state: of each row, after the frames before.
            speaker_ids: as `forward`.

        Returns:
            (B, N * samples per frame): the sound of the frames ``config.right_context_frames`` earlier than `frames`,
            which is final; meaningless before frame 0. And the state after each row's frames.
        """


def check_units(units: Tensor, durations_frames: Tensor | None, num_units: int) -> tuple[Tensor, Tensor | None]:
    """Drop negative units, move the rest to the left, pad with -1 (durations: 0).

    Raises:
        ValueError: as `UnitVocoder.forward` says.
    """
    if units.ndim != 2 or not bool((units >= 0).any(1).all()):
        raise ValueError(
            f"units: expected (batch, units) with at least one unit in each row, found shape {tuple(units.shape)} "
            f"with {(units >= 0).sum(-1).tolist()} units: leave out empty utterances"
        )
    if int(units.max()) >= num_units:
        raise ValueError(
            f"units: expected ids below num_units = {num_units}, found {int(units.max())}: do the units and the "
            "vocoder belong together?"
        )
    kept = units >= 0
    if durations_frames is not None and (
        durations_frames.shape != units.shape or bool((durations_frames[kept] < 1).any())
    ):
        raise ValueError(
            f"durations_frames: expected at least 1 for each unit, in shape {tuple(units.shape)}, found shape "
            f"{tuple(durations_frames.shape)}, smallest {int(durations_frames.min())}"
        )
    order = torch.argsort(~kept, dim=1, stable=True)[:, : int(kept.sum(1).max())]
    kept = kept.gather(1, order)
    units = units.gather(1, order).masked_fill(~kept, -1)
    if durations_frames is not None:
        durations_frames = durations_frames.gather(1, order).masked_fill(~kept, 0)
    return units, durations_frames


def whole_frames(durations: Tensor, units: Tensor) -> Tensor:
    """Predicted durations in frames as whole ones: (B, U) int64, at least 1; 0 at padding (unit -1).

    Raises:
        FloatingPointError: a duration that is no finite number: no length of speech follows from it.
    """
    if not bool(torch.isfinite(durations).masked_fill(units < 0, True).all()):
        raise FloatingPointError(
            f"durations: expected finite numbers, found {durations[units >= 0].tolist()[:8]}: the weights of the "
            "duration predictor are broken"
        )
    return durations.round().clamp_min(1).long().masked_fill(units < 0, 0)


def frame_positions(durations_frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which unit each frame belongs to.

    Args:
        durations_frames: (B, U), 0 at padding.

    Returns:
        unit_of_frame (B, F) int64 (the last unit beyond a row's end), elapsed (B, F): frames since its unit began,
        inside (B, F) bool: False beyond the end.
    """
    ends = durations_frames.cumsum(1)
    frames = torch.arange(int(ends[:, -1].max()), device=ends.device).expand(len(ends), -1).contiguous()
    inside = frames < ends[:, -1:]
    unit_of_frame = torch.searchsorted(ends, frames, right=True).clamp_max(ends.shape[1] - 1)
    starts = (ends - durations_frames).gather(1, unit_of_frame)
    return unit_of_frame, frames - starts, inside


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a position-wise perceptron, with a residual.

    Source: Liu et al. 2022 (arXiv 2201.03545), in one dimension as in Vocos (arXiv 2306.00814).
    """

    def __init__(self, hidden_size: int, intermediate_size: int, kernel_size: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            hidden_size, hidden_size, (1, kernel_size), padding=(0, kernel_size // 2), groups=hidden_size
        )
        self.norm = nn.LayerNorm(hidden_size)
        self.widen = nn.Linear(hidden_size, intermediate_size)
        self.narrow = nn.Linear(intermediate_size, hidden_size)

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """(B, L, D), mask (B, L, 1) -> (B, L, D). Masked positions enter the convolution as zeros."""
        # As an image of height 1 in channels-last order: no copy, and 2 to 3 times faster on CPU than a Conv1d.
        image = (hidden * inside).unsqueeze(1).permute(0, 3, 1, 2)
        mixed = self.depthwise(image).permute(0, 2, 3, 1).squeeze(1)
        return hidden + self.narrow(nn.functional.silu(self.widen(self.norm(mixed))))

    def go_on(self, hidden: Tensor, before: Tensor, counts: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `forward` says, half a kernel later and without computing anything twice.

        Args:
            hidden: (B, N, D) new positions, 0 where masked.
            before: (B, kernel - 1, D) the positions before them.
            counts: (B,) positions meant in each row; None = all.

        Returns:
            (B, N, D) for the positions half a kernel earlier, and (B, kernel - 1, D) the last positions.
        """
        window, past = torch.cat([before, hidden], 1), before.shape[1]
        image = window.unsqueeze(1).permute(0, 3, 1, 2)
        mixed = nn.functional.conv2d(image, self.depthwise.weight, self.depthwise.bias, groups=self.depthwise.groups)
        mixed = mixed.permute(0, 2, 3, 1).squeeze(1)
        centre = window[:, past // 2 : past // 2 + hidden.shape[1]]
        hidden = centre + self.narrow(nn.functional.silu(self.widen(self.norm(mixed))))
        return hidden, last_of(window, past, counts)


class DurationPredictor(nn.Module):
    """Reduced units, with their neighbours -> natural log of the frames of each."""

    def __init__(self, config: LightVocoderConfig) -> None:
        super().__init__()
        size = config.duration_hidden_size
        self.unit_embedding = nn.Embedding(config.num_units, size)
        self.layers = nn.ModuleList(
            ConvNeXtBlock(size, config.duration_intermediate_size, config.kernel_size)
            for _ in range(config.num_duration_layers)
        )
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, 1)

    def forward(self, units: Tensor) -> Tensor:
        """(B, U) ids padded with -1 -> (B, U) log frames."""
        inside = (units >= 0)[..., None]
        hidden = self.unit_embedding(units.clamp_min(0))
        for layer in self.layers:
            hidden = layer(hidden, inside)
        return self.head(self.norm(hidden))[..., 0]


class LightVocoderState(NamedTuple):
    """What the light vocoder remembers of the frames before, one row each.

    Attributes:
        frame_inputs: (B, frame layers, kernel - 1, D) last inputs of each frame layer; fine_inputs likewise.
        phase, features, tail: `SynthesisState`.
        ready: (B, R) samples that are final but do not yet fill a unit frame.
    """

    frame_inputs: Tensor
    fine_inputs: Tensor
    phase: Tensor
    features: Tensor
    tail: Tensor
    ready: Tensor


class LightVocoderFeatures(NamedTuple):
    """What the network says before synthesis.

    Attributes:
        log_mel: (B, T, mels) natural log of the power density. f0_hz: (B, T). voicing: (B, T) logits.
        inside: (B, T) bool, False beyond a row's end.
    """

    log_mel: Tensor
    f0_hz: Tensor
    voicing: Tensor
    inside: Tensor


class LightVocoder(UnitVocoder):
    """Units -> durations, spectral envelope, pitch, voicing (ConvNeXt) -> waveform (analytic source-filter).

    Example:
        >>> vocoder = LightVocoder(LightVocoderConfig(num_units=200))
        >>> vocoder(torch.tensor([[3, 17, 4]])).waveform.shape[0]
        1
    """

    config_class = LightVocoderConfig

    def __init__(self, config: LightVocoderConfig) -> None:
        super().__init__(config)
        wide, kernel = config.hidden_size, config.kernel_size
        self.duration_predictor = DurationPredictor(config)
        self.unit_embedding = nn.Embedding(config.num_units, wide)
        self.position_to_frame = nn.Linear(4, wide)
        self.frame_layers = nn.ModuleList(
            ConvNeXtBlock(wide, config.intermediate_size, kernel) for _ in range(config.num_frame_layers)
        )
        self.frame_to_features = nn.Linear(wide, wide * config.features_per_frame)
        self.fine_layers = nn.ModuleList(
            ConvNeXtBlock(wide, config.intermediate_size, kernel) for _ in range(config.num_fine_layers)
        )
        self.feature_norm = nn.LayerNorm(wide)
        self.feature_head = nn.Linear(wide, config.num_mel_bins + 2)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.weight[0].numel()))
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)

    def predict_durations(self, units: Tensor) -> Tensor:
        """Frames of each unit, (B, U) int64 in 1..max_duration_frames; 0 at padding (-1).

        Raises:
            FloatingPointError: a duration that is no number.
        """
        durations = whole_frames(self.duration_predictor(units).float().exp(), units)
        return durations.clamp_max(self.config.max_duration_frames)

    def features(self, units: Tensor, durations_frames: Tensor) -> LightVocoderFeatures:
        """Envelope, pitch and voicing of units whose durations are known.

        Args:
            units: (B, U) padded with -1.
            durations_frames: (B, U), 0 at padding.
        """
        unit_of_frame, elapsed, inside = frame_positions(durations_frames)
        duration = durations_frames.gather(1, unit_of_frame).clamp_min(1)
        hidden = self._embed(units.gather(1, unit_of_frame), elapsed, duration)
        for layer in self.frame_layers:
            hidden = layer(hidden, inside[..., None])
        hidden = self.frame_to_features(hidden).view(len(hidden), -1, self.config.hidden_size)
        inside = inside.repeat_interleave(self.config.features_per_frame, 1)
        for layer in self.fine_layers:
            hidden = layer(hidden, inside[..., None])
        return LightVocoderFeatures(*self._read(hidden), inside)

    def _embed(self, units: Tensor, elapsed: Tensor, duration: Tensor) -> Tensor:
        """Unit, place in it and duration of each frame, all (B, F) -> (B, F, D)."""
        position = torch.stack([elapsed.float().log1p(), (duration - elapsed - 1).clamp_min(0).float().log1p(),
                                duration.float().log(), elapsed / duration], -1)  # fmt: skip
        return self.unit_embedding(units.clamp_min(0)) + self.position_to_frame(position)

    def _read(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, D) -> log-mel (B, T, mels), pitch in Hz (B, T), voicing logits (B, T)."""
        raw = self.feature_head(self.feature_norm(hidden)).float()
        mean, std = _statistics(tuple(self.config.log_mel_mean), tuple(self.config.log_mel_std), raw.device)
        f0_hz = self.config.f0_mean_hz * (self.config.log_f0_std * raw[..., -2]).exp()
        f0_hz = f0_hz.clamp(self.config.f0_min_hz, self.config.f0_max_hz)
        return mean + std * raw[..., :-2], f0_hz, raw[..., -1]

    def _pulse_ratio(self) -> Tensor:
        config = self.config
        return breath(config.geometry(), config.breath_from_hz, config.breath_full_hz, config.breath_ratio)

    def vocode(self, units: Tensor, durations_frames: Tensor, speaker_ids: Tensor | None = None) -> Tensor:
        """Waveform (B, S) of checked units; there is one voice, so no speaker gets here."""
        log_mel, f0_hz, voicing, inside = self.features(units, durations_frames)
        geometry, pulse_ratio = self.config.geometry(), self._pulse_ratio()
        return synthesise(log_mel, f0_hz, mixing(voicing), geometry, inside=inside, pulse_ratio=pulse_ratio)[0]

    def begin(self) -> LightVocoderState:
        """State of one row of speech before its first frame."""
        config, width = self.config, self.unit_embedding.weight
        past, reach = config.kernel_size - 1, config.kernel_size // 2
        hop = config.geometry().hop_samples
        # What the delays of the layers and of the synthesis make final, but does not fill a unit frame, waits.
        frames_early = config.right_context_frames - config.num_frame_layers * reach
        features_early = frames_early * config.features_per_frame - config.num_fine_layers * reach
        waiting = features_early * hop - hop - hop // 2
        return LightVocoderState(
            width.new_zeros(1, config.num_frame_layers, past, config.hidden_size),
            width.new_zeros(1, config.num_fine_layers, past, config.hidden_size),
            *SynthesisState.begin(config.geometry(), width.device),
            torch.zeros(1, waiting, device=width.device),
        )

    def go_on(
        self, frames: NewFrames, state: LightVocoderState, speaker_ids: Tensor | None = None
    ) -> tuple[Tensor, LightVocoderState]:
        """Speak the next frames of rows of speech: see `UnitVocoder.go_on`. Nothing is computed twice."""
        geometry, per_frame = self.config.geometry(), self.config.features_per_frame
        counts, totals = frames.counts, None if frames.inner else frames.totals
        hidden = self._embed(frames.units, frames.elapsed, frames.durations)
        hidden, starts, frame_inputs = _delayed(
            self.frame_layers, hidden, state.frame_inputs, counts, frames.starts, totals
        )
        hidden = self.frame_to_features(hidden).view(len(hidden), hidden.shape[1] * per_frame, -1)
        counts, starts = None if counts is None else counts * per_frame, starts * per_frame
        totals = None if totals is None else totals.clamp_max(_ENDLESS // per_frame) * per_frame
        hidden, starts, fine_inputs = _delayed(self.fine_layers, hidden, state.fine_inputs, counts, starts, totals)
        log_mel, f0_hz, voicing = self._read(hidden)
        synthesis = SynthesisState(state.phase, state.features, state.tail)
        inside = None if totals is None else _inside(starts - 2, log_mel.shape[1] + 2, totals)
        sound, synthesis = synthesise_next(
            log_mel, f0_hz, mixing(voicing), geometry, synthesis, starts, counts, inside, self._pulse_ratio()
        )
        sound, waiting = torch.cat([state.ready, sound], 1), state.ready.shape[1]
        ready = last_of(sound[..., None], waiting, None if counts is None else counts * geometry.hop_samples)[..., 0]
        after = LightVocoderState(frame_inputs, fine_inputs, *synthesis, ready)
        return sound[:, : sound.shape[1] - waiting], after


@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _statistics(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> Tensor:
    """(2, mels) float32."""
    return torch.tensor([mean, std], device=device)


_ENDLESS = torch.iinfo(torch.int64).max


def _inside(starts: Tensor, length: int, totals: Tensor) -> Tensor:
    """(B, length) bool: which places from `starts` on lie within speech of `totals` places."""
    place = starts[:, None] + torch.arange(length, device=starts.device)
    return (place >= 0) & (place < totals[:, None])


def _delayed(
    layers: nn.ModuleList, hidden: Tensor, before: Tensor, counts: Tensor | None, starts: Tensor, totals: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run layers over new positions (`ConvNeXtBlock.go_on`): their output, its first place, their last inputs."""
    inputs = []
    for layer, past in zip(layers, before.unbind(1), strict=True):
        if totals is not None:
            hidden = hidden * _inside(starts, hidden.shape[1], totals)[..., None]
        hidden, last = layer.go_on(hidden, past, counts)
        starts = starts - past.shape[1] // 2
        inputs.append(last)
    return hidden, starts, torch.stack(inputs, 1) if inputs else before


def mixing(voicing: Tensor) -> Tensor:
    """Voicing logits -> part of the power that is pulses: 0 or 1 when sure, in between within about one logit of 0."""
    return (2 * torch.sigmoid(voicing) - 0.5).clamp(0, 1)


AutoConfig.register(LightVocoderConfig.model_type, LightVocoderConfig)
AutoModel.register(LightVocoderConfig, LightVocoder)

# At the end because it needs this file: whoever imports this one can load any unit vocoder.
import echox.models.vocoder.modeling_hifigan  # noqa: E402, F401
