"""The interface of unit decoders, from text embeddings or hidden states to unit words.

There are several forms: `WordSynchronousDecoder`, `PrefixDecoder` (the paper's) and `TextPrefixDecoder` (the official
release's); `modeling_t2c.py` chooses by configuration. The echo decoder of `modeling_echox.py` is one of these classes,
with denoised hidden states as input.

Letters: B rows, R states of a row, W text words, C letters of a word, U unit words, T steps, H width of the states, D
width of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from echox.models.decoding.sampling import choose
from echox.models.pretrained import TypedPreTrainedModel
from echox.models.t2c.configuration_t2c import UnitDecoderConfig
from echox.models.zero_loss import zero_loss

IGNORED = -100


@dataclass
class UnitDecoderOutput(ModelOutput):
    """Teacher-forced outputs.

    Attributes:
        loss: mean cross-entropy of the targets (nats); None without unit words.
        logits: (B, T, num_unit_words + 1).
        targets: (B, T) target of each step, ends included; -100 where there is none.
        input_mask: (B, I) True at the inputs of the backbone that are no padding.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    targets: Tensor | None = None
    input_mask: Tensor | None = None


@dataclass
class UnitSequence:
    """Unit words that a decoder generated for one row.

    Attributes:
        unit_words: ids in the unit language.
        word_of: the text word (an id of `word_ids`) that each unit word belongs to.
        finished: False if the limit of unit words was reached before the end.
    """

    unit_words: list[int]
    word_of: list[int]
    finished: bool


