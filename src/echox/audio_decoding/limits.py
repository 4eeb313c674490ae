"""Limits of the decoding of one file, and of accepted audio (imports nothing heavy)."""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_RATE_HZ = 4_000
MAX_RATE_HZ = 192_000
MAX_CHANNELS = 8
"""7.1 surround: no recording of speech or music has more."""
MAX_AMPLITUDE = 2.0**31
"""The largest sample in floating point: full scale of 32-bit integers that were not divided by it."""
MAX_DURATION_S = 4 * 3600.0
"""Longest audio if the caller gives no limit: it is held in memory."""
MAX_FILE_BYTES = 2 * 2**30
"""Largest file, which is held in memory too."""


@dataclass(frozen=True)
class DecodeLimits:
    """Limits of one decoding; a worker that exceeds one is killed.

    Attributes:
        cpu_s: computing time.
        wall_s: clock time, with the time that the worker waits for a busy machine. While this process is stopped, it
            does not go on.
        memory_bytes: address space beyond what an idle worker has.
    """

    cpu_s: int
    wall_s: float
    memory_bytes: int

    @classmethod
    def of(cls, file_bytes: int, sampling_rate: int, max_duration_s: float) -> DecodeLimits:
        """Limits for a file, by its size and by the most audio that it may hold.

        Decoding runs a hundred times faster than the audio plays; a fiftieth of the duration is twice the time. Two
        channels of the result are held twice while they are joined, beside the mix and the file itself.
        """
        cpu_s = math.ceil(6 + max_duration_s / 50)
        result_bytes = 4 * math.ceil(sampling_rate * max_duration_s)
        return cls(cpu_s, 2.5 * cpu_s, 192 * 2**20 + 2 * file_bytes + 6 * result_bytes)
