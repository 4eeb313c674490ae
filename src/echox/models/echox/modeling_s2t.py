"""S2T: speech and text in, text out, with any causal language model of transformers.

Letters: B rows, N tokens, A audios (all rows together, in reading order), T mel frames (100/s), C CTC frames (25/s),
K kept frames, L positions of the language model (tokens and kept frames), H its width, V its vocabulary.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3); Soundwave (https://arxiv.org/abs/2502.12900, section 3).
"""

from __future__ import annotations

import copy
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin
from transformers.utils import ModelOutput

from echox.models.echox.chunked_loss import ctc_losses, token_losses
from echox.models.echox.configuration_echox import S2TConfig
from echox.models.echox.ctc import best_labels, collapse_ctc, mean_per_symbol, timed_ctc
from echox.models.echox.modeling_shrinking import CTCBridge, ShrinkingAdapter, gather_rows, keep_mask
from echox.models.echox.modeling_speech_encoder import AlignmentAdapter, SpeechEncoder, SpeechEncoderForCTC
from echox.models.echox.text_embeddings import check_head, embedding_scale, text_embedding_table, weight_of
from echox.models.pretrained import CausalLM, TypedPreTrainedModel, run_generate


@dataclass
class S2TOutput(ModelOutput):
    """What :class:`S2TForConditionalGeneration` returns. Positions count after the insertion of audio.

    Attributes:
        loss: ``s2t_loss + ctc_loss_weight * ctc_loss``, of those that were computed; None without labels.
        s2t_loss: cross-entropy per reply token. ctc_loss: nats per transcript token.
        logits: (B, L, V); None with ``labels`` (then only labelled positions are scored).
        last_hidden_state: (B, L, H); state i, through the head, predicts token i + 1.
        attention_mask: (B, L). labels: (B, L), -100 ignored, or None.
        ctc_mask: (A, C); None without audio.
        ctc_token_ids: greedy transcript of each audio.
    """

    loss: Tensor | None = None
    s2t_loss: Tensor | None = None
    ctc_loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    ctc_mask: Tensor | None = None
    ctc_token_ids: list[list[int]] | None = None


@dataclass
class EncodedAudio:
    """Audios in the form that the language model reads.

    Attributes:
        embeds: (K, H) of each audio, K >= 1.
        labels: (A, C) most likely CTC label of every frame. mask: (A, C) bool.
        ctc_loss: nats per transcript token; None without transcripts.
    """

    embeds: list[Tensor]
    labels: Tensor
    mask: Tensor
    ctc_loss: Tensor | None = None


