"""Code-HiFi-GAN: a generator of waveforms straight from units, with a duration predictor and optional speakers.

Parts are named as in the public checkpoints (``dict, spkr, dur_predictor, conv_pre, ups, resblocks, conv_post``), so
that conversion is a change of weight-norm spelling only.

Source: Polyak et al. 2021 (arXiv 2104.00355); Kong et al. 2020 (arXiv 2010.05646); durations as in FastSpeech 2.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from echox.models.vocoder.configuration_vocoder import CodeHiFiGANConfig
from echox.models.vocoder.modeling_unit_vocoder import NewFrames, UnitVocoder, frame_positions, whole_frames
from echox.models.vocoder.source_filter import last_of

INNER_SLOPE = 0.1
FINAL_SLOPE = 0.01
"""The public generator's last activation has the default slope of its framework, unlike all others."""


class ResBlock(nn.Module):
    """Three pairs of convolutions, the first of each dilated, each pair with a residual ("type 1")."""

    def __init__(self, channels: int, kernel_size: int, dilations: list[int]) -> None:
        super().__init__()
        reach = (kernel_size - 1) // 2
        self.convs1 = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, dilation=d, padding=reach * d) for d in dilations
        )
        self.convs2 = nn.ModuleList(nn.Conv1d(channels, channels, kernel_size, padding=reach) for _ in dilations)

    def forward(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """(B, C, L), mask (B, 1, L) -> (B, C, L)."""
        for dilated, plain in zip(self.convs1, self.convs2, strict=True):
            inner = dilated(nn.functional.leaky_relu(hidden, INNER_SLOPE) * inside)
            hidden = hidden + plain(nn.functional.leaky_relu(inner, INNER_SLOPE) * inside)
        return hidden


class UnitDurationPredictor(nn.Module):
    """Two convolutions over reduced units -> log(frames + 1) of each."""

    def __init__(self, config: CodeHiFiGANConfig) -> None:
        super().__init__()
        size, kernel_size = config.duration_hidden_size, config.duration_kernel_size
        self.conv1 = nn.Sequential(nn.Conv1d(config.embedding_size, size, kernel_size, padding=(kernel_size - 1) // 2))
        self.ln1 = nn.LayerNorm(size)
        self.conv2 = nn.Sequential(nn.Conv1d(size, size, kernel_size, padding=(kernel_size - 1) // 2))
        self.ln2 = nn.LayerNorm(size)
        self.proj = nn.Linear(size, 1)
        self.dropout = nn.Dropout(config.duration_dropout)

    def forward(self, embedded: Tensor, inside: Tensor) -> Tensor:
        """(B, U, E), mask (B, U, 1) -> (B, U)."""
        hidden = embedded
        for conv, norm in ((self.conv1, self.ln1), (self.conv2, self.ln2)):
            hidden = torch.relu(conv((hidden * inside).transpose(1, 2)).transpose(1, 2))
            hidden = self.dropout(norm(hidden))
        return self.proj(hidden)[..., 0]


class CodeHiFiGANState(NamedTuple):
    """State of code-HiFi-GAN between chunks: the last ``units`` (B, left + right context), -1 before the first."""

    units: Tensor


class CodeHiFiGAN(UnitVocoder):
    """Units -> durations -> transposed convolutions with residual blocks -> waveform.

    While ``config.weight_norm`` is true, weights are stored as direction and length, for adversarial training;
    `fold_weight_norm` converts them to plain weights, which are faster.
    """

    config: CodeHiFiGANConfig
    config_class = CodeHiFiGANConfig

    def __init__(self, config: CodeHiFiGANConfig) -> None:
        super().__init__(config)
        width = config.upsample_initial_channels
        self.dict = nn.Embedding(config.num_units, config.embedding_size)
        self.spkr = nn.Embedding(config.num_speakers, config.embedding_size) if config.num_speakers else None
        self.dur_predictor = UnitDurationPredictor(config)
        channels_in = config.embedding_size * (2 if config.num_speakers else 1)
        self.conv_pre = nn.Conv1d(channels_in, width, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True):
            self.ups.append(nn.ConvTranspose1d(width, width // 2, kernel, rate, padding=(kernel - rate) // 2))
            width //= 2
            blocks = zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True)
            self.resblocks.extend(ResBlock(width, size, dilations) for size, dilations in blocks)
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3)
        if config.weight_norm:
            for conv in self._normalised():
                parametrizations.weight_norm(conv)  # length over all axes but the first, of every kind
        self.post_init()

    def _normalised(self) -> list[nn.Conv1d | nn.ConvTranspose1d]:
        parts = (self.conv_pre, self.ups, self.resblocks, self.conv_post)
        inner = [module for part in parts for module in part.modules()]
        return [module for module in inner if isinstance(module, nn.Conv1d | nn.ConvTranspose1d)]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if parametrize.is_parametrized(module, "weight"):
                lengths = module.get_parameter("parametrizations.weight.original0")
                directions = module.get_parameter("parametrizations.weight.original1")
                nn.init.normal_(directions, std=0.01)
                lengths.copy_(directions.flatten(1).norm(dim=1).view_as(lengths))
            else:
                nn.init.normal_(module.weight, std=0.01)

    @torch.inference_mode(False)
    def fold_weight_norm(self) -> CodeHiFiGAN:
        """Convert normalised weights to plain ones, for inference; the model is then saved and loaded with these."""
        if self.config.weight_norm:
            for conv in self._normalised():
                weight = conv.weight.detach().clone()
                parametrize.remove_parametrizations(conv, "weight", leave_parametrized=True)
                del conv.weight  # a frozen weight would stay as a buffer
                conv.weight = nn.Parameter(weight)
            self.config.weight_norm = False
        return self

    def log_durations(self, units: Tensor) -> Tensor:
        """(B, U) ids padded with -1 -> (B, U): log(frames + 1) of each unit."""
        return self.dur_predictor(self.dict(units.clamp_min(0)), (units >= 0)[..., None])

    def predict_durations(self, units: Tensor) -> Tensor:
        """Frames of each unit, (B, U) int64, at least 1; 0 at padding (-1).

        Raises:
            FloatingPointError: a duration that is not finite.
        """
        return whole_frames(self.log_durations(units).float().exp() - 1, units)

    def vocode(self, units: Tensor, durations_frames: Tensor, speaker_ids: Tensor | None = None) -> Tensor:
        """Waveform (B, S) of checked units; without `speaker_ids` in the voice ``config.default_speaker_id``."""
        unit_of_frame, _, inside = frame_positions(durations_frames)
        return self._speak(units.gather(1, unit_of_frame).masked_fill(~inside, -1), speaker_ids)

    def begin(self) -> CodeHiFiGANState:
        """State of one row of speech before its first frame."""
        context = self.config.left_context_frames + self.config.right_context_frames
        return CodeHiFiGANState(torch.full((1, context), -1, device=self.dict.weight.device))

    def vocode_next(
        self, frames: NewFrames, state: CodeHiFiGANState, speaker_ids: Tensor | None = None
    ) -> tuple[Tensor, CodeHiFiGANState]:
        """Speak the next frames of rows of speech: see `UnitVocoder.vocode_next`; the context is computed again."""
        units, context = torch.cat([state.units, frames.units], 1), state.units.shape[1]
        after = CodeHiFiGANState(last_of(units[..., None], context, frames.counts)[..., 0])
        # Frames before the first unit of all rows are silent and are skipped.
        silent = int((units >= 0).any(0).int().argmax())
        first = min(silent, self.config.left_context_frames)
        sound = self._speak(units[:, first:], speaker_ids)
        per_frame = self.config.samples_per_frame
        sound = sound[:, (self.config.left_context_frames - first) * per_frame :]
        return sound[:, : frames.units.shape[1] * per_frame], after

    def _speak(self, units: Tensor, speaker_ids: Tensor | None) -> Tensor:
        """(B, F) unit of each frame, -1 where none -> (B, F * samples per frame)."""
        inside = units >= 0
        hidden = self.dict(units.clamp_min(0)).transpose(1, 2)
        if self.spkr is not None:
            if speaker_ids is None:
                speaker_ids = units.new_full((len(units),), self.config.default_speaker_id)
            hidden = torch.cat([hidden, self.spkr(speaker_ids)[..., None].expand(-1, -1, hidden.shape[2])], 1)
        return self._generate(hidden, inside[:, None])

    def _generate(self, hidden: Tensor, inside: Tensor) -> Tensor:
        """(B, E, F), mask (B, 1, F) -> (B, F * samples per frame)."""
        blocks = len(self.config.resblock_kernel_sizes)
        hidden = self.conv_pre(hidden * inside)
        for stage, up in enumerate(self.ups):
            hidden = up(nn.functional.leaky_relu(hidden, INNER_SLOPE) * inside)
            inside = inside.repeat_interleave(self.config.upsample_rates[stage], 2)
            mine = self.resblocks[stage * blocks : (stage + 1) * blocks]
            hidden = torch.stack([block(hidden, inside) for block in mine]).mean(0)
        hidden = nn.functional.leaky_relu(hidden, FINAL_SLOPE) * inside
        return torch.tanh(self.conv_post(hidden))[:, 0]
