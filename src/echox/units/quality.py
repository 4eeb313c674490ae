"""Quality of units: their rate, and how well they predict phones; measured before anything is trained on them.

Source: phone purity and phone-normalised mutual information as in HuBERT, arXiv 2106.07447 section IV-E.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def unit_quality(
    units: Sequence[np.ndarray],
    labels: Sequence[np.ndarray] | None,
    num_units: int,
    frame_rate_hz: float = 50.0,
) -> dict[str, float]:
    """Measures frame units of some utterances against phone labels of the same frames.

    Args:
        units: Frame units, (F,) each.
        labels: Phone class of each frame; None measures only the rate.
        num_units: K.
        frame_rate_hz: Frames per second.

    Returns:
        ``units_per_s`` (reduced), ``units_used`` (part of the K), and with labels ``phone_purity`` (frames whose phone
        is their unit's most frequent one) and ``pnmi`` (mutual information over the phones' entropy).
    """
    frames = sum(len(row) for row in units)
    runs = sum(1 + int(np.count_nonzero(row[1:] != row[:-1])) for row in units if len(row))
    used = len(np.unique(np.concatenate(list(units)))) if frames else 0
    quality = {"units_per_s": runs * frame_rate_hz / max(frames, 1), "units_used": used / num_units}
    if labels is None or not frames:
        return quality
    joint = np.zeros((num_units, 1 + max(int(row.max()) for row in labels if len(row))))
    for row, phones in zip(units, labels, strict=True):
        np.add.at(joint, (row, phones), 1)
    joint /= joint.sum()
    unit_part, phone_part = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    some = joint > 0
    information = float((joint[some] * np.log(joint[some] / (unit_part @ phone_part)[some])).sum())
    entropy = -float((phone_part[phone_part > 0] * np.log(phone_part[phone_part > 0])).sum())
    quality["phone_purity"] = float(joint.max(1).sum())
    quality["pnmi"] = information / entropy if entropy > 0 else 1.0
    return quality
