"""Many conversations on one model: real time for each? first audio? the same as alone?

python benchmarks/many_sessions.py --data out/nano --sessions 8 --threads 2

Three parts: ``together`` (all ask at the same moment, the worst case), ``spread`` (they ask at random moments within a
few seconds, again and again), ``queue`` (many more than can run: order, refusal, memory). A background thread drives
the scheduler, as in a server.
"""

from __future__ import annotations

import argparse
import random
import threading
import time
from typing import Any

import numpy as np
from harness import Measured, add_model_arguments, load_model, resident_bytes, run

from echox import EchoX
from echox.audio import load_audio
from echox.errors import QueueFull
from echox.evaluation.latency.playback import Playback, play
from echox.evaluation.latency.probe import choose_questions, spread
from echox.streaming import AudioChunk, Finished

SETTINGS = {"temperature": 0.0, "echo_temperature": 0.0}
QUEUE_ROUNDS = 4


class Listener:
    """One reply as its listener gets it: chunks and when they came, by the clock of the whole run."""

    def __init__(self, model: EchoX, question: np.ndarray, **settings: Any) -> None:
        self.asked_s = time.perf_counter()
        self.arrivals_s: list[float] = []
        self.chunks: list[AudioChunk] = []
        self.text = ""
        self.done = threading.Event()
        self.task = model.session(**{**SETTINGS, **settings}).submit(question, on_event=self._on_event)

    def _on_event(self, event: Any) -> None:
        if event is None:
            self.done.set()
        elif isinstance(event, AudioChunk):
            self.arrivals_s.append(time.perf_counter() - self.asked_s)
            self.chunks.append(event)
        elif isinstance(event, Finished):
            self.text = event.text

    @property
    def waveform(self) -> np.ndarray:
        """(samples,)."""
        return np.concatenate([chunk.waveform for chunk in self.chunks]) if self.chunks else np.zeros(0, np.float32)

    @property
    def playback(self) -> Playback:
        """Its chunks in a player, on the clock of the arrivals."""
        return play(self.arrivals_s, [chunk.duration_s for chunk in self.chunks])


def new_sound(question: np.ndarray, number: int) -> np.ndarray:
    """An inaudibly different copy: what was heard before would not be encoded again."""
    copy = question.copy()
    copy[-1] = 1e-9 * (number + 3)
    return copy


def figures_of(listeners: list[Listener], alone: list[Any], asked: list[int]) -> dict[str, Any]:
    """First audio, stalls, and how far each reply is from what it is alone."""
    for listener in listeners:
        if listener.task.error is not None:
            raise listener.task.error
    furthest, other = 0.0, 0
    for listener, number in zip(listeners, asked, strict=True):
        expected = alone[number]
        same = listener.text == expected.text and len(listener.waveform) == len(expected.waveform)
        other += not same
        if same and len(expected.waveform):
            furthest = max(furthest, float(np.abs(listener.waveform - expected.waveform).max()))
    return {
        "replies": len(listeners),
        "ttfa_s": spread([listener.arrivals_s[0] for listener in listeners]),
        "stalled": sum(listener.playback.underruns > 0 for listener in listeners),
        "worst_stall_s": max(listener.playback.stalled_s for listener in listeners),
        "not_as_alone": other,
        "furthest_sample": furthest,
        "audio_s": sum(len(listener.waveform) for listener in listeners) / listeners[0].chunks[0].sampling_rate,
    }


def together(model: EchoX, questions: list[np.ndarray], alone: list[Any], sessions: int, rounds: int) -> dict[str, Any]:
    """`sessions` questions at the same moment, several rounds."""
    listeners: list[Listener] = []
    asked: list[int] = []
    busy_s = 0.0
    for number in range(rounds):
        chosen = [(number * sessions + place) % len(questions) for place in range(sessions)]
        sounds = [new_sound(questions[place], 1000 * number + row) for row, place in enumerate(chosen)]
        began_s = time.perf_counter()
        now = [Listener(model, sound) for sound in sounds]
        for listener in now:
            listener.done.wait()
        busy_s += time.perf_counter() - began_s
        listeners += now
        asked += chosen
    found = figures_of(listeners, alone, asked)
    return {**found, "sessions": sessions, "sessions_in_real_time": found["audio_s"] / busy_s}


