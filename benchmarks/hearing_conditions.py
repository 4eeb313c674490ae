"""Exact replies to held-out spoken questions in silence, noise, faint and out of phase.

python benchmarks/hearing_conditions.py                       # nano and the questions that come with it
python benchmarks/hearing_conditions.py --data out/nano --first 200
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from harness import Measured, add_model_arguments, load_model, run, times_s

from echox.audio import load_audio
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.nano import nano_items
from echox.evaluation.studies.conditions import all_conditions, conditions_table, measure_conditions
from echox.speech_detection import find_speech

RATE_HZ = 16_000
SETS = ("heldout_seen_voices", "heldout_new_voices")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, questions=20)
    parser.add_argument("--data", type=Path, help="folder of the nano corpus (default: the embedded held-out part)")
    parser.add_argument("--questions", type=int, default=20, help="of each of the two sets of voices (default: 20)")
    parser.add_argument("--first", type=int, default=0, help="the first of them, in the order of the scorecard")
    parser.add_argument("--gain-db", type=float, nargs="*", help="only these (default: 0, -20 and -34)")
    parser.add_argument("--quick", action="store_true", help="only plain, and 3 s before and after")


def measure(options: argparse.Namespace) -> Measured:
    model, weights = load_model(options)
    end = options.first + options.questions
    found = nano_items(options.data or embedded_heldout(), limit=end)
    items = [item for name in SETS for item in found[name][options.first : end]]

    def answer(samples: np.ndarray, sampling_rate: int) -> str:
        return model.generate({"array": samples, "sampling_rate": sampling_rate}, speak=False).text

    conditions = all_conditions()
    if options.gain_db:
        conditions = [one for one in conditions if one.gain_db in options.gain_db]
    if options.quick:
        conditions = [one for one in conditions if one.before_s == one.after_s and one.before_s in (0.0, 3.0)]
    rows = measure_conditions(answer, items, conditions)
    print(conditions_table(rows))
    recordings = [load_audio(item.audios[-1], RATE_HZ) for item in items]
    (spent_s,) = times_s(lambda: [find_speech(recording, RATE_HZ) for recording in recordings], 1)
    detection_ms_per_s = 1000 * spent_s / (sum(map(len, recordings)) / RATE_HZ)
    figures = {"first": options.first, "detection_ms_per_s": round(detection_ms_per_s, 2), "conditions": rows}
    return Measured(figures, weights)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
