"""Does what surrounds speech change what is heard? The same questions in silence and noise, faint, and out of phase.

A recording is put into a condition, the model is asked by its public door, and its replies are counted that are exactly
the reference. What is compared is each condition with the plain recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from echox.audio import load_audio
from echox.data.scoring import same_words
from echox.evaluation.sets.items import Item

NOISE_DBFS = -60.0
DURATIONS_S = (1.0, 2.0, 3.0, 5.0)
GAINS_DB = (0.0, -20.0, -34.0)


@dataclass(frozen=True)
class Condition:
    """What is done to a recording.

    Attributes:
        gain_db: of the speech. around: "silence" or "noise" (white, at -60 dBFS whatever the gain). before_s, after_s:
            how much of it.
        inverted: the recording is stereo, its right channel the left with the other sign.
    """

    gain_db: float = 0.0
    around: str = "silence"
    before_s: float = 0.0
    after_s: float = 0.0
    inverted: bool = False

    def apply(self, waveform: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
        """Samples (S,) float32 in this condition, (S', 2) if it is stereo; rounded to 16 bits, as files hold them."""
        level = 10.0 ** (NOISE_DBFS / 20.0) if self.around == "noise" else 0.0
        before, after = (
            level * rng.standard_normal(round(duration_s * sampling_rate))
            for duration_s in (self.before_s, self.after_s)
        )
        samples = np.concatenate([before, waveform * 10.0 ** (self.gain_db / 20.0), after])
        samples = (np.rint(samples * 32767.0) / 32768.0).astype(np.float32)
        return np.stack([samples, -samples], axis=1) if self.inverted else samples


def all_conditions() -> list[Condition]:
    """Every gain with every duration and kind of surroundings before and after, and some out of phase."""
    found = []
    for gain_db in GAINS_DB:
        found += [Condition(gain_db), Condition(gain_db, inverted=True)]
        for around in ("silence", "noise"):
            found += [Condition(gain_db, around, duration_s, duration_s) for duration_s in DURATIONS_S]
            found.append(Condition(gain_db, around, 3.0, 3.0, inverted=True))
    return found


def measure_conditions(
    answer: Callable[[np.ndarray, int], str], items: Sequence[Item], conditions: Iterable[Condition], seed: int = 0
) -> list[dict[str, Any]]:
    """Exact replies in each condition.

    Args:
        answer: the reply to samples (S,) or (S, channels) of a rate in hertz; may raise ValueError: not heard.
        items: spoken questions of one turn; ``columns["reference"]`` is the reply.
        conditions: to measure.
        seed: of the noise.

    Returns:
        A row per condition: its fields, ``exact`` and ``count``.
    """
    recordings = [load_audio(item.audios[-1], 16000) for item in items]
    rows = []
    for condition in conditions:
        exact = 0
        for number, (item, waveform) in enumerate(zip(items, recordings, strict=True)):
            rng = np.random.default_rng([seed, number])
            try:
                reply = answer(condition.apply(waveform, 16000, rng), 16000)
            except ValueError:  # not heard at all: no exact reply
                continue
            exact += same_words(str(item.columns["reference"]), reply)
        rows.append({**asdict(condition), "exact": exact, "count": len(items)})
    return rows


def conditions_table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of `measure_conditions` as a Markdown table: surroundings by gain."""
    gains = list(dict.fromkeys(row["gain_db"] for row in rows))
    cells: dict[str, dict[float, int]] = {}
    for row in rows:
        cells.setdefault(_name(row), {})[row["gain_db"]] = row["exact"]
    lines = [
        "| around the question | " + " | ".join(f"{gain:g} dB" for gain in gains) + " |",
        "|---" * (len(gains) + 1) + "|",
    ]
    for name, exact in cells.items():
        lines.append(f"| {name} | " + " | ".join(str(exact.get(gain, "")) for gain in gains) + " |")
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    kind = "silence" if row["around"] == "silence" else f"{NOISE_DBFS:g} dBFS noise"
    parts = [
        f"{row[field]:g} s of {kind} {where}"
        for field, where in (("before_s", "before"), ("after_s", "after"))
        if row[field]
    ]
    if row["before_s"] and row["before_s"] == row["after_s"]:
        parts = [f"{row['before_s']:g} s of {kind} before and after"]
    stereo = "stereo, right = -left" if row["inverted"] else ""
    return ", ".join([*parts, *([stereo] if stereo else [])]) or "nothing"
