"""Model-only latency of nano: time to first audio, its parts, real-time factor. The last line is JSON.

python benchmarks/nano_latency.py --data out/nano --questions 60
"""

from __future__ import annotations

import argparse
from pathlib import Path

from figures import report_figures
from transformers.utils import logging

from echox import EchoX
from echox.evaluation.latency.probe import PARTS, choose_questions, measure_latency


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano", help="model folder, hub id, or 'nano' (the embedded one)")
    parser.add_argument("--data", type=Path, help="folder of the nano corpus (default: the bundled questions)")
    parser.add_argument("--questions", type=int, default=60, help="how many held-out questions")
    parser.add_argument("--warm-up", type=int, default=3, help="replies that are not counted")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args()
    logging.disable_progress_bar()
    model = EchoX.from_pretrained(options.model, device=options.device)
    questions = choose_questions(options.data, options.questions)
    figures = measure_latency(model, questions, options.warm_up, options.threads)
    for name in ("ttfa_s", "first_text_s", "total_s", "rtf", "audio_s", "max_underrun_s", *PARTS):
        values = figures[name]
        print(f"{name:<16} mean {values['mean']:.3f}   p50 {values['p50']:.3f}   p95 {values['p95']:.3f}")
    report_figures(figures, options.output)


if __name__ == "__main__":
    main()