def at_random(
    model: EchoX, questions: list[np.ndarray], alone: list[Any], sessions: int, seconds: float
) -> dict[str, Any]:
    """Each session asks, listens to the end, pauses a moment, asks again."""
    listeners: list[Listener] = []
    asked: list[int] = []
    lock = threading.Lock()
    ends_s = time.perf_counter() + seconds

    def talk(session: int) -> None:
        rng = random.Random(session)
        time.sleep(rng.uniform(0, 2))
        while time.perf_counter() < ends_s:
            place = rng.randrange(len(questions))
            listener = Listener(model, new_sound(questions[place], rng.randrange(1_000_000)))
            listener.done.wait()
            with lock:
                listeners.append(listener)
                asked.append(place)
            heard_s = listener.asked_s + listener.playback.ended_s
            time.sleep(max(0.0, heard_s - time.perf_counter()) + rng.uniform(0.2, 1.0))

    threads = [threading.Thread(target=talk, args=(session,)) for session in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {**figures_of(listeners, alone, asked), "sessions": sessions}


def queue(model: EchoX, questions: list[np.ndarray], alone: list[Any]) -> dict[str, Any]:
    """As many as are taken, and one more; then the same again: memory must not grow with what was served."""
    scheduler = model.scheduler
    room = scheduler.max_running + scheduler.max_waiting
    memory_mb, orders, refused = [], [], 0
    figures: dict[str, Any] = {}
    for number in range(QUEUE_ROUNDS):
        scheduler.stop()  # nothing is served while the queue is being filled
        asked = [place % len(questions) for place in range(room)]
        listeners = [
            Listener(model, new_sound(questions[place], 10_000 * number + row)) for row, place in enumerate(asked)
        ]
        try:
            Listener(model, questions[0])
        except QueueFull:
            refused += 1
        scheduler.start()
        for listener in listeners:
            listener.done.wait()
        began = [listener.asked_s + listener.arrivals_s[0] for listener in listeners]
        orders.append(float(np.corrcoef(np.arange(room), np.argsort(np.argsort(began)))[0, 1]))
        memory_mb.append(resident_bytes() / 2**20)
        figures = figures_of(listeners, alone, asked)
    return {
        "queued": room,
        "refused_past_the_limit": refused == QUEUE_ROUNDS,
        "order": min(orders),
        "memory_mb": memory_mb,
        **{name: figures[name] for name in ("ttfa_s", "not_as_alone", "furthest_sample")},
    }


def cancelled(model: EchoX, questions: list[np.ndarray], count: int) -> dict[str, Any]:
    """Cancel replies after their first event; memory and the scheduler go back to where they were."""
    before_mb = resident_bytes() / 2**20
    for number in range(count):
        listener = Listener(model, new_sound(questions[number % len(questions)], 100_000 + number))
        if number % 2:
            while not listener.arrivals_s and not listener.done.is_set():
                time.sleep(0.001)
        listener.task.cancel()
        listener.done.wait()
    return {
        "cancelled": count,
        "still_running": model.scheduler.num_running + model.scheduler.num_waiting,
        "memory_grown_mb": resident_bytes() / 2**20 - before_mb,
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser, questions=32)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8], help="that ask at the same moment")
    parser.add_argument("--rounds", type=int, default=4, help="of questions at the same moment")
    parser.add_argument("--seconds", type=float, default=20, help="of sessions that ask at random moments")
    parser.add_argument("--cancel", type=int, default=200, help="replies that are cancelled")
    parser.set_defaults(threads=2)


def report(sessions: int, kind: str, found: dict[str, Any]) -> None:
    """One line for people; times in ms."""
    print(
        f"{sessions:>3} sessions, {kind:<8} first audio p50 {1000 * found['ttfa_s']['p50']:.0f} ms, p95 "
        f"{1000 * found['ttfa_s']['p95']:.0f} ms; {found['stalled']} of {found['replies']} stalled; "
        f"{found['not_as_alone']} not as alone (furthest sample {found['furthest_sample']:.1e})"
    )


def measure(options: argparse.Namespace) -> Measured:
    model, weights = load_model(options)
    paths = choose_questions(options.data, options.questions)
    questions = [load_audio(path, model.sampling_rate) for path in paths]
    alone = [model.generate(new_sound(question, -2), **SETTINGS) for question in questions]
    compute_s, audio_s = (sum(values) for values in zip(*((r.timings["compute_s"], r.duration_s) for r in alone)))
    figures: dict[str, Any] = {"together": [], "spread": [], "rtf_alone": compute_s / audio_s}
    model.scheduler.start()
    try:
        together(model, questions, alone, max(options.sessions), 1)  # not counted
        for sessions in options.sessions:
            figures["together"].append(together(model, questions, alone, sessions, options.rounds))
            report(sessions, "together", figures["together"][-1])
            figures["spread"].append(at_random(model, questions, alone, sessions, options.seconds))
            report(sessions, "spread", figures["spread"][-1])
        figures["queue"] = queue(model, questions, alone)
        print(f"queue: {figures['queue']}")
        figures["cancel"] = cancelled(model, questions, options.cancel)
        print(f"cancel: {figures['cancel']}")
    finally:
        model.scheduler.stop()
    return Measured(figures, weights)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
