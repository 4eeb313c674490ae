"""What a listener's player goes through: when each chunk of a reply came, and when it was needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Playback:
    """One reply, played from its first chunk on, without a buffer.

    Attributes:
        underruns: times the player had nothing left to play before the reply's end.
        stalled_s: how long it was silent then, in all.
        ended_s: when the last sample was played, on the clock of the arrivals.
    """

    underruns: int
    stalled_s: float
    ended_s: float


def play(arrivals_s: Sequence[float], durations_s: Sequence[float], tolerance_s: float = 0.0) -> Playback:
    """Play chunks as they come.

    Args:
        arrivals_s: when each chunk arrived, never falling.
        durations_s: how long each plays.
        tolerance_s: a gap shorter than this is none (a device's own buffer).

    Raises:
        ValueError: the two differ in length, or time runs backwards.
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
