"""Speech encoder: a Whisper encoder with masks, the alignment adapter, and their CTC training.

Letters: A audios, T mel frames (100/s), F encoder frames (50/s), C CTC frames (25/s), D encoder width, H width of the
language model, V its vocabulary, P phones including the blank.

Source: Whisper (https://arxiv.org/abs/2212.04356); alignment adapter of Soundwave (https://arxiv.org/abs/2502.12900,
section 3.1) as used by EchoX (https://arxiv.org/abs/2509.09174, section 3).
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, WhisperConfig, initialization
from transformers.models.whisper.modeling_whisper import WhisperEncoder, sinusoids
from transformers.utils import ModelOutput

from echox.models.echox.chunked_loss import ctc_losses
from echox.models.echox.configuration_echox import PHONE_BLANK_ID, SpeechEncoderConfig
from echox.models.echox.ctc import (
    ctc_loss_per_symbol,
    greedy_ctc,
    mean_per_symbol,
)
from echox.models.pretrained import TypedPreTrainedModel, load_with_report


class SpeechEncoderOutput(NamedTuple):
    """What :class:`SpeechEncoder` returns.

    Attributes:
        last_hidden_state: (A, F, D), after the final LayerNorm; padded frames have no meaning.
        mask: (A, F) bool, true frames.
        hidden_states: outputs before layer 1, after layer 1, ... (A, F, D) each, none of them through the final
            LayerNorm; None unless asked for.
    """

    last_hidden_state: Tensor
    mask: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


class SpeechEncoder(WhisperEncoder):
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
    def from_whisper(cls, name_or_path: str | os.PathLike[str], **kwargs: Any) -> SpeechEncoder:
        """The encoder of any Whisper, weights unchanged; the decoder is not read.

        Args:
            name_or_path: hub id or folder of a WhisperModel, of a WhisperForConditionalGeneration, or of an encoder
                alone; of any size, 80 or 128 mels.
            **kwargs: of ``from_pretrained``: ``dtype``, ``revision`` ...

        Raises:
            ValueError: it holds no Whisper encoder, or not all of its weights.
        """
        config = kwargs.pop("config", None) or AutoConfig.from_pretrained(name_or_path)
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
    ) -> SpeechEncoderOutput:
        """Encode log-mel features.

        Args:
            input_features: (A, mels, T), padded on the right.
            input_features_mask: (A, T), 1 at true frames; None = all true.
            output_hidden_states: also return the states between layers.

        Raises:
            ValueError: wrong number of mel bins or dimensions, a mask of another shape, an audio without frames.
        """
        if input_features.ndim != 3 or input_features.shape[1] != self.num_mel_bins:
            raise ValueError(
                f"input_features: expected (audios, {self.num_mel_bins}, frames), found {tuple(input_features.shape)}: "
                "use the feature extractor saved beside this model"
            )
        audios, _, frames = input_features.shape
        if input_features_mask is None:
            mask = input_features.new_ones((audios, frames), dtype=torch.bool)
        else:
            mask = input_features_mask.bool()
        if mask.shape != (audios, frames):
            raise ValueError(f"input_features_mask: expected {(audios, frames)}, found {tuple(mask.shape)}")
        if frames == 0 or not bool(mask.any(dim=1).all()):
            raise ValueError("input_features: expected at least one true frame per audio, found an empty audio")
        if frames <= self.window_frames:
            return self._encode(input_features, mask, output_hidden_states)
        return self._encode_windows(input_features, mask, output_hidden_states)

    def _encode_windows(self, features: Tensor, mask: Tensor, output_hidden_states: bool) -> SpeechEncoderOutput:
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
        return SpeechEncoderOutput(
            last_hidden_state=unfold(output.last_hidden_state),
            mask=unfold(output.mask),
            hidden_states=tuple(unfold(state) for state in states) if states is not None else None,
        )

    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, SpeechEncoderOutput]:
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
        return SpeechEncoderOutput(torch.cat(states, dim=1), torch.cat(masks, dim=1))

    def _encode(self, features: Tensor, mask: Tensor, output_hidden_states: bool) -> SpeechEncoderOutput:
        """One window or less: (N, mels, T) -> (N, ceil(T / 2), D)."""
        hidden, frame_mask, attention_mask = self._frames(features, mask)
        states = [hidden]
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
            states.append(hidden)
        return SpeechEncoderOutput(
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
        logits: (A, C, V) over the text vocabulary, 25 frames/s; None with ``labels``. mask: (A, C).
        phone_logits: (A, F, P), 50 frames/s; None without a phone head. phone_mask: (A, F).
        adapted: (A, C, H), the inputs of the shrinking adapter.
    """

    loss: Tensor | None = None
    ctc_loss: Tensor | None = None
    phone_loss: Tensor | None = None
    logits: Tensor | None = None
    mask: Tensor | None = None
    phone_logits: Tensor | None = None
    phone_mask: Tensor | None = None
    adapted: Tensor | None = None


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
        width = config.audio_config.d_model
        self.audio_tower = SpeechEncoder(config.audio_config)
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
    def from_whisper(cls, name_or_path: str | os.PathLike[str], **settings: Any) -> SpeechEncoderForCTC:
        """The encoder of any Whisper with a new adapter and new heads: the start of Soundwave's training.

        Args:
            name_or_path: see `SpeechEncoder.from_whisper`.
            **settings: of `SpeechEncoderConfig`.

        Raises:
            ValueError: no Whisper encoder, or settings that do not fit.
        """
        tower = SpeechEncoder.from_whisper(name_or_path)
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
            input_features: (A, mels, T).
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
            adapted=adapted,
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
