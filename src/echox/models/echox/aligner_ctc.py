"""Aligner "ctc", the method as published: alignment adapter, CTC head, shrinking adapter, and our CTC bridge.

Letters: A audios, T inputs of the tower, C CTC frames (half the tower's), K kept frames, H width of the language model.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3); Soundwave (https://arxiv.org/abs/2502.12900, section 3).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from echox.models.echox.aligner import Aligner, Draft, EncodedAudio, TimedToken
from echox.models.echox.configuration_echox import S2TConfig
from echox.models.echox.ctc import best_labels, collapse_ctc, mean_per_symbol, timed_ctc
from echox.models.echox.modeling_shrinking import CTCBridge, ShrinkingAdapter, gather_rows, keep_mask
from echox.models.echox.modeling_speech_encoder import AlignmentAdapter
from echox.models.text.chunked_loss import ctc_losses
from echox.models.text.retokenization import Retokenizer
from echox.models.text.text_embeddings import embedding_scale, weight_of
from echox.models.towers.auto import AutoAudioTower
from echox.models.towers.base import AudioTower


@dataclass
class CTCEncodedAudio(EncodedAudio):
    """See `EncodedAudio`; K >= 1.

    Attributes:
        labels: (A, C) most likely CTC label of every frame. mask: (A, C) bool. blank_id: label of the CTC blank.
    """

    labels: Tensor
    mask: Tensor
    blank_id: int

    def transcripts(self) -> list[list[TimedToken]]:
        """See `EncodedAudio`."""
        return timed_ctc(self.labels, self.mask, self.blank_id)


@dataclass(frozen=True)
class CTCAligner(Aligner):
    """See the module; the attributes are parts of the model.

    CTC is peaky (Zeyer et al. 2021, arXiv 2105.14849): a token is written in one or two frames within its sound.
    """

    token_reach_s: ClassVar[float] = 0.25

    audio_tower: AudioTower
    alignment_adapter: AlignmentAdapter
    ctc_head: nn.Linear
    shrinking_adapter: ShrinkingAdapter
    ctc_bridge: CTCBridge | None
    embedding: nn.Module
    blank_id: int
    drop_blanks: bool
    transcript_frames_per_s: float

    @classmethod
    def build(cls, config: S2TConfig) -> dict[str, nn.Module | None]:
        """See `Aligner`."""
        width, heads = config.hidden_size, config.adapter_attention_heads
        compatible = config.compatible
        return {
            "alignment_adapter": AlignmentAdapter(
                AutoAudioTower.spec(config.audio_config).width,
                width,
                heads,
                config.adapter_intermediate_size,
                config.adapter_dropout,
                config.adapter_activation,
                compatible.frame_wise_adapter,
            ),
            "ctc_head": nn.Linear(width, config.vocab_size, bias=False),
            "shrinking_adapter": ShrinkingAdapter(width, heads, config.adapter_dropout, compatible.look_back_at_kept),
            "ctc_bridge": CTCBridge(width) if config.ctc_bridge else None,
        }

    @classmethod
    def of(cls, config: S2TConfig, parts: Mapping[str, nn.Module | None], embedding: nn.Module) -> CTCAligner:
        """See `Aligner`."""
        tower, adapter, head = parts["audio_tower"], parts["alignment_adapter"], parts["ctc_head"]
        shrinking, bridge = parts["shrinking_adapter"], parts.get("ctc_bridge")
        assert isinstance(tower, AudioTower)
        assert isinstance(adapter, AlignmentAdapter)
        assert isinstance(head, nn.Linear)
        assert isinstance(shrinking, ShrinkingAdapter)
        assert bridge is None or isinstance(bridge, CTCBridge)
        assert config.audio_token_id is not None  # checked by the model
        return cls(
            tower,
            adapter,
            head,
            shrinking,
            bridge,
            embedding,
            config.audio_token_id,
            config.drop_blanks,
            tower.spec.frames_per_s / 2,
        )

    def trained_parts(self) -> list[nn.Module]:
        """See `Aligner`."""
        parts = (self.alignment_adapter, self.ctc_head, self.shrinking_adapter, self.ctc_bridge)
        return [part for part in parts if part is not None]

    def encode(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        ctc_labels: Tensor | None = None,
        audios_together: int = 1,
        retokenizer: Retokenizer | None = None,
        drafts: Sequence[Draft] = (),
    ) -> CTCEncodedAudio:
        """See `Aligner`."""
        encoded = self.audio_tower(input_features, input_features_mask)
        frames, mask = self.alignment_adapter(encoded.last_hidden_state, encoded.mask, audios_together)
        if ctc_labels is None:
            labels, ctc_loss = best_labels(self.ctc_head, frames), None
        else:
            losses, labels = ctc_losses(frames, self.ctc_head, mask, ctc_labels, self.blank_id)
            ctc_loss = mean_per_symbol(losses, ctc_labels)
        return CTCEncodedAudio(self._shrink(frames, mask, labels), ctc_loss, labels, mask, self.blank_id)

    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor, retokenizer: Retokenizer | None = None
    ) -> Generator[None, None, CTCEncodedAudio]:
        """See `Aligner`."""
        encoded = yield from self.audio_tower.encode_gradually(input_features, input_features_mask)
        frames, mask = yield from self.alignment_adapter.adapt_gradually(encoded.last_hidden_state, encoded.mask)
        yield
        labels = best_labels(self.ctc_head, frames)
        yield
        return CTCEncodedAudio(self._shrink(frames, mask, labels), None, labels, mask, self.blank_id)

    def transcribe(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        retokenizer: Retokenizer | None = None,
    ) -> list[list[int]]:
        """See `Aligner`: without the shrinking adapter."""
        encoded = self.audio_tower(input_features, input_features_mask)
        frames, mask = self.alignment_adapter(encoded.last_hidden_state, encoded.mask)
        return collapse_ctc(best_labels(self.ctc_head, frames), mask, self.blank_id)

    def _shrink(self, frames: Tensor, mask: Tensor, labels: Tensor) -> list[Tensor]:
        """Frames (A, C, H), their mask and labels (A, C), to the language model's inputs (K, H) of each audio."""
        blank_id = self.blank_id if self.drop_blanks else None
        keep = keep_mask(labels, mask, blank_id)
        embeds, kept = self.shrinking_adapter(frames, mask, keep)
        if self.ctc_bridge is not None:
            kept_logits = self.ctc_head(gather_rows(frames, keep)[0])
            table = self.embedding
            embeds = self.ctc_bridge(kept_logits, embeds, weight_of(table), blank_id, embedding_scale(table))
        return [row[valid] for row, valid in zip(embeds, kept, strict=True)]
