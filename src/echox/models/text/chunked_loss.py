"""Losses over a large vocabulary, computed in chunks so that not all scores are in memory.

The scores (logits) of 8 dialogues of 500 reply tokens over 128k tokens need 2 GB in float32, and their gradient again 2
GB. Here they are computed chunk by chunk, and computed again in the backward pass: the memory is that of one chunk. If
all scores fit into one chunk, nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from echox.models.text.text_embeddings import weight_of

MAX_SCORES = 2**24
"""Scores of one chunk: 64 MB in float32, about 130 positions over 128k tokens."""
_NEVER = -1e9
"""Log-probability of no class at all; minus infinity would make the gradient of `F.ctc_loss` not a number."""


def token_losses(
    states: Tensor, head: nn.Module, targets: Tensor, max_scores: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each target, and the most likely token of each position.

    Args:
        states: (N, H).
        head: (N, H) -> (N, V), as `get_output_embeddings` returns it.
        targets: (N,) ids.
        max_scores: largest number of scores in memory; None: `MAX_SCORES`.

    Returns:
        losses (N,) float32 in nats; best (N,) ids, without gradient.
    """

    def score(states: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float()
        return F.cross_entropy(logits, targets, reduction="none"), logits.detach().argmax(-1)

    return _in_chunks(score, states, targets, _vocabulary(head), max_scores)


def ctc_losses(
    frames: Tensor, head: nn.Module, mask: Tensor, labels: Tensor, blank_id: int, max_scores: int | None = None
) -> tuple[Tensor, Tensor]:
    """CTC loss of each row over the head's classes, and the most likely class of every frame.

    The alignments of a row contain only the classes of its labels and the blank; of all others CTC needs only the sum,
    in the normaliser. So N + 1 log-probabilities of each frame are kept.

    Args:
        frames: (A, C, H).
        head: (..., H) -> (..., V).
        mask: (A, C) bool, true frames first.
        labels: (A, N), -100 after the last symbol.
        blank_id: class of the blank.
        max_scores: largest number of scores in memory; None: `MAX_SCORES`.

    Returns:
        losses (A,) float32 in nats, 0 where the labels do not fit the frames; best (A, C), without gradient.
    """
    audios, count, width = frames.shape
    symbols = labels.clamp_min(0)
    classes = torch.cat([torch.full_like(symbols[:, :1], blank_id), symbols], dim=1)  # (A, 1 + N)
    first = (classes[:, :, None] == classes[:, None, :]).int().argmax(dim=-1)  # (A, 1 + N): a class has one column
    real = F.pad(labels >= 0, (1, 0), value=True) & (first == torch.arange(classes.shape[1], device=labels.device))
    wanted = classes.repeat_interleave(count, dim=0)  # (A * C, 1 + N): one row for each frame

    def score(frames: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(frames).float()
        return logits.gather(1, wanted) - logits.logsumexp(-1, keepdim=True), logits.detach().argmax(-1)

    found, best = _in_chunks(score, frames.reshape(-1, width), wanted, _vocabulary(head), max_scores)
    log_probs = found.view(audios, count, -1).masked_fill(~real[:, None, :], _NEVER)
    # `F.ctc_loss` assumes that its classes are all classes (its gradient is that of a softmax). So they are normalised,
    # and the normaliser is added again: every alignment has one class of each frame.
    together = log_probs.logsumexp(-1)  # (A, C)
    lengths = (labels >= 0).sum(dim=1)
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] >= 0)).sum(dim=1)  # a blank must be between
    fits = lengths + repeats <= mask.sum(dim=1)
    losses = F.ctc_loss(
        log_probs.log_softmax(-1).transpose(0, 1),
        first[:, 1:],
        mask.sum(dim=1),
        lengths,
        blank=0,
        reduction="none",
        zero_infinity=True,
    )
    return losses - fits * (together * mask).sum(dim=1), best.view(audios, count)


def _in_chunks(
    score: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    states: Tensor,
    targets: Tensor,
    vocabulary: int,
    max_scores: int | None,
) -> tuple[Tensor, Tensor]:
    rows = max(1, (max_scores or MAX_SCORES) // vocabulary)
    if len(states) <= rows:
        return score(states, targets)
    pairs = zip(states.split(rows), targets.split(rows), strict=True)
    scored = (checkpoint(score, *pair, use_reentrant=False, preserve_rng_state=False) for pair in pairs)
    losses, best = zip(*scored, strict=True)
    return torch.cat(losses), torch.cat(best)


def _vocabulary(head: nn.Module) -> int:
    return len(weight_of(head))
