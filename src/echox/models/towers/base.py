"""The interface of audio towers and of recognisers: all that other code may know about a family.

Letters: A audios, T inputs of a tower along time (mel frames or samples), W windows, F encoder frames, D encoder width,
N tokens of a recogniser.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel, SequenceFeatureExtractor

SAMPLING_RATE = 16000
"""Of the audio that every tower reads, in hertz."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class TowerSpec:
    """What a configuration says about its tower.

    Attributes:
        width: D. num_layers: of the Transformer.
        num_mel_bins: of its log-mel inputs; None: it reads the waveform itself.
        samples_per_input: samples between two inputs (160 for log-mel, 1 for a waveform).
        samples_per_frame: samples between two frames.
        window_inputs: most inputs of one pass; longer audio is encoded in windows. None: no limit.
    """

    width: int
    num_layers: int
    num_mel_bins: int | None
    samples_per_input: int
    samples_per_frame: int
    window_inputs: int | None

    @property
    def frames_per_s(self) -> float:
        """Frames of a second of audio."""
        return SAMPLING_RATE / self.samples_per_frame

    @property
    def inputs_per_s(self) -> float:
        """Inputs of a second of audio."""
        return SAMPLING_RATE / self.samples_per_input


class TowerOutput(NamedTuple):
    """What an `AudioTower` returns.

    Attributes:
        last_hidden_state: (A, F, D), after the final norm; padded frames have no meaning.
        mask: (A, F) bool, true frames.
        hidden_states: outputs before layer 1, after layer 1, ... (A, F, D) each, none of them through the final norm;
            None unless asked for.
    """

    last_hidden_state: Tensor
    mask: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class EncodedWindows(NamedTuple):
    """Windows of audios, encoded: the input of a recogniser.

    Attributes:
        states: (W, F, D). mask: (W, F) bool, true frames.
        audio_of: the audio of each window, in order. first_frame: place of its first frame in that audio.
    """

    states: Tensor
    mask: Tensor
    audio_of: list[int]
    first_frame: list[int]


class AudioTower(PreTrainedModel):
    """An encoder of speech. Its result for an audio depends on no other audio of the batch and on no padding."""

    @classmethod
    @abstractmethod
    def spec_of(cls, config: PreTrainedConfig) -> TowerSpec:
        """What a configuration of this family says."""

    @classmethod
    @abstractmethod
    def feature_extractor_of(cls, config: PreTrainedConfig) -> SequenceFeatureExtractor:
        """The feature extractor of its inputs."""

    @classmethod
    @abstractmethod
    def from_checkpoint(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> AudioTower:
        """The encoder of a published checkpoint of this family (folder or hub id), weights unchanged, in eval mode.

        Raises:
            ValueError: it holds no such encoder, or not all of its weights.
        """

    @property
    def spec(self) -> TowerSpec:
        """What its configuration says."""
        return self.spec_of(self.config)

    @abstractmethod
    def forward(
        self, input_features: Tensor, input_features_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> TowerOutput:
        """Encode audios.

        Args:
            input_features: (A, mels, T) or, where ``spec.num_mel_bins`` is None, the waveforms (A, T).
            input_features_mask: (A, T), 1 at true inputs, which come first; None = all true.
            output_hidden_states: also return the states between layers.

        Raises:
            ValueError: inputs of another shape, a mask of another shape, an audio without true inputs.
        """

    @abstractmethod
    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, TowerOutput]:
        """`forward` for one audio of any length, in steps of one layer and one window each."""


class WindowedTower(AudioTower):
    """A tower whose windows can be read one by one, by the recogniser of its family."""

    @abstractmethod
    def encode_windows(self, input_features: Tensor, input_features_mask: Tensor | None) -> EncodedWindows:
        """The windows of audios, see `forward`, encoded in one batch."""

    @abstractmethod
    def encode_windows_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, EncodedWindows]:
        """`encode_windows` for one audio, in steps of one window and one layer each."""


class Recognised(NamedTuple):
    """What a recogniser wrote for one window.

    Attributes:
        token_ids: N tokens, without begin and end.
        states: (N, D), the state that predicted each token, after the final norm.
        frames: first frame of each token, and frame after its last, in the window.
    """

    token_ids: list[int]
    states: Tensor
    frames: list[tuple[int, int]]


class Recogniser(ABC):
    """The decoder of a recogniser, which writes what was said in the windows of its family's tower. A module."""

    @property
    @abstractmethod
    def width(self) -> int:
        """D of `Recognised.states`."""

    @abstractmethod
    def transcribe_gradually(
        self, windows: EncodedWindows, max_tokens: Sequence[int], draft: Sequence[int] = ()
    ) -> Generator[None, None, list[Recognised]]:
        """Greedy transcripts of windows, in steps of one token.

        Args:
            windows: of the tower.
            max_tokens: most tokens of each window.
            draft: tokens that a single window probably has; those that it has cost one step together.
        """


def finish(steps: Generator[None, None, Result]) -> Result:
    """The result of a computation in steps, all of them made now."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: Result = done.value
            return result


def true_inputs(spec: TowerSpec, input_features: Tensor, input_features_mask: Tensor | None) -> Tensor:
    """The mask (A, T) bool of inputs, after a check of both shapes.

    Raises:
        ValueError: see `AudioTower.forward`.
    """
    expected = "(audios, samples)" if spec.num_mel_bins is None else f"(audios, {spec.num_mel_bins}, frames)"
    dimensions = 2 if spec.num_mel_bins is None else 3
    if input_features.ndim != dimensions or spec.num_mel_bins not in (None, input_features.shape[1]):
        raise ValueError(
            f"input_features: expected {expected}, found {tuple(input_features.shape)}: use the feature extractor "
            "saved beside this model"
        )
    shape = (input_features.shape[0], input_features.shape[-1])
    if input_features_mask is None:
        mask = input_features.new_ones(shape, dtype=torch.bool)
    else:
        mask = input_features_mask.bool()
    if mask.shape != shape:
        raise ValueError(f"input_features_mask: expected {shape}, found {tuple(mask.shape)}")
    if shape[1] == 0 or not bool(mask.any(dim=1).all()):
        raise ValueError("input_features: expected at least one true frame per audio, found an empty audio")
    return mask


def as_module(recogniser: Recogniser) -> nn.Module:
    """A recogniser as the module that it is."""
    assert isinstance(recogniser, nn.Module)
    return recogniser
