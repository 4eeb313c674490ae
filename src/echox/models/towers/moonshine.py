"""Moonshine: its encoder as an audio tower that reads waveforms, and its decoder as a recogniser.

Letters: A audios, S samples, W windows, F frames (41.7/s), D width, N tokens.

Source: Moonshine (https://arxiv.org/abs/2410.15608); transformers' implementation.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    MoonshineConfig,
    PreTrainedConfig,
    SequenceFeatureExtractor,
    Wav2Vec2FeatureExtractor,
)
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.moonshine.modeling_moonshine import MoonshineEncoder

from echox.models.pretrained import hub_options, load_with_report
from echox.models.towers.base import (
    SAMPLING_RATE,
    EncodedWindows,
    TowerOutput,
    TowerSpec,
    WindowedTower,
    finish,
    true_inputs,
)
from echox.models.towers.windows import cut_windows, gather_windows, join_windows

FRAME_SAMPLES = 64 * 3 * 2
"""Samples between two frames: the strides of the three convolutions."""
RECEPTIVE_SAMPLES = 127 + 64 * (7 - 1 + 3 * (3 - 1))
"""Samples that one frame is computed from: the kernels of the three convolutions."""
WINDOW_S = 24.0
"""Longest audio of one pass: the decoder was trained on at most 194 tokens, and fast speech has 7 a second."""


class MoonshineTower(MoonshineEncoder, WindowedTower):
    """Moonshine's encoder for audio of any length, with the same weights and state-dict names.

    Padding does not change the result: the group normalisation after the first convolution, which is over the whole
    audio, counts true frames only, and padded frames are masked in attention. Audio longer than a window is cut where
    it is quietest (`cut_windows`).
    """

    def __init__(self, config: MoonshineConfig) -> None:
        super().__init__(config)
        config.window_frames = self.window_frames  # saved, so that a model always cuts where it was trained to

    @classmethod
    def spec_of(cls, config: PreTrainedConfig) -> TowerSpec:
        """See `AudioTower`."""
        frames = getattr(config, "window_frames", None) or int(WINDOW_S * SAMPLING_RATE / FRAME_SAMPLES)
        return TowerSpec(
            width=config.hidden_size,
            num_layers=config.encoder_num_hidden_layers,
            num_mel_bins=None,
            samples_per_input=1,
            samples_per_frame=FRAME_SAMPLES,
            window_inputs=frames * FRAME_SAMPLES,
        )

    @classmethod
    def feature_extractor_of(cls, config: PreTrainedConfig) -> SequenceFeatureExtractor:
        """See `AudioTower`: samples as they are."""
        return Wav2Vec2FeatureExtractor(
            feature_size=1,
            sampling_rate=SAMPLING_RATE,
            padding_value=0.0,
            do_normalize=False,
            return_attention_mask=True,
        )

    @classmethod
    def from_checkpoint(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> MoonshineTower:
        """See `AudioTower`."""
        config = kwargs.pop("config", None) or AutoConfig.from_pretrained(name_or_path, **hub_options(kwargs))
        mapping = {r"^(model\.)?encoder\.": "", r"^(model\.)?decoder\.": "decoder."}
        loaded, found = load_with_report(cls, name_or_path, config=config, key_mapping=mapping, **kwargs)
        if found["missing_keys"]:
            missing = sorted(map(str, found["missing_keys"]))
            raise ValueError(
                f"{name_or_path}: expected all weights of a Moonshine encoder, found none for {missing[0]} and "
                f"{len(missing) - 1} more; download it again"
            )
        with torch.device("meta"):
            encoder = cls(loaded.config)
        encoder.load_state_dict(loaded.state_dict(), assign=True)
        encoder.rotary_emb = loaded.rotary_emb  # its frequencies are no weights
        return encoder.eval()

    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^proj_out\."]

    @property
    def window_frames(self) -> int:
        """Frames of one pass."""
        assert (samples := self.spec.window_inputs) is not None
        return samples // FRAME_SAMPLES

    def forward(  # type: ignore[override]  # transformers names its inputs otherwise
        self, input_features: Tensor, input_features_mask: Tensor | None = None, output_hidden_states: bool = False
    ) -> TowerOutput:
        """See `AudioTower`; ``input_features`` are samples (A, S)."""
        mask = true_inputs(self.spec, input_features, input_features_mask)
        states: list[Tensor] = []
        encoded = finish(self._encode(input_features, mask, states if output_hidden_states else None))
        between = [join_windows(encoded._replace(states=layer))[0] for layer in states]
        return TowerOutput(*join_windows(encoded), tuple(between) if output_hidden_states else None)

    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, TowerOutput]:
        """See `AudioTower`."""
        encoded = yield from self.encode_windows_gradually(input_features, input_features_mask)
        return TowerOutput(*join_windows(encoded))

    def encode_windows(self, input_features: Tensor, input_features_mask: Tensor | None) -> EncodedWindows:
        """The windows of audios (A, S), encoded in one batch."""
        return finish(self._encode(input_features, true_inputs(self.spec, input_features, input_features_mask)))

    def encode_windows_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, EncodedWindows]:
        """`encode_windows` for one audio, in steps of one window and one layer each."""
        mask = true_inputs(self.spec, input_features, input_features_mask)
        parts = []
        for window in cut_windows(input_features, mask, self.window_frames, FRAME_SAMPLES):
            start = window.first_frame * FRAME_SAMPLES
            whole = slice(start, start + window.samples(FRAME_SAMPLES, RECEPTIVE_SAMPLES))
            parts.append((yield from self._encode(input_features[:, whole], mask[:, whole], cut=False)))
        longest = max(part.states.shape[1] for part in parts)
        firsts, first = [], 0
        for part in parts:
            firsts.append(first)
            first += int(part.mask.sum())
        return EncodedWindows(
            torch.cat([F.pad(part.states, (0, 0, 0, longest - part.states.shape[1])) for part in parts]),
            torch.cat([F.pad(part.mask, (0, longest - part.mask.shape[1])) for part in parts]),
            [0] * len(parts),
            firsts,
        )

    def _encode(
        self, samples: Tensor, mask: Tensor, states: list[Tensor] | None = None, cut: bool = True
    ) -> Generator[None, None, EncodedWindows]:
        """Windows of audios (A, S), or the audios as they are, layer by layer; ``states`` collects what layers read."""
        windows = cut_windows(samples, mask, self.window_frames if cut else None, FRAME_SAMPLES)
        values, lengths = gather_windows(samples, windows, FRAME_SAMPLES, RECEPTIVE_SAMPLES)
        hidden, frame_mask = self._frames(values, lengths)
        attention_mask = create_bidirectional_mask(
            config=self.config,
            inputs_embeds=hidden,
            attention_mask=None if bool(frame_mask.all()) else frame_mask,
        )
        places = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rotary = self.rotary_emb(hidden, position_ids=places)
        if states is not None:
            states.append(hidden)
        for layer in self.layers:
            yield
            hidden = layer(hidden, attention_mask=attention_mask, position_ids=places, position_embeddings=rotary)
            if states is not None:
                states.append(hidden)
        return EncodedWindows(
            self.layer_norm(hidden),
            frame_mask,
            [window.audio for window in windows],
            [window.first_frame for window in windows],
        )

    def _frames(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the first layer, (W, F, D), and their mask (W, F), from samples (W, S) and true lengths (W,)."""
        samples = samples.to(self.conv1.weight.dtype)
        hidden = torch.tanh(self.conv1(samples[:, None]))
        count = (lengths - 127) // 64 + 1
        hidden = self._normalised(hidden, count)
        hidden = F.gelu(self.conv3(F.gelu(self.conv2(hidden)))).transpose(1, 2)
        count = ((count - 7) // 3 + 1 - 3) // 2 + 1
        return hidden, torch.arange(hidden.shape[1], device=hidden.device) < count[:, None]

    def _normalised(self, hidden: Tensor, count: Tensor) -> Tensor:
        """The group normalisation (one group) of (W, D, T) over the first ``count`` (W,) frames of each row."""
        if bool((count == hidden.shape[2]).all()):
            return self.groupnorm(hidden)
        true = (torch.arange(hidden.shape[2], device=hidden.device) < count[:, None])[:, None]
        number = (count * hidden.shape[1])[:, None, None]
        wide = hidden.float().masked_fill(~true, 0.0)
        mean = wide.sum(dim=(1, 2), keepdim=True) / number
        variance = (wide - mean).masked_fill(~true, 0.0).square().sum(dim=(1, 2), keepdim=True) / number
        scaled = ((wide - mean) * torch.rsqrt(variance + self.groupnorm.eps)).to(hidden.dtype)
        return scaled * self.groupnorm.weight[:, None] + self.groupnorm.bias[:, None]
