"""The interface of unit vocoders: reduced units to durations and waveform, whole or as a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from echox.models.pretrained import TypedPreTrainedModel
from echox.models.vocoder.configuration_vocoder import UnitVocoderConfig


@dataclass
class VocoderOutput(ModelOutput):
    """Output of a vocoder.

    Attributes:
        waveform: (B, S) float32, zero beyond each row's length.
        waveform_lengths: (B,) samples: exactly the sum of the row's durations times the samples of a frame.
        durations_frames: (B, U) int64, 0 at padding; U counts the units that are not negative.
    """

    waveform: Tensor | None = None
    waveform_lengths: Tensor | None = None
    durations_frames: Tensor | None = None


class NewFrames(NamedTuple):
    """The next unit frames of rows of speech, padded on the right.

    Attributes:
        units: (B, N) the unit of each frame, -1 after the end of the speech.
        elapsed: (B, N) frames since the unit began. durations: (B, N) frames of the unit, at least 1.
        starts: (B,) absolute number of the first frame.
        totals: (B,) frames of the whole speech; the largest integer while it is not known.
        counts: (B,) number of real frames in each row; None = all N.
        inner: whether all output of these frames is inside the speech, away from its beginning and its end.
    """

    units: Tensor
    elapsed: Tensor
    durations: Tensor
    starts: Tensor
    totals: Tensor
    counts: Tensor | None
    inner: bool


class UnitVocoder(TypedPreTrainedModel, ABC):
    """Interface of all unit vocoders: `forward`, `predict_durations`, `sampling_rate`, `frame_rate_hz`.

    Each row of a padded batch gives the same result as alone. Subclasses implement `predict_durations` and `vocode`;
    for speech in parts (`vocoder_stream.VocoderStream`) also `begin` and `vocode_next`. The caller keeps the state.
    """

    config: UnitVocoderConfig
    config_class: type[UnitVocoderConfig] = UnitVocoderConfig
    main_input_name = "units"

    @property
    def sampling_rate(self) -> int:
        """Sampling rate of the waveform, Hz."""
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
            units: (B, U) int64 ids; negative ones (padding, at any place) are dropped.
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
        """Waveform (B, S) of checked units; samples after the end of a shorter row have no meaning."""

    @abstractmethod
    def begin(self) -> tuple[Tensor, ...]:
        """State of one row of speech before its first frame: a named tuple of tensors (1, ...)."""

    @abstractmethod
    def vocode_next(
        self, frames: NewFrames, state: Any, speaker_ids: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Speak the next frames of rows of speech.

        Args:
            frames: the new frames.
            state: of each row, after the frames before.
            speaker_ids: as in `forward`.

        Returns:
            The final sound (B, N * samples per frame) of the frames ``config.right_context_frames`` before `frames`,
            without meaning before frame 0; and the state after each row's frames.
        """


def check_units(units: Tensor, durations_frames: Tensor | None, num_units: int) -> tuple[Tensor, Tensor | None]:
    """Drop negative units, move the rest to the left, pad with -1 (durations: 0).

    Raises:
        ValueError: as in `UnitVocoder.forward`.
    """
    if units.ndim != 2 or not bool((units >= 0).any(1).all()):
        raise ValueError(
            f"units: expected (batch, units) with at least one unit in each row, found shape {tuple(units.shape)} "
            f"with {(units >= 0).sum(-1).tolist()} units: leave out empty utterances"
        )
    if int(units.max()) >= num_units:
        raise ValueError(
            f"units: expected ids below num_units = {num_units}, found {int(units.max())}; use the vocoder of "
            "these units"
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
    """Predicted durations rounded to whole frames: (B, U) int64, at least 1; 0 at padding (unit -1).

    Raises:
        FloatingPointError: a duration that is not finite.
    """
    if not bool(torch.isfinite(durations).masked_fill(units < 0, True).all()):
        raise FloatingPointError(
            f"durations: expected finite numbers, found {durations[units >= 0].tolist()[:8]}: the weights of the "
            "duration predictor are broken"
        )
    return durations.round().clamp_min(1).long().masked_fill(units < 0, 0)


def frame_positions(durations_frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The unit of each frame, and the place of the frame in it.

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
