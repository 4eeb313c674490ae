"""S2T: speech and text in, text out, with any causal language model of transformers.

How audio becomes inputs of the language model is the aligner's part (`aligner.py`).

Letters: B rows, N tokens, A audios (all rows together, in reading order), T inputs of the audio tower, K positions of
an audio, L positions of the language model (tokens and audios), H its width, V its vocabulary.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3); Soundwave (https://arxiv.org/abs/2502.12900, section 3).
"""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.utils import ModelOutput

from echox.models import packing
from echox.models.echox.aligner import Aligner, Draft, EncodedAudio, TimedToken
from echox.models.echox.aligner_ctc import CTCAligner
from echox.models.echox.aligner_recogniser import RecogniserAligner
from echox.models.echox.configuration_echox import S2TConfig
from echox.models.echox.modeling_speech_encoder import SpeechEncoderForCTC
from echox.models.pretrained import CausalLM, TypedPreTrainedModel, run_generate
from echox.models.text.chunked_loss import token_losses
from echox.models.text.retokenization import Retokenizer
from echox.models.text.text_embeddings import check_head, text_embedding_table, weight_of
from echox.models.towers.auto import AutoAudioTower
from echox.models.towers.base import AudioTower
from echox.models.zero_loss import zero_loss

ALIGNERS: dict[str, type[Aligner]] = {"ctc": CTCAligner, "recogniser": RecogniserAligner}
"""Aligners by the name in `S2TConfig.aligner`."""


@dataclass
class S2TOutput(ModelOutput):
    """What :class:`S2TForConditionalGeneration` returns. Positions count after the insertion of audio.

    Attributes:
        loss: ``s2t_loss + ctc_loss_weight * ctc_loss``, of those that were computed; None without labels.
        s2t_loss: cross-entropy per reply token. ctc_loss: nats per transcript token.
        logits: (B, L, V); None with ``labels`` (then only labelled positions are scored).
        last_hidden_state: (B, L, H); state i, through the head, predicts token i + 1.
        attention_mask: (B, L). labels: (B, L), -100 ignored, or None.
        transcripts: token ids of each audio, as heard; None without audio or in training.
    """

    loss: Tensor | None = None
    s2t_loss: Tensor | None = None
    ctc_loss: Tensor | None = None
    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    attention_mask: Tensor | None = None
    labels: Tensor | None = None
    transcripts: list[list[int]] | None = None