class UnitDecoder(TypedPreTrainedModel):
    """Base class: a small Llama over unit words, conditioned on states.

    Args:
        config: sizes and form.
    """

    config: UnitDecoderConfig
    config_class = UnitDecoderConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    reads_silent_tokens = False
    """Whether states of tokens that are not spoken (special tokens, white space at the end) are inputs too."""

    def __init__(self, config: UnitDecoderConfig) -> None:
        super().__init__(config)
        self.backbone = LlamaModel(config.backbone_config())
        init.normal_(self.backbone.embed_tokens.weight, std=config.embedding_std)
        self.unit_head = nn.Linear(config.hidden_size, config.num_unit_words + 1, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    @property
    def end_id(self) -> int:
        """The output that ends a word (word-synchronous) or the sequence (prefix)."""
        return self.config.end_id

    def embed_outputs(self, outputs: Tensor) -> Tensor:
        """Input vectors (B, D) of earlier outputs (B,)."""
        return F.embedding(outputs, self.backbone.embed_tokens.weight)

    def output_logits(self, hidden: Tensor) -> Tensor:
        """Scores (B, O) of all outputs from last hidden states (B, D)."""
        return F.linear(hidden, self.unit_head.weight)

    def unit_word_of_output(self, output: int) -> int | None:
        """The unit word of an output; None for an output that is not a unit word."""
        return output

    @property
    def reads_letters(self) -> bool:
        """Whether `word_letters` are inputs."""
        return False

    def forward(
        self,
        states: Tensor,
        word_ids: Tensor,
        unit_words: Tensor,
        unit_word_of: Tensor,
        word_letters: Tensor | None = None,
        packed: bool = False,
    ) -> UnitDecoderOutput:
        """Teacher forcing in one pass.

        Args:
            states: (B, R, H) text embeddings or denoised hidden states.
            word_ids: (B, R) text word of each state, in ascending order; -1 = padding, or not spoken.
            unit_words: (B, U) unit words of the speech, padded with -100.
            unit_word_of: (B, U) text word of each unit word, as in `word_ids`, in ascending order.
            word_letters: (B, W, C) letters of each text word that has states, in order, padded with -1
                (`modeling_letters.py`); needed if `reads_letters`, else not used.
            packed: the backbone reads several short rows as one (`models/packing.py`); loss and gradients are the same.

        Raises:
            ValueError: shapes that do not fit, or word ids that are out of order or missing.
        """
        raise TypeError(f"{type(self).__name__} is the base class: use build_unit_decoder(config)")

    def num_targets(self, word_ids: Tensor, unit_words: Tensor) -> Tensor:
        """Number of targets in `forward`, ends included; a scalar."""
        raise TypeError(f"{type(self).__name__} is the base class: use build_unit_decoder(config)")

    @torch.no_grad()
    def generate(
        self,
        states: Tensor,
        word_ids: Tensor,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        generator: torch.Generator | None = None,
        max_unit_words: int | None = None,
        word_letters: Tensor | None = None,
    ) -> list[UnitSequence]:
        """Generate unit words for all rows, greedily, or sampled with `generator`. Finished rows leave the batch.

        Args:
            states: (B, R, H), as in `forward`.
            word_ids: (B, R), as in `forward`.
            do_sample: sample instead of taking the most likely.
            temperature: of the samples.
            top_p: probability mass of the nucleus that samples come from.
            generator: of random numbers.
            max_unit_words: limit per row (None: the configuration's).
            word_letters: (B, W, C), as in `forward`.

        Raises:
            ValueError: shapes that do not fit, a temperature that is not positive, or `top_p` outside (0, 1].
        """
        self._check(states, word_ids)
        if not len(states):
            return []
        with torch.autocast(states.device.type, enabled=False):
            return self._generate(
                states,
                word_ids,
                lambda logits: choose(logits, do_sample, temperature, top_p, generator),
                max_unit_words or self.config.max_unit_words,
                word_letters,
            )

    def _generate(
        self,
        states: Tensor,
        word_ids: Tensor,
        choose_outputs: Callable[[Tensor], Tensor],
        limit: int,
        word_letters: Tensor | None,
    ) -> list[UnitSequence]:
        """`generate` for at least one row: ``choose_outputs`` gives (B,) outputs of logits (B, V)."""
        raise TypeError(f"{type(self).__name__} is the base class: use build_unit_decoder(config)")

    def _check(self, states: Tensor, word_ids: Tensor) -> None:
        width = self.config.text_hidden_size
        if states.ndim != 3 or states.shape[2] != width or states.shape[:2] != word_ids.shape:
            raise ValueError(
                f"expected states (rows, states, {width}) and word_ids (rows, states), found "
                f"{tuple(states.shape)} and {tuple(word_ids.shape)}"
            )

    def _scaled(self, states: Tensor) -> Tensor:
        if not self.config.normalize_states:
            return states
        return F.rms_norm(states.float(), states.shape[-1:], eps=1e-12).to(states.dtype)

    def _noisy(self, unit_words: Tensor) -> Tensor:
        """Inputs with some unit words replaced by random ones (in training only), for robustness against own errors."""
        if not self.training or self.config.unit_noise <= 0:
            return unit_words
        replaced = torch.rand(unit_words.shape, device=unit_words.device) < self.config.unit_noise
        random_words = torch.randint_like(unit_words, self.config.num_unit_words)
        return torch.where(replaced & (unit_words != self.end_id), random_words, unit_words)

    def _empty_output(self, states: Tensor) -> UnitDecoderOutput:
        """Output of a batch without rows: a loss of 0 that depends on every parameter."""
        logits = states.new_zeros(0, 0, self.config.num_unit_words + 1)
        return UnitDecoderOutput(
            loss=states.sum() * 0 + zero_loss(self.parameters(), states.device),
            logits=logits,
            targets=logits.new_zeros(0, 0, dtype=torch.long),
            input_mask=logits.new_zeros(0, 0, dtype=torch.bool),
        )

    def _output(self, hidden: Tensor, targets: Tensor, input_mask: Tensor) -> UnitDecoderOutput:
        logits = self.unit_head(self.dropout(hidden))
        total = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        loss = total / (targets != IGNORED).sum().clamp(min=1)
        return UnitDecoderOutput(loss=loss, logits=logits, targets=targets, input_mask=input_mask)
