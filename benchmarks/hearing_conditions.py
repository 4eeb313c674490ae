"""Exact replies to held-out spoken questions in silence, noise, faint and out of phase. The last line is JSON.

python benchmarks/hearing_conditions.py                       # nano and the questions that come with it
python benchmarks/hearing_conditions.py --data out/nano --first 200
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from figures import report_figures
from transformers.utils import logging

from echox import EchoX
from echox.audio import load_audio
from echox.evaluation.scoring.records import fingerprint
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.nano import nano_items
from echox.evaluation.studies.conditions import all_conditions, conditions_table, measure_conditions
from echox.speech_detection import find_speech

SETS = ("heldout_seen_voices", "heldout_new_voices")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="model folder, hub id, or 'nano' (the embedded one)")
    parser.add_argument("--data", type=Path, help="folder of the nano corpus (default: the embedded held-out part)")
    parser.add_argument("--questions", type=int, default=20, help="how many of each of the two sets of voices")
    parser.add_argument("--first", type=int, default=0, help="the first of them, in the order of the scorecard")
    parser.add_argument("--gain-db", type=float, nargs="*", help="only these (default: 0, -20 and -34)")
    parser.add_argument("--quick", action="store_true", help="only plain, and 3 s before and after")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args()
    logging.disable_progress_bar()
    model = EchoX.from_pretrained(options.model, device="cpu")
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
    recordings = [load_audio(item.audios[-1], 16000) for item in items]
    began_s = time.perf_counter()
    for recording in recordings:
        find_speech(recording, 16000)
    spent_ms = 1000 * (time.perf_counter() - began_s)
    figures = {
        "model": fingerprint(model.model),
        "first": options.first,
        "detection_ms_per_s": round(spent_ms / (sum(map(len, recordings)) / 16000), 2),
        "conditions": rows,
    }
    report_figures(figures, options.output)


if __name__ == "__main__":
    main()