class S2TForConditionalGeneration(TypedPreTrainedModel, GenerationMixin):
    """Audio tower, the parts of the aligner, language model.

    Each ``audio_token_id`` in ``input_ids`` is replaced by the positions of one audio, in reading order: several
    audios per row, text beside audio and text-only rows are all allowed. The language model is any causal language
    model of transformers whose logits are the output of ``get_output_embeddings()``.
    """

    config: S2TConfig
    config_class = S2TConfig
    audio_tower: AudioTower
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
        self.audio_tower = AutoAudioTower.from_config(config.audio_config)
        for name, part in ALIGNERS[config.aligner].build(config).items():
            self.register_module(name, part)
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
        for name in ("audio_tower", "alignment_adapter", "ctc_head"):
            model.get_submodule(name).load_state_dict(speech_encoder.get_submodule(name).state_dict())
        model._begin_with(language_model, "shrinking_adapter")
        return model

    @classmethod
    def from_recogniser(
        cls, recogniser: PreTrainedModel, language_model: CausalLM, audio_token_id: int, **settings: Any
    ) -> S2TForConditionalGeneration:
        """A model that hears with a published recogniser (aligner "recogniser"): the start of stage I.

        Args:
            recogniser: encoder and decoder, as transformers has them.
            language_model: any causal language model with the audio placeholder in its vocabulary.
            audio_token_id: the placeholder.
            settings: of :class:`S2TConfig`.

        Raises:
            ValueError: a family that has no recogniser here.
        """
        config = S2TConfig(
            audio_config=recogniser.config,
            text_config=language_model.config,
            audio_token_id=audio_token_id,
            aligner="recogniser",
            **settings,
        )
        model = cls(config)
        model.audio_tower.load_state_dict(recogniser.get_encoder().state_dict())
        model.get_submodule("recogniser").load_state_dict(recogniser.get_decoder().state_dict())
        model._begin_with(language_model, "residual_adapter")
        return model

    @torch.no_grad()
    def _begin_with(self, language_model: CausalLM, last_adapter: str) -> None:
        """Take a language model; the output of the aligner's last adapter gets the scale of its text embeddings."""
        self.language_model = language_model
        self.generation_config = language_model.generation_config
        embedding = text_embedding_table(language_model.get_input_embeddings())
        scale = weight_of(self.get_submodule(last_adapter).get_submodule("layer_norm"))
        scale.fill_(float(embedding.float().square().mean().sqrt()))

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

    @property
    def aligner(self) -> Aligner:
        """A view of the parts that turn audio into inputs of the language model."""
        return ALIGNERS[self.config.aligner].of(self.config, dict(self.named_children()), self.get_input_embeddings())

    def hearing_parts(self) -> dict[str, nn.Module]:
        """Audio tower and parts of the aligner, by name: all but the language model."""
        return {name: part for name, part in self.named_children() if name != "language_model"}

    def encode_audio(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        ctc_labels: Tensor | None = None,
        audios_together: int = 1,
        retokenizer: Retokenizer | None = None,
        drafts: Sequence[Draft] = (),
    ) -> EncodedAudio:
        """Audios to inputs of the language model; see `Aligner.encode`."""
        inputs = (input_features, input_features_mask)
        return self.aligner.encode(*inputs, ctc_labels, audios_together, retokenizer, drafts)

    def hear_nothing(self, device: torch.device) -> Tensor:
        """0, to add to the inputs of a training batch in which nobody speaks: all of hearing takes part nevertheless.

        Processes that train together need each other in every batch, whoever speaks in their own: the trained weights
        get gradients, of 0 (`zero_loss`), in the same order; and the tower encodes a frame of silence, because
        processes that share out its weights (FSDP) gather them together as its layers run.
        """
        spec = self.audio_tower.spec
        bands = () if spec.num_mel_bins is None else (spec.num_mel_bins,)
        with torch.no_grad():
            self.audio_tower(torch.zeros(1, *bands, spec.samples_per_frame // spec.samples_per_input, device=device))
        weights = (value for part in self.hearing_parts().values() for value in part.parameters())
        return zero_loss(weights, device)

    @torch.inference_mode()
    def encode(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        retokenizer: Retokenizer | None = None,
    ) -> tuple[list[Tensor], list[list[int]]]:
        """For inference: (K, H) input states and the greedy transcript's token ids of each audio."""
        embeds, transcripts = self.encode_and_transcribe(input_features, input_features_mask, retokenizer)
        return embeds, [[token_id for token_id, _, _ in row] for row in transcripts]

    @torch.inference_mode()
    def encode_and_transcribe(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        retokenizer: Retokenizer | None = None,
        drafts: Sequence[Draft] = (),
    ) -> tuple[list[Tensor], list[list[TimedToken]]]:
        """As `encode`, with times in frames of the transcript (`Aligner.transcript_frames_per_s`).

        ``drafts``: see `Aligner.encode`.
        """
        heard = self.encode_audio(input_features, input_features_mask, retokenizer=retokenizer, drafts=drafts)
        return heard.embeds, heard.transcripts()

    @torch.inference_mode()
    def encode_gradually(
        self, input_features: Tensor, input_features_mask: Tensor, retokenizer: Retokenizer | None = None
    ) -> Generator[None, None, tuple[Tensor, list[TimedToken]]]:
        """`encode_and_transcribe` for one audio of any length, in steps of bounded time and memory."""
        heard = yield from self.aligner.encode_gradually(input_features, input_features_mask, retokenizer)
        (embeds,), (tokens,) = heard.embeds, heard.transcripts()
        return embeds, tokens

    @torch.inference_mode()
    def transcribe(
        self,
        input_features: Tensor,
        input_features_mask: Tensor | None = None,
        retokenizer: Retokenizer | None = None,
    ) -> list[list[int]]:
        """Greedy transcript (token ids) of each audio."""
        return self.aligner.transcribe(input_features, input_features_mask, retokenizer)

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
        retokenizer: Retokenizer | None = None,
        packed: bool = False,
    ) -> S2TOutput:
        """Score dialogues.

        Args:
            input_ids: (B, N) with one placeholder per audio.
            attention_mask: (B, N).
            input_features: inputs of the audio tower (`AudioTower.forward`), audios in reading order; None = all turns
                are text.
            input_features_mask: (A, T).
            labels: (B, N) reply tokens at their own positions, -100 elsewhere (shifted here).
            ctc_labels: (A, M) transcript tokens, -100 padded; for an aligner with a CTC loss.
            retokenizer: of the processor; aligner "recogniser" needs it with audio.
            packed: the language model reads several short rows as one (`models/packing.py`); the result is the same,
                but 0 at the padding.

        Raises:
            ValueError: the number of placeholders is not the number of audios; ctc_labels without audio; hidden tokens
                in packed rows.
        """
        heard = None
        if input_features is not None:
            heard = self.encode_audio(input_features, input_features_mask, ctc_labels, retokenizer=retokenizer)
        embeds, attention_mask, labels = self.splice(
            input_ids, attention_mask, heard.embeds if heard is not None else None, labels
        )
        if heard is None and self.training:
            embeds = embeds + self.hear_nothing(embeds.device)
        states = self._run(embeds, attention_mask, packed)
        loss: Tensor | None = None
        s2t_loss = ctc_loss = logits = None
        if labels is None:
            logits = self.get_output_embeddings()(states)
        else:
            loss = s2t_loss = self._cross_entropy(states, labels)
        if ctc_labels is not None:
            if heard is None:
                raise ValueError("ctc_labels were given without input_features: there is no audio to transcribe")
            ctc_loss = heard.ctc_loss
        if ctc_loss is not None:
            loss = self.config.ctc_loss_weight * ctc_loss + (0.0 if loss is None else loss)
        return S2TOutput(
            loss=loss,
            s2t_loss=s2t_loss,
            ctc_loss=ctc_loss,
            logits=logits,
            last_hidden_state=states,
            attention_mask=attention_mask,
            labels=labels,
            transcripts=(
                [[token_id for token_id, _, _ in row] for row in heard.transcripts()]
                if heard is not None and not self.training
                else None
            ),
        )

    def _run(self, embeds: Tensor, attention_mask: Tensor, packed: bool = False) -> Tensor:
        """Last hidden states (B, L, H), after the language model's final norm."""
        if packed:
            if self.config.compatible.masked_token_id is not None:
                raise ValueError(
                    "training.packing: expected a model without hidden tokens, found masked_token_id "
                    f"{self.config.compatible.masked_token_id}: packed rows cannot hide it; set training.packing=false"
                )
            return packing.run(self.language_model.base_model, embeds, attention_mask)
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
        retokenizer: Retokenizer | None = None,
        **choices: Any,
    ) -> Tensor:
        """Write replies: (B, at most max_new_tokens) new tokens only, padded on the right.

        Inputs as in `forward`; ``choices`` go to the language model's ``generate``.
        """
        heard = None
        if input_features is not None:
            heard = self.encode_audio(input_features, input_features_mask, retokenizer=retokenizer).embeds
        embeds, attention_mask, _ = self.splice(input_ids, attention_mask, heard, padding_side="left")
        settings = copy.deepcopy(choices.pop("generation_config", None) or self.generation_config)
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
