"""When a recogniser's tokens were said: the best monotonic path through its attention to the frames.

Source: dynamic time warping over cross-attention, as for Whisper's word times (https://arxiv.org/abs/2212.04356,
appendix; https://github.com/openai/whisper, `timing.py`); the path here stays in each token for at least one frame.
"""

from __future__ import annotations

import numpy as np

_CLEAR = 0.4
"""Least weight of a frame that a token attends to clearly, as a share of its largest."""


def token_frames(weights: np.ndarray) -> list[tuple[int, int]]:
    """First frame of each token, and frame after its last.

    The frames are shared out to the tokens in order so that the sum of the tokens' weights for their frames is largest.
    Each token's weights are divided by their largest, and each frame's mean is subtracted: a frame that all tokens
    attend to says nothing. Then each token keeps, of its frames, those from the first to the last that it attends to
    clearly: the rest are pauses.

    Args:
        weights: (N, F) attention of each token to each frame.
    """
    tokens, frames = weights.shape
    if not tokens:
        return []
    if frames < tokens:  # more tokens than frames: shared out evenly
        even = [int(bound) for bound in np.linspace(0, frames, tokens + 1)]
        return [(start, max(start + 1, end)) for start, end in zip(even, even[1:], strict=False)]
    score = weights / np.maximum(weights.max(axis=1, keepdims=True), 1e-9)
    score = score - score.mean(axis=0, keepdims=True)
    best = np.full((tokens, frames), -np.inf)
    came = np.zeros((tokens, frames), dtype=bool)  # whether the path came from the token before
    best[0] = np.cumsum(score[0])
    for frame in range(1, frames):
        stay, move = best[1:, frame - 1], best[:-1, frame - 1]
        came[1:, frame] = move > stay
        best[1:, frame] = np.maximum(stay, move) + score[1:, frame]
    bounds = [frames] * (tokens + 1)
    token = tokens - 1
    for frame in range(frames - 1, 0, -1):
        if came[token, frame]:
            bounds[token] = frame
            token -= 1
    bounds[0] = 0
    return [_attended(weights[one], bounds[one], bounds[one + 1]) for one in range(tokens)]


def _attended(weights: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """The part of frames ``start`` to ``end`` from the first to the last with a weight that is not small."""
    own = weights[start:end]
    clear = np.flatnonzero(own >= _CLEAR * own.max())
    return start + int(clear[0]), start + int(clear[-1]) + 1
