"""Towers of the HuBERT family: HuBERT, wav2vec 2.0 and WavLM, which read waveforms at 50 frames a second.

Letters: A audios, S samples, W windows, F frames, D width.

Source: HuBERT (https://arxiv.org/abs/2106.07447); wav2vec 2.0 (https://arxiv.org/abs/2006.11477); WavLM
(https://arxiv.org/abs/2110.13900); transformers' implementations.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    HubertModel,
    PreTrainedConfig,
    SequenceFeatureExtractor,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMModel,
)

from echox.models.pretrained import hub_options, load_with_report
from echox.models.towers.base import SAMPLING_RATE, AudioTower, EncodedWindows, TowerOutput, TowerSpec, true_inputs
from echox.models.towers.waveform_encoder import encoder_frames, run_layers
from echox.models.towers.windows import Window, cut_windows, join_windows

if TYPE_CHECKING:
    from echox.models.towers.waveform_encoder import WaveformEncoder

WINDOW_S = 20.0
"""Longest audio of one pass: attention covers all of it, and the published models were trained on 15 s and less."""
_HEADS_OF_WHOLE_MODELS = [r"^lm_head\.", r"^quantizer\.", r"^project_(hid|q)\.", r"^(projector|classifier)\."]


class WaveformTower(AudioTower):
    """An encoder of this family for audio of any length, with the weights and state-dict names of transformers.

    Each window goes through the convolutions alone (HuBERT base normalises over the whole time axis) and with others of
    the batch through the Transformer, padded frames masked. `encode_gradually` takes a window a step: transformers
    runs all layers of these models in one call.
    """

    _keys_to_ignore_on_load_unexpected = _HEADS_OF_WHOLE_MODELS

    @classmethod
    def spec_of(cls, config: PreTrainedConfig) -> TowerSpec:
        """See `AudioTower`."""
        frame_samples = math.prod(config.conv_stride)
        frames = getattr(config, "window_frames", None) or int(WINDOW_S * SAMPLING_RATE / frame_samples)
        return TowerSpec(
            width=config.hidden_size,
            num_layers=config.num_hidden_layers,
            num_mel_bins=None,
            samples_per_input=1,
            samples_per_frame=frame_samples,
            window_inputs=frames * frame_samples,
        )

    @classmethod
    def feature_extractor_of(cls, config: PreTrainedConfig) -> SequenceFeatureExtractor:
        """See `AudioTower`: each waveform with mean 0 and variance 1."""
        return Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, do_normalize=True, return_attention_mask=True)

    @classmethod
    def from_checkpoint(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> WaveformTower:
        """See `AudioTower`: with or without a head."""
        config = kwargs.pop("config", None) or AutoConfig.from_pretrained(name_or_path, **hub_options(kwargs))
        mapping = {r"^(hubert|wav2vec2|wavlm)\.": ""}
        tower, found = load_with_report(cls, name_or_path, config=config, key_mapping=mapping, **kwargs)
        missing = sorted(set(map(str, found["missing_keys"])) - {"masked_spec_embed"})  # used in training only
        if missing:
            raise ValueError(
                f"{name_or_path}: expected all weights of a {config.model_type} encoder, found none for {missing[0]} "
                f"and {len(missing) - 1} more; download it again"
            )
        return tower.eval()

    def forward(  # type: ignore[override]  # transformers names its inputs otherwise
        self, input_features: Tensor, input_features_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> TowerOutput:
        """See `AudioTower`; ``input_features`` are samples (A, S)."""
        mask = true_inputs(self.spec, input_features, input_features_mask)
        windows = self._windows(input_features, mask)
        encoded, between = self._encode(input_features, windows, output_hidden_states)
        joined = [join_windows(encoded._replace(states=layer))[0] for layer in between]
        return TowerOutput(*join_windows(encoded), tuple(joined) if output_hidden_states else None)

    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, TowerOutput]:
        """See `AudioTower`; a window a step."""
        mask = true_inputs(self.spec, input_features, input_features_mask)
        states = []
        for window in self._windows(input_features, mask):
            yield
            encoded, _ = self._encode(input_features, [window], False)
            states.append(encoded.states[encoded.mask])
        whole = torch.cat(states)[None]
        return TowerOutput(whole, whole.new_ones(whole.shape[:2], dtype=torch.bool))

    def _windows(self, samples: Tensor, mask: Tensor) -> list[Window]:
        assert (limit := self.spec.window_inputs) is not None
        step = self.spec.samples_per_frame
        return cut_windows(samples, mask, limit // step, step)

    @property
    def _receptive_samples(self) -> int:
        """Samples that one frame is computed from."""
        needed = 1
        for kernel, stride in zip(reversed(self.config.conv_kernel), reversed(self.config.conv_stride), strict=True):
            needed = (needed - 1) * stride + kernel
        return int(needed)

    def _encode(self, samples: Tensor, windows: list[Window], between: bool) -> tuple[EncodedWindows, list[Tensor]]:
        """Windows of audios (A, S) in one batch, and the states between layers if asked for."""
        encoder: WaveformEncoder = self  # type: ignore[assignment]  # each of the classes below is one
        step, receptive = self.spec.samples_per_frame, self._receptive_samples
        rows = []
        for window in windows:
            start = window.first_frame * step
            row = samples[window.audio, start : start + window.samples(step, receptive)]
            rows.append(torch.nn.functional.pad(row, (0, max(0, receptive - len(row)))))
        hidden, mask = encoder_frames(encoder, rows)
        last, states = run_layers(encoder, hidden, mask, range(self.spec.num_layers + 1) if between else ())
        places = [window.audio for window in windows], [window.first_frame for window in windows]
        return EncodedWindows(last, mask, *places), states


class HubertTower(WaveformTower, HubertModel):
    """HuBERT, also the multilingual mHuBERT."""


class Wav2Vec2Tower(WaveformTower, Wav2Vec2Model):
    """wav2vec 2.0."""


class WavLMTower(WaveformTower, WavLMModel):
    """WavLM."""
