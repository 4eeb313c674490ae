"""Study: do silence, noise, low level and opposite phase around a question change the reply?

The recordings are changed in one way, the model is asked through its public interface, and the replies that equal the
reference are counted. Each condition is compared with the plain recordings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from echox.api.card import markdown_table
from echox.audio import load_audio
from echox.data.scoring import same_words
from echox.evaluation.sets.items import EvalItem

NOISE_DBFS = -60.0
DURATIONS_S = (1.0, 2.0, 3.0, 5.0)
GAINS_DB = (0.0, -20.0, -34.0)


@dataclass(frozen=True)
class Condition:
    """A change of a recording.

    Attributes:
        gain_db: of the speech.
        around: "silence" or "noise" (white, at -60 dBFS for every gain).
        before_s, after_s: duration of it before and after the speech.
        inverted: the recording is stereo, its right channel is the left one with the opposite sign.
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


class ConditionRow(TypedDict):
    """A `Condition`, and how many of ``count`` replies are exact."""

    gain_db: float
    around: str
    before_s: float
    after_s: float
    inverted: bool
    exact: int
    count: int


def all_conditions() -> list[Condition]:
    """Every gain with every kind and duration of surroundings, and some with opposite phase."""
    found = []
    for gain_db in GAINS_DB:
        found += [Condition(gain_db), Condition(gain_db, inverted=True)]
        for around in ("silence", "noise"):
            found += [Condition(gain_db, around, duration_s, duration_s) for duration_s in DURATIONS_S]
            found.append(Condition(gain_db, around, 3.0, 3.0, inverted=True))
    return found


def measure_conditions(
    answer: Callable[[np.ndarray, int], str], items: Sequence[EvalItem], conditions: Iterable[Condition], seed: int = 0
) -> list[ConditionRow]:
    """Exact replies in each condition.

    Args:
        answer: the reply to samples (S,) or (S, channels) of a rate in hertz; may raise ValueError: no speech found.
        items: spoken questions of one turn; ``columns["reference"]`` is the reply.
        conditions: to measure.
        seed: of the noise.

    Returns:
        A row per condition: its fields, ``exact`` and ``count``.
    """
    recordings = [load_audio(item.audios[-1], 16000) for item in items]
    rows: list[ConditionRow] = []
    for condition in conditions:
        exact = 0
        for number, (item, waveform) in enumerate(zip(items, recordings, strict=True)):
            rng = np.random.default_rng([seed, number])
            try:
                reply = answer(condition.apply(waveform, 16000, rng), 16000)
            except ValueError:  # no speech found: no exact reply
                continue
            exact += same_words(str(item.columns["reference"]), reply)
        rows.append(
            {
                "gain_db": condition.gain_db,
                "around": condition.around,
                "before_s": condition.before_s,
                "after_s": condition.after_s,
                "inverted": condition.inverted,
                "exact": exact,
                "count": len(items),
            }
        )
    return rows


def conditions_table(rows: Sequence[ConditionRow]) -> str:
    """Rows of `measure_conditions` as a Markdown table: surroundings by gain."""
    gains = list(dict.fromkeys(row["gain_db"] for row in rows))
    cells: dict[str, dict[float, int]] = {}
    for row in rows:
        cells.setdefault(_name(row), {})[row["gain_db"]] = row["exact"]
    lines = [[name, *(str(exact.get(gain, "")) for gain in gains)] for name, exact in cells.items()]
    return "\n".join(markdown_table(["around the question", *(f"{gain:g} dB" for gain in gains)], lines))


def _name(row: ConditionRow) -> str:
    kind = "silence" if row["around"] == "silence" else f"{NOISE_DBFS:g} dBFS noise"
    durations = ((row["before_s"], "before"), (row["after_s"], "after"))
    parts = [f"{duration_s:g} s of {kind} {where}" for duration_s, where in durations if duration_s]
    if row["before_s"] and row["before_s"] == row["after_s"]:
        parts = [f"{row['before_s']:g} s of {kind} before and after"]
    stereo = "stereo, right = -left" if row["inverted"] else ""
    return ", ".join([*parts, *([stereo] if stereo else [])]) or "nothing"
