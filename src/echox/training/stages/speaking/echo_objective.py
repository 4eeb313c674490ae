"""The loss of stage "echo": the echo decoder learns to speak the model's own replies.

Source: EchoX (https://arxiv.org/abs/2509.09174, section 3.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TOutput
from echox.models.packing import padding_shares
from echox.models.t2c.modeling_t2c import T2CForUnitGeneration
from echox.models.text.chunked_loss import token_losses
from echox.models.text.retokenization import Retokenizer
from echox.models.text.text_embeddings import weight_of
from echox.models.text.tokenization_text import period_id
from echox.streaming.reply_text.trigger import Trigger
from echox.training.batches.normalisation import Denominators, share_of_step
from echox.training.stages.speaking.echo_targets import (
    EchoBatch,
    MadeTargets,
    Said,
    Segments,
    Targets,
    cut_replies,
    select,
    without_context,
)
from echox.training.stages.speaking.t2c import accuracy


@dataclass
class EchoWeights:
    """Weights of L = echo * L_echo + denoising * L_denoising + s2t * L_S2T, all of them means per token.

    Attributes:
        denoising_cap: largest denoising term, as a fraction of the echo loss (0.2 in the official code); None: no
            limit.
        mix: "paper": as they are; "released": as the official code trains on, where the S2T loss of a step is below 1,
            speaking counts twice (echo and denoising) and S2T a fifth, else both once. These factors come besides.
    """

    echo: float = 1.0
    denoising: float = 1.0
    s2t: float = 1.0
    denoising_cap: float | None = None
    mix: Literal["paper", "released"] = "paper"


class EchoObjective(nn.Module):
    """L = L_echo + lambda L_denoising + L_S2T.

    Letters: B dialogues, L positions, R reply tokens, S segments, U unit words, H width of the language model.
    """

    def __init__(
        self,
        model: EchoXForConditionalGeneration,
        t2c: T2CForUnitGeneration,
        targets: Targets,
        weights: EchoWeights,
        trigger: Trigger,
        tokenizer: PreTrainedTokenizerBase,
        context_words: int = 0,
        allow_silence: bool = False,
        retokenizer: Retokenizer | None = None,
        steps_together: int = 1,
        ahead: bool = False,
        packed: bool = False,
    ) -> None:
        super().__init__()
        self.packed = packed
        self.steps_together, self.ahead = steps_together, ahead  # read by training/batches/step_batches.py
        self.context_words, self.allow_silence = context_words, allow_silence
        self.model, self.t2c = model, t2c  # the teacher is here to move between devices with the rest
        self.targets, self.weights, self.trigger, self.tokenizer = targets, weights, trigger, tokenizer
        self.retokenizer = retokenizer
        self.period_id = period_id(tokenizer)

    def forward(
        self, batch: EchoBatch, denominators: Denominators | None = None, prepare: bool = False
    ) -> dict[str, Tensor] | EchoBatch:
        """Losses by name, from a batch of :meth:`EchoStage.collate`.

        Args:
            batch: with its targets, or without: they are then made here.
            denominators: of the whole step (`training/batches/normalisation.py`); the batch then has its targets.
            prepare: return the batch with what the model says instead, for `begin_targets`: the number of targets must
                be known before the losses are computed.

        Raises:
            ValueError: in training, no segment with a target in the batch (in all batches of the step).
        """
        s2t, reply_states, reply_ids, agreement = self.reply_states(batch)
        if prepare:
            return {**batch, "said": self.say(reply_states, reply_ids)}
        made = batch["made"] if "made" in batch else self.make_targets(reply_states, reply_ids, batch)
        self._check_targets(made, denominators)
        means = self._means(made, s2t, reply_states, agreement)
        losses, together = share_of_step(means, self, batch, denominators), denominators is not None
        speaking, writing = self._mixed(means["s2t_loss"], batch, together)
        figures = {
            "segments": float(len(made.segments)),
            "target_s": made.seconds,
            "targets_known": made.known_share,
        }
        if "made" in batch and (self.steps_together > 1 or self.ahead):
            spoken = made.reply_ids >= 0
            figures["still_said"] = float((spoken & (reply_ids == made.reply_ids)).sum() / spoken.sum().clamp(min=1))
        numbers = {name: torch.tensor(value) for name, value in figures.items()}
        spoken, written = self._weighted(losses, together)
        return {"loss": speaking * spoken + writing * written, **losses, **numbers}

    def measure(self, batch: EchoBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Means over a batch that is not prepared, by name, and what they are over: one pass, for an evaluation."""
        s2t, reply_states, reply_ids, agreement = self.reply_states(batch)
        made = self.make_targets(reply_states, reply_ids, batch)
        return self._means(made, s2t, reply_states, agreement), self.denominators({**batch, "made": made})

    def _means(self, made: MadeTargets, s2t: S2TOutput, reply_states: Tensor, agreement: Tensor) -> dict[str, Tensor]:
        """Losses as means over a batch, from its targets and what `reply_states` returned for it."""
        model = self.model
        with torch.no_grad():
            clean = model.text_embeddings(made.reply_ids)  # (B, R, H)
        denoised = model.denoising_adapter(reply_states.to(model.denoising_adapter.up_proj.weight.dtype))  # (B, R, H)
        segments = made.segments
        echoed = model.fuse(segments.of(denoised), segments.token_ids)
        echo = model.echo_decoder(
            echoed, segments.word_ids, made.unit_words, made.unit_word_of, segments.word_letters, self.packed
        )
        assert echo.input_mask is not None
        assert s2t.attention_mask is not None
        if self.context_words:
            echo = without_context(echo, segments, made.unit_word_of)
        distance = 1 - F.cosine_similarity(denoised.float(), clean.float(), dim=-1)
        return {
            "echo_loss": echo.loss,
            "denoising_loss": distance[made.reply_ids >= 0].mean(),
            "s2t_loss": s2t.s2t_loss,
            "echo_accuracy": accuracy(echo.logits, echo.targets),
            "said_reference": agreement,
            **padding_shares(s2t.attention_mask, self.packed),
            **padding_shares(echo.input_mask, self.packed, "unit_padding_share"),
        }

    def denominators(self, batch: EchoBatch) -> dict[str, Tensor]:
        """Counts of a prepared batch: unit words with their ends, spoken tokens, reply tokens."""
        made = batch["made"]
        targets = self.model.echo_decoder.num_targets(made.segments.word_ids, made.unit_words) - made.num_given()
        replies, spoken = (batch["s2t"]["labels"][:, 1:] >= 0).sum(), (made.reply_ids >= 0).sum()
        return {
            "echo_loss": targets,
            "echo_accuracy": targets,
            "denoising_loss": spoken,
            "s2t_loss": replies,
            "said_reference": replies,
        }

    def make_targets(self, reply_states: Tensor, reply_ids: Tensor, batch: EchoBatch) -> MadeTargets:
        """Segments of the replies (B, R) and their pseudo-labels, made now."""
        said = self.say(reply_states, reply_ids)
        (finished,) = self.begin_targets([{**batch, "said": said}])()
        return finished["made"]

    @torch.no_grad()
    def say(self, reply_states: Tensor, reply_ids: Tensor) -> Said:
        """The replies (B, R), cut into segments where streaming would."""
        return Said(reply_ids, self.cut(reply_ids, self.trigger_scores(reply_states), self.context_words))

    def begin_targets(self, batches: Sequence[EchoBatch], ahead: bool = False) -> Callable[[], list[EchoBatch]]:
        """Begin to make the targets of prepared batches; the function that is returned gives the batches with them.

        Args:
            batches: from ``forward(batch, prepare=True)``.
            ahead: the teacher works in another thread meanwhile.
        """
        asked = [(batch["said"].segments, batch) for batch in batches]
        known = [self.targets.num_known(segments) / max(1, len(segments)) for segments, _ in asked]
        finish = self.targets.begin(asked, ahead)

        def finished() -> list[EchoBatch]:
            began_s = time.perf_counter()
            found = finish()
            waited_s = (time.perf_counter() - began_s) / len(batches)
            made = [
                MadeTargets(batch["said"].reply_ids, *labelled, waited_s, share)
                for batch, labelled, share in zip(batches, found, known, strict=True)
            ]
            return [{**batch, "made": one} for batch, one in zip(batches, made, strict=True)]

        return finished

    def cut(self, reply_ids: Tensor, scores: Tensor, context_words: int = 0) -> Segments:
        """Segments of replies (B, R), with the letters that the echo decoder reads; see `cut_replies`."""
        letters = self.model.echo_decoder.config.max_word_letters
        return cut_replies(reply_ids, scores, self.trigger, self.tokenizer, context_words, letters)

    def _weighted(self, losses: dict[str, Tensor], together: bool) -> tuple[Tensor, Tensor]:
        """The weighted sums of speaking and of writing; a capped denoising term is at most its fraction of echo's.

        Args:
            losses: by name.
            together: the losses are shares of several processes, and the cap applies to their sums. Accumulated
                micro-batches are capped one by one: the sums of later ones are not known.
        """
        weights, cap = self.weights, 1.0
        if weights.denoising_cap is not None:  # a constant: no gradient through it
            both = torch.stack([losses["echo_loss"].detach().float(), losses["denoising_loss"].detach().float()])
            if together and dist.is_initialized():
                dist.all_reduce(both)
            echo_loss, denoising_loss = both.tolist()
            cap = min(1.0, weights.denoising_cap * echo_loss / max(denoising_loss, 1e-9))
        denoising = weights.denoising * cap * losses["denoising_loss"]
        return weights.echo * losses["echo_loss"] + denoising, weights.s2t * losses["s2t_loss"]

    def _mixed(self, s2t_loss: Tensor, batch: EchoBatch, together: bool) -> tuple[float, float]:
        """Factors of speaking and of writing, by `EchoWeights.mix`.

        Args:
            s2t_loss: mean over this micro-batch.
            batch: the micro-batch.
            together: they are the same for the micro-batches of all processes at this moment, by their common mean.
        """
        if self.weights.mix == "paper":
            return 1.0, 1.0
        count = (batch["s2t"]["labels"][:, 1:] >= 0).sum().float()
        both = torch.stack([s2t_loss.detach().float() * count, count])
        if together and dist.is_initialized():
            dist.all_reduce(both)
        total, tokens = both.tolist()
        return (2.0, 0.2) if total < tokens else (1.0, 1.0)

    def _check_targets(self, made: MadeTargets, denominators: Denominators | None) -> None:
        """Check that there is something to learn. Raises: ValueError: no segment has a target."""
        if not self.training or self.allow_silence:
            return
        targets = float(len(made.segments) if denominators is None else denominators["echo_loss"])
        if not targets:
            raise ValueError(
                f"echo: expected at least one segment with a target in a batch of {len(made.reply_ids)} replies, found "
                "none: check that the replies have words, and that the T2C (model.t2c) ends its speech within "
                "targets.max_unit_words; for a trial with hardly trained parts, set targets.allow_silence=true"
            )

    def reply_states(self, batch: EchoBatch) -> tuple[S2TOutput, Tensor, Tensor, Tensor]:
        """One pass of S2T, and from it the states of the replies.

        Returns:
            The output of S2T; the states (B, R, H) that predict the reply's tokens; the ids (B, R) of the tokens to
            speak, padded with -1 (the model's own, greedy, or the reference's: `Targets.reply_ids`); the fraction of
            its own tokens that equal the reference's.
        """
        s2t = self.model.s2t(**batch["s2t"], retokenizer=self.retokenizer, packed=self.packed)
        reply_states, reference = select(s2t.last_hidden_state, s2t.labels)  # h_i predicts reply token i
        with torch.no_grad():
            real = reference >= 0
            losses, best = token_losses(reply_states[real], self.model.get_output_embeddings(), reference[real])
            check_alignment(losses.mean(), s2t.s2t_loss)
            own_ids = torch.full_like(reference, -1).masked_scatter(real, best)
            agreement = (best == reference[real]).float().mean()
        return s2t, reply_states, self.targets.reply_ids(own_ids, reference), agreement

    def trigger_scores(self, reply_states: Tensor) -> Tensor:
        """(B, R) cos(h_i, lm_head row of "."), as in streaming."""
        row = weight_of(self.model.get_output_embeddings())[self.period_id]
        return F.cosine_similarity(reply_states.float(), row.float(), dim=-1)


def check_alignment(found: Tensor, s2t_loss: Tensor) -> None:
    """Check that the mean cross-entropy `found` of the selected states equals the loss of S2T.

    Raises:
        ValueError: it does not: states of other positions were selected.
    """
    if abs(float(found) - float(s2t_loss)) > 0.02 + 0.02 * float(s2t_loss):
        raise ValueError(
            f"echo: expected states that predict the reply's tokens (cross-entropy {float(s2t_loss):.3f}), found "
            f"cross-entropy {float(found):.3f}: states and tokens are not aligned"
        )
