"""Playback of a reply: from arrival times of its chunks to gaps in a player."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Playback:
    """One reply, played from its first chunk on, without a buffer.

    Attributes:
        underruns: how often the player had nothing to play before the end of the reply.
        stalled_s: total duration of these gaps.
        ended_s: when the last sample was played, on the clock of the arrivals.
    """

    underruns: int
    stalled_s: float
    ended_s: float


def play(arrivals_s: Sequence[float], durations_s: Sequence[float], tolerance_s: float = 0.0) -> Playback:
    """Play chunks as they arrive.

    Args:
        arrivals_s: when each chunk arrived, in order.
        durations_s: duration of each chunk.
        tolerance_s: shorter gaps do not count (the device has a buffer).

    Raises:
        ValueError: the two differ in length, or the arrivals are not in order.
    """
    if len(arrivals_s) != len(durations_s):
        raise ValueError(f"expected a duration for each of {len(arrivals_s)} arrivals, found {len(durations_s)}")
    if any(late < early for early, late in zip(arrivals_s, arrivals_s[1:], strict=False)):
        raise ValueError("expected arrivals that never fall, found one before its predecessor; sort the chunks")
    underruns, stalled_s = 0, 0.0
    free_s = arrivals_s[0] if arrivals_s else 0.0  # when all that came so far has been played
    for arrival_s, duration_s in zip(arrivals_s, durations_s, strict=True):
        gap_s = arrival_s - free_s
        if gap_s > tolerance_s:
            underruns += 1
            stalled_s += gap_s
        free_s = max(free_s, arrival_s) + duration_s
    return Playback(underruns, stalled_s, free_s)
