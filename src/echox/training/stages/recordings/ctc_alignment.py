"""The end of each word of a known text in a recording: Viterbi over the outputs of a CTC recogniser.

Source: CTC's own lattice, Graves et al. 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def word_ends(
    log_probs: np.ndarray, labels: Sequence[Sequence[int]], blank_id: int, frame_s: float, duration_s: float
) -> tuple[float, ...]:
    """End of each word in seconds, never decreasing: halfway between its last label and the next word's first.

    Args:
        log_probs: (F, V) natural logs.
        labels: of each word; empty for a word without sound or spelling, which ends where the word before it ends.
        blank_id: CTC blank.
        frame_s: seconds of a frame.
        duration_s: of the recording, where its last word ends.

    Raises:
        ValueError: no labels at all, or more than the frames can hold.
    """
    flat = [label for word in labels for label in word]
    word_of = [place for place, word in enumerate(labels) for _ in word]
    first, last = label_frames(log_probs, flat, blank_id)
    ends = [0.0] * len(labels)
    for place, word in enumerate(word_of):
        if place + 1 == len(flat):
            ends[word] = duration_s
        elif word_of[place + 1] != word:
            ends[word] = min(duration_s, frame_s * (last[place] + 1 + first[place + 1]) / 2)
    for word in range(1, len(ends)):
        ends[word] = max(ends[word], ends[word - 1])
    return tuple(ends)


def label_frames(log_probs: np.ndarray, labels: Sequence[int], blank_id: int) -> tuple[list[int], list[int]]:
    """First and last frame of each label on the likeliest path.

    Raises:
        ValueError: no labels, or more than the frames can hold (a repeated label needs a blank between).
    """
    repeats = sum(one == other for one, other in zip(labels, labels[1:], strict=False))
    if not labels or len(labels) + repeats > len(log_probs):
        raise ValueError(
            f"alignment: expected 1 to {len(log_probs)} labels in {len(log_probs)} frames, found "
            f"{len(labels)} with {repeats} repeats: is the text that of the recording?"
        )
    states = np.full(2 * len(labels) + 1, blank_id)
    states[1::2] = labels
    may_skip = np.zeros(len(states), dtype=bool)  # from label to label, over the blank between
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    score = np.full(len(states), -np.inf)
    score[:2] = log_probs[0, states[:2]]
    steps = np.zeros((len(log_probs), len(states)), dtype=np.int8)
    for frame in range(1, len(log_probs)):
        before = np.full((3, len(states)), -np.inf)
        before[0], before[1, 1:] = score, score[:-1]
        before[2, 2:] = np.where(may_skip[2:], score[:-2], -np.inf)
        steps[frame] = before.argmax(axis=0)
        score = before.max(axis=0) + log_probs[frame, states]
    state = len(states) - 1 if score[-1] >= score[-2] else len(states) - 2
    first, last = [0] * len(labels), [-1] * len(labels)
    for frame in range(len(log_probs) - 1, -1, -1):
        if state % 2:
            first[state // 2] = frame
            last[state // 2] = max(last[state // 2], frame)
        state -= int(steps[frame, state])
    return first, last
