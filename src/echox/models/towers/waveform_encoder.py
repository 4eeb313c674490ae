"""Layer states of encoders that read waveforms (HuBERT, mHuBERT, wav2vec 2.0, WavLM), in batches.

Padding must not change a state. It would change the output of the first convolutions (HuBERT base normalises over the
whole time axis), so each waveform goes through them alone. Their output, 320 times shorter, is batched, with a mask,
for the other layers, which cost most.

Source: HuBERT (https://arxiv.org/abs/2106.07447); mHuBERT's layer 11 as units in EchoX
(https://arxiv.org/abs/2509.09174, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import HubertModel, Wav2Vec2Model, WavLMModel

    WaveformEncoder = HubertModel | Wav2Vec2Model | WavLMModel


def check_waveform_encoder(encoder: WaveformEncoder) -> None:
    """Check that `waveform_states` can run an encoder.

    Raises:
        ValueError: an encoder of another kind.
    """
    parts = ("feature_extractor", "feature_projection", "encoder")
    if any(not hasattr(encoder, name) for name in parts) or not hasattr(encoder.encoder, "layers"):
        raise ValueError(
            f"expected a Whisper encoder or one of the wav2vec 2.0 family ({', '.join(parts)}), found "
            f"{type(encoder).__name__}; load HubertModel, Wav2Vec2Model or WavLMModel, without a head"
        )


def encoder_frame_rate_hz(encoder: WaveformEncoder, sampling_rate: int) -> float:
    """Frames per second after the convolutions: 50 for the whole family at 16 kHz."""
    return sampling_rate / math.prod(encoder.config.conv_stride)


def waveform_states(encoder: WaveformEncoder, waveforms: Sequence[Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """States between layers, equal to ``encoder(..., output_hidden_states=True).hidden_states[layer]`` of each alone.

    Args:
        encoder: see `check_waveform_encoder`; in eval mode.
        waveforms: (S,) each, normalised as its feature extractor does.
        layer: 0 is the input of the first layer, n the output of the n-th.

    Returns:
        (B, F, D) float32 and mask (B, F) bool; frames after an item's end are undefined.

    Raises:
        ValueError: a waveform too short for one frame.
    """
    hidden, mask = encoder_frames(encoder, waveforms)
    _, (states,) = run_layers(encoder, hidden, mask, [layer])
    return states.float(), mask


def run_layers(
    encoder: WaveformEncoder, hidden: Tensor, mask: Tensor, wanted: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """The output (B, F, D) of the Transformer for the frames of `encoder_frames`, and the states of the wanted layers.

    Layer 0 is the input of the first layer, n the output of the n-th, before any final norm.
    """
    layers = encoder.encoder.layers
    seen: dict[int, Tensor] = {}

    def keep(layer: int, value: Tensor | tuple[Tensor, ...]) -> None:
        seen[layer] = value[0] if isinstance(value, tuple) else value

    hooks = [
        layers[layer - 1].register_forward_hook(lambda _, arguments, output, layer=layer: keep(layer, output))
        if layer > 0
        else layers[0].register_forward_pre_hook(lambda _, arguments: keep(0, arguments))
        for layer in wanted
    ]
    try:
        output = encoder.encoder(hidden, attention_mask=None if bool(mask.all()) else mask)
    finally:
        for hook in hooks:
            hook.remove()
    return output.last_hidden_state, [seen[layer] for layer in wanted]


def encoder_frames(encoder: WaveformEncoder, waveforms: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Inputs (B, F, D) of the Transformer, and their mask (B, F) bool.

    Args:
        encoder: see `check_waveform_encoder`.
        waveforms: (S,) each; every one goes through the convolutions alone.

    Raises:
        ValueError: a waveform too short for one frame.
    """
    short = [len(row) for row in waveforms if int(encoder._get_feat_extract_output_lengths(len(row))) < 1]
    if short:
        raise ValueError(f"expected at least one frame of audio, found {short[0]} samples; leave such audio out")
    dtype = next(encoder.parameters()).dtype
    rows = [encoder.feature_extractor(row[None].to(dtype))[0].T for row in waveforms]  # (F, channels) each
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    projected = encoder.feature_projection(nn.utils.rnn.pad_sequence(rows, batch_first=True))
    hidden = projected[0] if isinstance(projected, tuple) else projected  # wav2vec 2.0 returns its input as well
    mask = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
    return hidden, mask
