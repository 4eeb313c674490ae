"""The reference's batches in training and how it combines its losses; all tensors come from this repository's modules.

Our own stages do the same by the method's text (`echox.training`): masks instead of gaps, segments as streaming cuts
them, states chosen by label. These layouts exist to show that official weights, trained on, start from the same loss.

Letters: B dialogues, S segments, L positions, H width of the language model, U unit targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from echox.models.conversion.official import END_OF_TURN, STRAY_UNIT_PROMPT_ID, UNIT_PROMPT_HEADER
from echox.models.echox.modeling_echox import EchoXForConditionalGeneration
from echox.models.echox.modeling_s2t import S2TForConditionalGeneration

IGNORED = -100
COSINE_SHARE, CALM_S2T_LOSS = 0.2, 1.0


@dataclass
class S2TPart:
    """Stage I: its losses, the states (B, L, H), their mask, and the labels where they now stand."""

    ce: Tensor
    ctc: Tensor
    states: Tensor
    mask: Tensor
    labels: Tensor

    @property
    def loss(self) -> Tensor:
        return self.ce + 0.3 * self.ctc


def s2t_part(
    s2t: S2TForConditionalGeneration,
    input_ids: Tensor,
    labels: Tensor,
    pad_id: int,
    features: Tensor,
    transcripts: Tensor | None,
) -> S2TPart:
    """Score dialogues; `features` (B * turns, mels, T), `transcripts` (B, turns, M)."""
    turns = len(features) // len(input_ids)
    flat = None if transcripts is None else transcripts.flatten(0, 1)
    heard = s2t.encode_audio(features, ctc_labels=flat, audios_together=turns)
    mask = (input_ids != pad_id).long()
    embeds, mask, labels = s2t.splice(input_ids, mask, heard.embeds, labels)
    states = s2t._run(embeds, mask)
    ctc = torch.zeros(()) if heard.ctc_loss is None else heard.ctc_loss
    return S2TPart(s2t._cross_entropy(states, labels), ctc, states, mask, labels)


def unit_ce(model: EchoXForConditionalGeneration, embeds: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of the unit decoder on rows (B, L, H) of its input; positions count gaps too."""
    decoder = model.echo_decoder
    places = torch.arange(embeds.shape[1]).expand(len(embeds), -1)
    # A row without anything attends to nothing: its labels are ignored too.
    some = mask.any(dim=1)
    hidden = decoder.backbone(
        inputs_embeds=decoder.state_projection(embeds[some]),
        attention_mask=mask[some].long(),
        position_ids=places[some],
        use_cache=False,
    ).last_hidden_state
    targets = labels[some][:, 1:]
    predicts = targets != IGNORED
    return F.cross_entropy(decoder.output_logits(hidden[:, :-1][predicts]), targets[predicts])


def distance(found: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cosine distances (rows, L, H) summed over positions, mean over rows."""
    one = 1 - F.cosine_similarity(found, target, dim=-1)
    return (one if weight is None else one * weight).sum(-1).mean()


def combined(ce: Tensor, cosine: Tensor) -> tuple[Tensor, float]:
    """Cross-entropy and cosine, which adds at most a fifth; and its weight."""
    share = COSINE_SHARE * ce
    weight = float(share / cosine) if cosine > share else 1.0
    return ce + weight * cosine, weight


def joint(s2t: Tensor, units: Tensor) -> Tensor:
    """Both stages."""
    return 0.2 * s2t + 2.0 * units if s2t < CALM_S2T_LOSS else s2t + units


def kd_rows(
    model: EchoXForConditionalGeneration,
    aligned: Tensor,
    label_ids: list[list[int]],
    starts: list[int],
    sub_lengths: Tensor,
    unit_targets: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Rows of "finetune_kd", one per segment: prompt, aligned states, end, a gap, units.

    Args:
        model: its unit decoder embeds.
        aligned: (B, L, H) denoised states of whole dialogues.
        label_ids: tokens of each reply.
        starts: place of the state that predicts the first of them.
        sub_lengths: (B, S) tokens of each segment, -1 after the last.
        unit_targets: (B, S, U), -100 padded.

    Returns:
        embeds (B * S, L', H), labels, mask, and of the text part: what it is and what it should be.
    """
    decoder = model.echo_decoder
    width = int(sub_lengths.max()) + len(UNIT_PROMPT_HEADER) + 2
    end = decoder.embed(torch.tensor([END_OF_TURN]))
    rows, wanted, masks = [], [], []
    for row, lengths in enumerate(sub_lengths.tolist()):
        done = 0
        for number, length in enumerate(lengths):
            if length < 0:
                rows.append(end.expand(width, -1))
                wanted.append(end.expand(width, -1))
                masks.append(torch.zeros(width, dtype=torch.bool))
                continue
            prefix = [*UNIT_PROMPT_HEADER, *([STRAY_UNIT_PROMPT_ID] if number else [])]
            first = starts[row] + done
            told = decoder.embed(torch.tensor(prefix))
            said = decoder.embed(torch.tensor(label_ids[row][done : done + length]))
            gap = end.expand(width - len(prefix) - length, -1)
            rows.append(torch.cat([told, aligned[row, first : first + length], gap]))
            wanted.append(torch.cat([told, said, gap]))
            masks.append(torch.arange(width) < len(prefix) + length + 1)
            done += length
    units = unit_targets.flatten(0, 1)
    filled = units.masked_fill(units == IGNORED, END_OF_TURN)
    real = filled != END_OF_TURN  # the end itself is hidden, like what follows it
    text, target, text_mask = torch.stack(rows), torch.stack(wanted), torch.stack(masks)
    embeds = torch.cat([text, decoder.embed(filled)], 1)
    labels = torch.cat([units.new_full(text.shape[:2], IGNORED), units], 1)
    return embeds, labels, torch.cat([text_mask, real], 1), text, target


def online_rows(
    model: EchoXForConditionalGeneration,
    aligned: Tensor,
    starts: list[int],
    text_ids: Tensor,
    sub_lengths: Tensor,
    unit_targets: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of "finetune_kd_online": embeds (B, S, L', H), and of the text part what it is and should be."""
    decoder = model.echo_decoder
    target = decoder.embed(text_ids)
    text = target.clone()
    first = len(UNIT_PROMPT_HEADER) + 1
    for row, lengths in enumerate(sub_lengths.tolist()):
        start = starts[row] + 1
        for number, length in enumerate(lengths):
            text[row, number, first : first + length] = aligned[row, start : start + length]
            start += length
    return torch.cat([text, decoder.embed(unit_targets)], 2), text, target
