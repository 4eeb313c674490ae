"""Speech encoder: an audio tower, the alignment adapter, and their CTC training.

Letters: A audios, T inputs of the tower, F encoder frames, C CTC frames (F / 2), D encoder width, H width of the
language model, V its vocabulary, P phones including the blank.

Source: alignment adapter of Soundwave (https://arxiv.org/abs/2502.12900,
section 3.1) as used by EchoX (https://arxiv.org/abs/2509.09174, section 3).
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers.utils import ModelOutput

from echox.models.echox.configuration_echox import PHONE_BLANK_ID, SpeechEncoderConfig
from echox.models.echox.ctc import (
    ctc_loss_per_symbol,
    greedy_ctc,
    mean_per_symbol,
)
from echox.models.pretrained import TypedPreTrainedModel
from echox.models.text.chunked_loss import ctc_losses
from echox.models.towers.auto import AutoAudioTower


class AlignmentAdapter(nn.Module):
    """Maps two neighbouring frames to one vector of the language model's width, in context.

    Two frames are concatenated (50/s to 25/s); then a Linear to H, one pre-norm Transformer encoder layer that attends
    over time with a mask, and a LayerNorm. With ``frame_wise`` (see `Compatibility`) it does not attend over time.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        attention_heads: int,
        intermediate_size: int | None = None,
        dropout: float = 0.1,
        activation: str = "relu",
        frame_wise: bool = False,
    ) -> None:
        super().__init__()
        self.frame_wise = frame_wise
        self.projection = nn.Linear(2 * input_size, hidden_size)
        self.layer = nn.TransformerEncoderLayer(
            hidden_size,
            attention_heads,
            dim_feedforward=intermediate_size or 2 * hidden_size,
            dropout=dropout,
            activation=activation,
            batch_first=True,
            norm_first=True,
        )
        self.layer_norm = nn.LayerNorm(hidden_size)

    def forward(self, states: Tensor, mask: Tensor, audios_together: int = 1) -> tuple[Tensor, Tensor]:
        """(A, F, D), (A, F) bool -> (A, C, H), (A, C) bool with C = ceil(F / 2); zeros follow an odd last frame.

        ``audios_together``, for ``frame_wise`` only: the number of consecutive audios (of one dialogue) that attend to
        each other frame by frame, as in the training of the released weights (1 at inference).
        """
        projected, mask = self._project(states, mask)
        if self.frame_wise:
            audios, frames, width = projected.shape
            beside = projected.view(-1, audios_together, frames, width).transpose(1, 2)
            hidden = self.layer(beside.reshape(-1, audios_together, width))
            hidden = hidden.view(-1, frames, audios_together, width).transpose(1, 2).reshape(audios, frames, width)
        else:
            hidden = self.layer(projected, src_key_padding_mask=None if bool(mask.all()) else ~mask)
        return self.layer_norm(hidden), mask

    def adapt_gradually(
        self, states: Tensor, mask: Tensor, block_frames: int = 512
    ) -> Generator[None, None, tuple[Tensor, Tensor]]:
        """`forward` in evaluation mode, in steps of bounded memory: each step computes attention of some frames.

        Five minutes of audio are 7,500 frames, and all of them at once 57 million pairs for each head.
        """
        if self.frame_wise:
            return self(states, mask)
        projected, mask = self._project(states, mask)
        layer, attention = self.layer, self.layer.self_attn
        heads = (*projected.shape[:2], attention.num_heads, attention.head_dim)
        normed = layer.norm1(projected)
        query, key, value = (
            part.view(heads).transpose(1, 2)
            for part in F.linear(normed, attention.in_proj_weight, attention.in_proj_bias).chunk(3, dim=-1)
        )
        key_mask = None if bool(mask.all()) else mask[:, None, None, :]
        parts = []
        for start in range(0, projected.shape[1], block_frames):
            yield
            block = slice(start, start + block_frames)
            seen = F.scaled_dot_product_attention(query[:, :, block], key, value, attn_mask=key_mask)
            hidden = projected[:, block] + attention.out_proj(seen.transpose(1, 2).flatten(2))
            hidden = hidden + layer.linear2(layer.activation(layer.linear1(layer.norm2(hidden))))
            parts.append(self.layer_norm(hidden))
        return torch.cat(parts, dim=1), mask

    def _project(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Two frames to one: (A, F, D), (A, F) -> (A, C, H), (A, C)."""
        states = states.masked_fill(~mask[..., None], 0.0)
        if states.shape[1] % 2:
            states, mask = F.pad(states, (0, 0, 0, 1)), F.pad(mask, (0, 1))
        return self.projection(states.reshape(states.shape[0], states.shape[1] // 2, -1)), mask[:, ::2]


@dataclass
class SpeechEncoderForCTCOutput(ModelOutput):
    """Losses and scores of :class:`SpeechEncoderForCTC`.

    Attributes:
        loss: ``ctc_loss + phone_loss_weight * phone_loss``; None without labels.
        ctc_loss, phone_loss: nats per target symbol, mean over audios.
        logits: (A, C, V) over the text vocabulary; None with ``labels``. mask: (A, C).
        phone_logits: (A, F, P); None without a phone head. phone_mask: (A, F).
    """

    loss: Tensor | None = None
    ctc_loss: Tensor | None = None
    phone_loss: Tensor | None = None
    logits: Tensor | None = None
    mask: Tensor | None = None
    phone_logits: Tensor | None = None
    phone_mask: Tensor | None = None


class SpeechEncoderForCTC(TypedPreTrainedModel):
    """Audio tower, alignment adapter and CTC heads: speech to words (and phones).

    After training, S2T uses the tower (frozen) and starts from adapter and CTC head; the phone head is for the judge of
    synthesised speech.
    """

    config: SpeechEncoderConfig
    config_class = SpeechEncoderConfig
    base_model_prefix = "speech_encoder"
    main_input_name = "input_features"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, config: SpeechEncoderConfig) -> None:
        super().__init__(config)
        if config.blank_token_id is None or not 0 <= config.blank_token_id < config.vocab_size:
            raise ValueError(
                f"blank_token_id: expected an id below vocab_size {config.vocab_size}, found {config.blank_token_id}: "
                "pass the tokenizer's audio token"
            )
        width = AutoAudioTower.spec(config.audio_config).width
        self.audio_tower = AutoAudioTower.from_config(config.audio_config)
        self.alignment_adapter = AlignmentAdapter(
            width,
            config.hidden_size,
            config.adapter_attention_heads,
            config.adapter_intermediate_size,
            config.adapter_dropout,
            config.adapter_activation,
        )
        self.ctc_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.phone_head = (
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(config.phones) + 1)) if config.phones else None
        )
        self.post_init()

    @classmethod
    def from_tower(cls, name_or_path: str | os.PathLike[str], **settings: Any) -> SpeechEncoderForCTC:
        """The encoder of a published checkpoint with a new adapter and new heads: the start of Soundwave's training.

        Args:
            name_or_path: see `AutoAudioTower.from_checkpoint`; a Whisper, for example.
            **settings: of `SpeechEncoderConfig`.

        Raises:
            ValueError: no encoder of a known family, or settings that do not fit.
        """
        tower = AutoAudioTower.from_checkpoint(name_or_path)
        model = cls(SpeechEncoderConfig(audio_config=tower.config, **settings))
        model.audio_tower = tower
        return model

    def forward(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        labels: Tensor | None = None,
        phone_labels: Tensor | None = None,
    ) -> SpeechEncoderForCTCOutput:
        """CTC losses of audios against their transcripts.

        Args:
            input_features: see `AudioTower.forward`.
            input_features_mask: (A, T).
            labels: (A, N) token ids of the written text, -100 padded.
            phone_labels: (A, M) phone classes, -100 padded.
        """
        encoded = self.audio_tower(
            input_features, input_features_mask, output_hidden_states=self.phone_head is not None
        )
        adapted, mask = self.alignment_adapter(encoded.last_hidden_state, encoded.mask)
        logits = phone_logits = None
        if self.phone_head is not None:
            phone_logits = self.phone_head(encoded.hidden_states[self.config.phone_layer])
        ctc_loss = phone_loss = loss = None
        if labels is None:
            logits = self.ctc_head(adapted)
        else:
            losses, _ = ctc_losses(adapted, self.ctc_head, mask, labels, self.blank_token_id)
            loss = ctc_loss = mean_per_symbol(losses, labels)
        if phone_labels is not None:
            if phone_logits is None:
                raise ValueError("phone_labels were given, but this model has no phone head: set phones in its config")
            phone_loss = ctc_loss_per_symbol(phone_logits, encoded.mask, phone_labels, PHONE_BLANK_ID)
            loss = self.config.phone_loss_weight * phone_loss + (0.0 if loss is None else loss)
        return SpeechEncoderForCTCOutput(
            loss=loss,
            ctc_loss=ctc_loss,
            phone_loss=phone_loss,
            logits=logits,
            mask=mask,
            phone_logits=phone_logits,
            phone_mask=encoded.mask,
        )

    @property
    def blank_token_id(self) -> int:
        """The CTC blank of the text head."""
        assert self.config.blank_token_id is not None  # checked by __init__
        return self.config.blank_token_id

    def phone_ids(self) -> dict[str, int]:
        """Class of every phone in the phone head's output."""
        return {phone: index + PHONE_BLANK_ID + 1 for index, phone in enumerate(self.config.phones)}

    @torch.inference_mode()
    def transcribe(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> list[list[int]]:
        """Greedy CTC token ids of each audio."""
        output = self(input_features, input_features_mask)
        return greedy_ctc(output.logits, output.mask, self.blank_token_id)


AutoModel.register(SpeechEncoderConfig, SpeechEncoderForCTC, exist_ok=True)