class S2TForConditionalGeneration(TypedPreTrainedModel, GenerationMixin):
    """Audio tower, alignment adapter, CTC head, shrinking adapter, language model.

    Each ``audio_token_id`` in ``input_ids`` is replaced by the kept frames of one audio, in reading order: several
    audios per row, text beside audio and text-only rows are all allowed. The language model is any causal language
    model of transformers whose logits are the output of ``get_output_embeddings()``.
    """

    config: S2TConfig
    config_class = S2TConfig
    language_model: CausalLM
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _no_split_modules = ["WhisperEncoderLayer", "LlamaDecoderLayer"]

    def __init__(self, config: S2TConfig) -> None:
        super().__init__(config)
        check_head(config.text_config)
        if config.audio_token_id is None or not 0 <= config.audio_token_id < config.vocab_size:
            raise ValueError(
                f"audio_token_id: expected an id below the language model's vocab_size {config.vocab_size}, found "
                f"{config.audio_token_id}: set it to the tokenizer's audio placeholder"
            )
        width, heads = config.hidden_size, config.adapter_attention_heads
        self.audio_tower = SpeechEncoder(config.audio_config)
        self.alignment_adapter = AlignmentAdapter(
            config.audio_config.d_model,
            width,
            heads,
            config.adapter_intermediate_size,
            config.adapter_dropout,
            config.adapter_activation,
            config.compatible.frame_wise_adapter,
        )
        self.ctc_head = nn.Linear(width, config.vocab_size, bias=False)
        self.shrinking_adapter = ShrinkingAdapter(
            width, heads, config.adapter_dropout, config.compatible.look_back_at_kept
        )
        self.ctc_bridge = CTCBridge(width) if config.ctc_bridge else None
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.post_init()

    @classmethod
    def from_parts(
        cls, speech_encoder: SpeechEncoderForCTC, language_model: CausalLM, **settings: Any
    ) -> S2TForConditionalGeneration:
        """A model from a trained speech encoder and a trained language model: the start of stage I.

        Args:
            speech_encoder: gives audio tower, alignment adapter and CTC head.
            language_model: any causal language model with the vocabulary that the CTC head was trained on.
            settings: of :class:`S2TConfig`; sizes and ids come from the parts.

        Raises:
            ValueError: the CTC head's width or vocabulary is not the language model's.
        """
        heard = speech_encoder.config
        text_config = language_model.config
        for name in ("vocab_size", "hidden_size"):
            expected, found = getattr(text_config.get_text_config(), name), getattr(heard, name)
            if expected != found:
                raise ValueError(
                    f"{name}: expected the language model's {expected} in the speech encoder, found {found}: train the "
                    "encoder stage with this language model's tokenizer and width"
                )
        config = S2TConfig(
            audio_config=heard.audio_config,
            text_config=text_config,
            audio_token_id=heard.blank_token_id,
            **{name: getattr(heard, name) for name in vars(heard) if name.startswith("adapter_")},
            **settings,
        )
        model = cls(config)
        model.audio_tower.load_state_dict(speech_encoder.audio_tower.state_dict())
        model.alignment_adapter.load_state_dict(speech_encoder.alignment_adapter.state_dict())
        model.ctc_head.load_state_dict(speech_encoder.ctc_head.state_dict())
        model.language_model = language_model
        model.generation_config = language_model.generation_config
        with torch.no_grad():  # speech has the scale of text embeddings
            embedding = text_embedding_table(language_model.get_input_embeddings())
            model.shrinking_adapter.layer_norm.weight.fill_(float(embedding.float().square().mean().sqrt()))
        return model

    @property
    def audio_token_id(self) -> int:
        """The placeholder of an audio in ``input_ids``, and the CTC blank."""
        assert self.config.audio_token_id is not None  # checked by __init__
        return self.config.audio_token_id

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The language model's head."""
        return self.language_model.get_output_embeddings()

    # ------------------------------------------------------------------------------------------------------ speech

    def encode_audio(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        ctc_labels: Tensor | None = None,
        audios_together: int = 1,
    ) -> EncodedAudio:
        """Audios (A, mels, T), mask (A, T), to inputs of the language model.

        ``ctc_labels``: (A, M) transcripts, -100 padded, for the CTC loss.
        ``audios_together``: see `AlignmentAdapter.forward`.
        """
        encoded = self.audio_tower(input_features, input_features_mask)
        frames, mask = self.alignment_adapter(encoded.last_hidden_state, encoded.mask, audios_together)
        if ctc_labels is None:
            labels, ctc_loss = best_labels(self.ctc_head, frames), None
        else:
            losses, labels = ctc_losses(frames, self.ctc_head, mask, ctc_labels, self.audio_token_id)
            ctc_loss = mean_per_symbol(losses, ctc_labels)
        return EncodedAudio(self._shrink(frames, mask, labels), labels, mask, ctc_loss)

    def _shrink(self, frames: Tensor, mask: Tensor, labels: Tensor) -> list[Tensor]:
        """Frames (A, C, H), their mask and labels (A, C), to the language model's inputs (K, H) of each audio."""
        blank_id = self.audio_token_id if self.config.drop_blanks else None
        keep = keep_mask(labels, mask, blank_id)
        embeds, kept = self.shrinking_adapter(frames, mask, keep)
        if self.ctc_bridge is not None:
            kept_logits = self.ctc_head(gather_rows(frames, keep)[0])
            table = self.get_input_embeddings()
            embeds = self.ctc_bridge(kept_logits, embeds, weight_of(table), blank_id, embedding_scale(table))
        return [row[valid] for row, valid in zip(embeds, kept, strict=True)]

    @torch.inference_mode()
    def encode(
        self, input_features: Tensor, input_features_mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[list[int]]]:
        """For inference: (K, H) input states and the greedy transcript's token ids of each audio."""
        embeds, transcripts = self.encode_and_transcribe(input_features, input_features_mask)
        return embeds, [[token_id for token_id, _, _ in row] for row in transcripts]

    @torch.inference_mode()
    def encode_and_transcribe(
        self, input_features: Tensor, input_features_mask: Tensor | None = None
    ) -> tuple[list[Tensor], list[list[tuple[int, int, int]]]]:
        """As `encode`, with the first CTC frame of every token and the frame after its last (25 frames a second)."""
        heard = self.encode_audio(input_features, input_features_mask)
        return heard.embeds, timed_ctc(heard.labels, heard.mask, self.audio_token_id)

    @torch.inference_mode()
    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor
    ) -> Generator[None, None, tuple[Tensor, list[tuple[int, int, int]]]]:
        """`encode_and_transcribe` for one audio (1, mels, T) of any length, in steps of bounded time and memory."""
        encoded = yield from self.audio_tower.encode_gradually(input_features, input_features_mask)
        frames, mask = yield from self.alignment_adapter.adapt_gradually(encoded.last_hidden_state, encoded.mask)
        yield
        labels = best_labels(self.ctc_head, frames)
        yield
        (embeds,) = self._shrink(frames, mask, labels)
        return embeds, timed_ctc(labels, mask, self.audio_token_id)[0]

    @torch.inference_mode()
    def transcribe(self, input_features: Tensor, input_features_mask: Tensor | None = None) -> list[list[int]]:
        """Greedy CTC token ids of each audio."""
        encoded = self.audio_tower(input_features, input_features_mask)
        frames, mask = self.alignment_adapter(encoded.last_hidden_state, encoded.mask)
        return collapse_ctc(best_labels(self.ctc_head, frames), mask, self.audio_token_id)

    def splice(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        audio_embeds: list[Tensor] | None = None,
        labels: Tensor | None = None,
        padding_side: str = "right",
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Replace each audio placeholder by the audio's frames.

        Args:
            input_ids: (B, N), padded on either side where ``attention_mask`` (B, N) is 0.
            attention_mask: None = no padding.
            audio_embeds: (K, H) of each audio, in reading order over all rows.
            labels: (B, N), -100 ignored; an audio's positions get -100.
            padding_side: of the result: "right" to train, "left" to generate.

        Returns:
            inputs_embeds (B, L, H), attention_mask (B, L), labels (B, L) or None. Without audio the inputs keep their
            padding, unless it is at the right end and the result is for generation. Tokens that are hidden by
            `Compatibility.masked_token_id` are 0 in the mask, like padding, but have a position.

        Raises:
            ValueError: the number of placeholders is not the number of audios.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        audios = audio_embeds or []
        places = (input_ids == self.audio_token_id) & attention_mask.bool()
        if int(places.sum()) != len(audios):
            raise ValueError(
                f"expected one audio placeholder (id {self.audio_token_id}) in input_ids for each of the "
                f"{len(audios)} audios, found {int(places.sum())}: format every audio turn with the chat template"
            )
        embeds = self.get_input_embeddings()(input_ids)
        seen = attention_mask
        hidden_id = self.config.compatible.masked_token_id
        if hidden_id is not None:
            seen = attention_mask * (input_ids != hidden_id)
        # Scoring works with padding on either side; generation continues at the right end, which must be real.
        if not audios and (padding_side == "right" or bool(attention_mask[:, -1].all())):
            return embeds, seen, labels
        rows, row_labels, mask = [], [], []
        waiting = iter(audios)
        for row in range(len(input_ids)):
            valid = attention_mask[row].bool()
            row_embeds, row_places = embeds[row][valid], places[row][valid].nonzero().flatten().tolist()
            targets = labels[row][valid] if labels is not None else None
            row_seen = seen[row][valid]
            parts, target_parts, seen_parts, start = [], [], [], 0
            for place in row_places:
                audio = next(waiting).to(row_embeds.dtype)
                parts += [row_embeds[start:place], audio]
                seen_parts += [row_seen[start:place], row_seen.new_ones(len(audio))]
                if targets is not None:
                    target_parts += [targets[start:place], targets.new_full((len(audio),), -100)]
                start = place + 1
            rows.append(torch.cat([*parts, row_embeds[start:]]))
            mask.append(torch.cat([*seen_parts, row_seen[start:]]))
            if targets is not None:
                row_labels.append(torch.cat([*target_parts, targets[start:]]))
        pad = nn.utils.rnn.pad_sequence
        return (
            pad(rows, batch_first=True, padding_side=padding_side),
            pad(mask, batch_first=True, padding_side=padding_side),
            pad(row_labels, batch_first=True, padding_value=-100, padding_side=padding_side) if row_labels else None,
        )

    # ------------------------------------------------------------------------------------------------------ text

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        labels: Tensor | None = None,
        ctc_labels: Tensor | None = None,
    ) -> S2TOutput:
        """Score dialogues.

        Args:
            input_ids: (B, N) with one placeholder per audio.
            attention_mask: (B, N).
            input_features: (A, mels, T), the audios in reading order; None = all turns are text.
            input_features_mask: (A, T).
            labels: (B, N) reply tokens at their own positions, -100 elsewhere (shifted here).
            ctc_labels: (A, M) transcript tokens, -100 padded.

        Raises:
            ValueError: the number of placeholders is not the number of audios; ctc_labels without audio.
        """
        heard = None
        if input_features is not None:
            heard = self.encode_audio(input_features, input_features_mask, ctc_labels)
        embeds, attention_mask, labels = self.splice(
            input_ids, attention_mask, heard.embeds if heard is not None else None, labels
        )
        states = self._run(embeds, attention_mask)
        loss: Tensor | None = None
        s2t_loss = ctc_loss = logits = None
        if labels is None:
            logits = self.get_output_embeddings()(states)
        else:
            loss = s2t_loss = self._cross_entropy(states, labels)
        if ctc_labels is not None:
            if heard is None or heard.ctc_loss is None:
                raise ValueError("ctc_labels were given without input_features: there is no audio to transcribe")
            ctc_loss = heard.ctc_loss
            loss = self.config.ctc_loss_weight * ctc_loss + (0.0 if loss is None else loss)
        return S2TOutput(
            loss=loss,
            s2t_loss=s2t_loss,
            ctc_loss=ctc_loss,
            logits=logits,
            last_hidden_state=states,
            attention_mask=attention_mask,
            labels=labels,
            ctc_mask=heard.mask if heard is not None else None,
            ctc_token_ids=(
                collapse_ctc(heard.labels, heard.mask, self.audio_token_id)
                if heard is not None and not self.training
                else None
            ),
        )

    def _run(self, embeds: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states (B, L, H), after the language model's final norm."""
        output = self.language_model.base_model(
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=positions_of(attention_mask),
            use_cache=False,
        )
        return output.last_hidden_state

    def _cross_entropy(self, states: Tensor, labels: Tensor) -> Tensor:
        """Next-token loss; only positions that predict a label are scored (a large vocabulary needs much memory)."""
        targets = labels[:, 1:]
        predicts = targets != -100
        if not bool(predicts.any()):
            raise ValueError(
                "labels: expected at least one position that is not -100, found none; label the reply's tokens"
            )
        losses, _ = token_losses(states[:, :-1][predicts], self.get_output_embeddings(), targets[predicts])
        return losses.mean()

    @torch.inference_mode()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        input_features_mask: Tensor | None = None,
        **choices: Any,
    ) -> Tensor:
        """Write replies: (B, at most max_new_tokens) new tokens only, padded on the right.

        Inputs as in `forward`; ``choices`` go to the language model's ``generate``.
        """
        heard = None if input_features is None else self.encode_audio(input_features, input_features_mask).embeds
        embeds, attention_mask, _ = self.splice(input_ids, attention_mask, heard, padding_side="left")
        settings = copy.deepcopy(choices.pop("generation_config", self.generation_config))
        others = settings.update(**choices)  # arguments that are not settings: streamer, stopping_criteria, ...
        return run_generate(
            self.language_model,
            inputs_embeds=embeds,
            attention_mask=attention_mask,
            position_ids=positions_of(attention_mask),
            generation_config=settings,
            **others,
        )


def positions_of(attention_mask: Tensor) -> Tensor:
    """Positions (B, L), counted from the first that is not padding; hidden tokens within a row have a position too."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (places - attention_mask.long().argmax(dim=1, keepdim=True)).clamp_min(0)


AutoModel.register(S2TConfig, S2TForConditionalGeneration, exist_ok=True)
