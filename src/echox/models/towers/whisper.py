"""Whisper's encoder as an audio tower: masked, at true length, window by window.

Letters: A audios, T mel frames (100/s), F encoder frames (50/s), D encoder width.

Source: Whisper (https://arxiv.org/abs/2212.04356).
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    PreTrainedConfig,
    SequenceFeatureExtractor,
    WhisperConfig,
    WhisperFeatureExtractor,
    initialization,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids

from echox.models.pretrained import hub_options, load_with_report
from echox.models.towers.base import AudioTower, TowerOutput, TowerSpec, true_inputs

_HOP_SAMPLES = 160
_STRIDE = 2
"""Mel frames per encoder frame: the second convolution's."""


class WhisperTower(WhisperEncoder, AudioTower):
    """Whisper's encoder for inputs of any length, with the same weights and state-dict names.

    Padding does not change the result: padded frames are set to zero before each convolution (which itself pads with
    zeros) and are masked in attention. Inputs longer than the window (``2 * max_source_positions`` mel frames, 30 s in
    Whisper) are encoded window by window and concatenated.
    """

    _keys_to_ignore_on_load_unexpected = [r"^decoder\."]  # the decoder of a whole Whisper

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Called for every module that has weights itself.
        if module is self.embed_positions:
            positions = sinusoids(*module.weight.shape) * getattr(self.config, "position_scale", 1.0)
            initialization.copy_(module.weight, positions)
        else:
            super()._init_weights(module)

    @classmethod
    def spec_of(cls, config: PreTrainedConfig) -> TowerSpec:
        """See `AudioTower`."""
        return TowerSpec(
            width=config.d_model,
            num_layers=config.encoder_layers,
            num_mel_bins=config.num_mel_bins,
            samples_per_input=_HOP_SAMPLES,
            samples_per_frame=_STRIDE * _HOP_SAMPLES,
            window_inputs=_STRIDE * config.max_source_positions,
        )

    @classmethod
    def feature_extractor_of(cls, config: PreTrainedConfig) -> SequenceFeatureExtractor:
        """See `AudioTower`."""
        return WhisperFeatureExtractor(feature_size=config.num_mel_bins)

    @classmethod
    def from_checkpoint(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> WhisperTower:
        """See `AudioTower`; the decoder is not read.

        Args:
            name_or_path: hub id or folder of a WhisperModel, of a WhisperForConditionalGeneration, or of an encoder
                alone; of any size, 80 or 128 mels.
            **kwargs: of ``from_pretrained``: ``dtype``, ``revision`` ...

        Raises:
            ValueError: it holds no Whisper encoder, or not all of its weights.
        """
        config = kwargs.pop("config", None) or AutoConfig.from_pretrained(name_or_path, **hub_options(kwargs))
        if not isinstance(config, WhisperConfig):
            raise ValueError(f"{name_or_path}: expected a Whisper checkpoint, found model type {config.model_type!r}")
        mapping = {r"^(model\.)?encoder\.": "", r"^(model\.)?decoder\.": "decoder."}
        loaded, found = load_with_report(cls, name_or_path, config=config, key_mapping=mapping, **kwargs)
        if found["missing_keys"]:  # transformers would initialise them at random
            missing = sorted(map(str, found["missing_keys"]))
            raise ValueError(
                f"{name_or_path}: expected all weights of a Whisper encoder, found none for {missing[0]} and "
                f"{len(missing) - 1} more; download it again"
            )
        with torch.device("meta"):  # transformers would save a renamed model under the old names
            encoder = cls(loaded.config)
        encoder.load_state_dict(loaded.state_dict(), assign=True)
        return encoder.eval()

    @property
    def window_frames(self) -> int:
        """Mel frames of one pass."""
        return int(self.max_source_positions * self.conv1.stride[0] * self.conv2.stride[0])

    def forward(  # type: ignore[override]
        self, input_features: Tensor, input_features_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> TowerOutput:
        """Encode log-mel features.

        Args:
            input_features: (A, mels, T), padded on the right.
            input_features_mask: (A, T), 1 at true frames; None = all true.
            output_hidden_states: also return the states between layers.

        Raises:
            ValueError: wrong number of mel bins or dimensions, a mask of another shape, an audio without frames.
        """
        mask = true_inputs(self.spec, input_features, input_features_mask)
        frames = mask.shape[1]
        if frames <= self.window_frames:
            return self._encode(input_features, mask, output_hidden_states)
        return self._encode_windows(input_features, mask, output_hidden_states)

    def _encode_windows(self, features: Tensor, mask: Tensor, output_hidden_states: bool) -> TowerOutput:
        """Fold windows into the batch, leave out the empty ones, encode, and join the frames again."""
        audios, mels, frames = features.shape
        window = self.window_frames
        count = -(-frames // window)
        features = F.pad(features, (0, count * window - frames))
        mask = F.pad(mask, (0, count * window - frames))
        features = features.view(audios, mels, count, window).transpose(1, 2).flatten(0, 1)
        filled = mask.view(audios * count, window)
        used = filled.any(dim=1)
        output = self._encode(features[used], filled[used], output_hidden_states)

        def unfold(states: Tensor) -> Tensor:
            every = states.new_zeros((audios * count, *states.shape[1:]))
            every[used] = states
            return every.view(audios, count * states.shape[1], *states.shape[2:])[:, : (frames + 1) // 2]

        states = output.hidden_states
        return TowerOutput(
            last_hidden_state=unfold(output.last_hidden_state),
            mask=unfold(output.mask),
            hidden_states=tuple(unfold(state) for state in states) if states is not None else None,
        )

    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, TowerOutput]:
        """`forward` for one audio of any length, in steps of one layer and one window each.

        Args:
            input_features: (1, mels, T).
            input_features_mask: (1, T), 1 at true frames.
        """
        states, masks = [], []
        window = self.window_frames
        for features, mask in zip(
            input_features.split(window, dim=2), input_features_mask.bool().split(window, dim=1), strict=True
        ):
            hidden, frame_mask, attention_mask = self._frames(features, mask)
            for layer in self.layers:
                yield
                hidden = layer(hidden, attention_mask)
            states.append(self.layer_norm(hidden))
            masks.append(frame_mask)
        return TowerOutput(torch.cat(states, dim=1), torch.cat(masks, dim=1))

    def _encode(self, features: Tensor, mask: Tensor, output_hidden_states: bool) -> TowerOutput:
        """One window or less: (N, mels, T) -> (N, ceil(T / 2), D)."""
        hidden, frame_mask, attention_mask = self._frames(features, mask)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
            states.append(hidden)
        return TowerOutput(
            last_hidden_state=self.layer_norm(hidden),
            mask=frame_mask,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def _frames(self, features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs of the first layer: states (N, ceil(T / 2), D), their mask, and the mask for attention."""
        keep = mask[:, None, :]
        features = features.to(self.conv1.weight.dtype)
        hidden = F.gelu(self.conv1(features.masked_fill(~keep, 0.0)))
        hidden = F.gelu(self.conv2(hidden.masked_fill(~keep, 0.0)))
        frame_mask = mask[:, ::2]  # frame f of the strided convolution is centred on mel frame 2 f
        hidden = hidden.transpose(1, 2) + self.embed_positions.weight[: hidden.shape[2]]
        hidden = F.dropout(hidden, p=self.dropout, training=self.training)
        return hidden, frame_mask, self._attention_mask(frame_mask, hidden.dtype)

    def _attention_mask(self, frame_mask: Tensor, dtype: torch.dtype) -> Tensor | None:
        """The mask in the form of the attention implementation; None without padding."""
        if bool(frame_mask.all()):
            return None
        implementation = self.config._attn_implementation or "eager"
        if "flash" in implementation:
            return frame_mask
        keys = frame_mask[:, None, None, :]
        if implementation == "sdpa":
            return keys.expand(-1, 1, frame_mask.shape[1], -1)
        return torch.zeros_like(keys, dtype=dtype).masked_fill(~keys, torch.finfo(dtype).min)
