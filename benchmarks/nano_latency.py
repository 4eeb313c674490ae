"""Model-only latency of nano: time to first audio, its parts, real-time factor.

python benchmarks/nano_latency.py --data out/nano --questions 60
"""

from __future__ import annotations

import argparse

from harness import Measured, add_model_arguments, load_model, run

from echox.evaluation.latency.probe import PARTS, choose_questions, measure_latency


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, questions=60)
    parser.add_argument("--warm-up", type=int, default=3, help="replies that are not counted")


def measure(options: argparse.Namespace) -> Measured:
    model, weights = load_model(options)
    questions = choose_questions(options.data, options.questions)
    figures = measure_latency(model, questions, options.warm_up, options.threads)
    for name in ("ttfa_s", "first_text_s", "total_s", "rtf", "audio_s", "max_underrun_s", *PARTS):
        values = figures[name]
        print(f"{name:<16} mean {values['mean']:.3f}   p50 {values['p50']:.3f}   p95 {values['p95']:.3f}")
    return Measured(figures, weights)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
