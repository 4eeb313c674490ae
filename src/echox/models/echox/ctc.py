"""CTC losses per symbol, and greedy CTC transcripts with times.

Letters: A audios, C frames, N labels, V classes, H width of the frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ctc_loss_per_symbol(logits: Tensor, mask: Tensor, labels: Tensor, blank_id: int) -> Tensor:
    """CTC loss in nats per target symbol, mean over rows.

    Args:
        logits: (A, C, V).
        mask: (A, C) bool, true frames first.
        labels: (A, N), -100 after the last symbol.
        blank_id: class of the CTC blank.

    Rows with too many labels for their frames count as 0, as they have no alignment; rows without labels do not count.
    """
    lengths = (labels >= 0).sum(dim=1)
    log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)
    losses = F.ctc_loss(
        log_probs,
        labels.clamp_min(0),
        mask.sum(dim=1),
        lengths,
        blank=blank_id,
        reduction="none",
        zero_infinity=True,
    )
    return mean_per_symbol(losses, labels)


def mean_per_symbol(losses: Tensor, labels: Tensor) -> Tensor:
    """Mean of the loss (A,) per label (A, N), -100 padded, over the rows with labels; 0 if there are none.

    A row without labels (audio without a transcript) would teach CTC that the audio is silent.
    """
    lengths = (labels >= 0).sum(dim=1)
    known = lengths > 0
    return (losses * known / lengths.clamp_min(1)).sum() / known.sum().clamp_min(1)


def greedy_ctc(logits: Tensor, mask: Tensor, blank_id: int) -> list[list[int]]:
    """Best label per frame, repeats collapsed, blanks dropped: (A, C, V), (A, C) -> ids of each row."""
    return collapse_ctc(logits.argmax(dim=-1), mask, blank_id)


def collapse_ctc(labels: Tensor, mask: Tensor, blank_id: int) -> list[list[int]]:
    """Labels of frames (A, C), repeats collapsed, blanks dropped: ids of each row."""
    return [[label for label, _, _ in row] for row in timed_ctc(labels, mask, blank_id)]


def timed_ctc(labels: Tensor, mask: Tensor, blank_id: int) -> list[list[tuple[int, int, int]]]:
    """For each row of labels (A, C), the result of `collapse_ctc` with times: id, first frame, frame after the last."""
    rows = []
    for row in labels.masked_fill(~mask, blank_id).cpu():
        values, lengths = torch.unique_consecutive(row, return_counts=True)
        ends = lengths.cumsum(0)
        runs = zip(values.tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True)
        rows.append([run for run in runs if run[0] != blank_id])
    return rows


@torch.no_grad()
def best_labels(head: nn.Linear, frames: Tensor, chunk_frames: int = 64) -> Tensor:
    """Most likely CTC label of every frame, (A, C, H) -> (A, C), without the memory of (A, C, V) scores.

    With a vocabulary of 128k, the scores of 30 s of audio need 0.4 GB in float32.
    """
    flat = frames.detach().flatten(0, 1)
    best = [head(part).argmax(dim=-1) for part in flat.split(chunk_frames)]
    return torch.cat(best).view(frames.shape[:2])
