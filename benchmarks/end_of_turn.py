"""The end of a turn: how soon after the last word a reply is heard, and how often it begins inside a sentence.

    python benchmarks/end_of_turn.py --questions 100 --output benchmarks/results/end_of_turn_nano.json
    python benchmarks/end_of_turn.py --questions 100 --longest-s 0.45 --output results/end_of_turn_fluent.json
    python benchmarks/end_of_turn.py --model mini --questions 100 --dialogues out/mini/text/opentriviaqa/dialogues.jsonl
    python benchmarks/end_of_turn.py --model mini --questions 60 --recordings data/llama_questions --longest-s 0.45

Questions that no part of the model was trained on are spoken by several voices, with a pause after some of their words;
or a pause is put into recorded ones (`--recordings`: a folder with ``questions.tsv``), where the model hears a word
end. Every question so has two labelled pauses: one inside (0.25 s to `--longest-s`), where a reply would be a false
start, and one at its end. The server's own turn detector runs over them frame by frame: as `server_vad` with the
silence left to the server, and with 500 ms asked for; as `semantic_vad` with each eagerness. What the model does is
really done, and takes the processor time that it takes; all other time is that of the audio. So the figures do not
depend on what else the machine does. Not in them: the network, and a client that collects audio before it sends it.

A false start is a turn that is ended inside a question; it is audible if the first sound of its reply would be sent
before the speaker goes on. Counted apart: those audible ones after less than 500 ms of a labelled pause, in which the
turn head was mistaken, and those in pauses that the voice made itself, as before a "please". With `--live-transcripts`
the model has heard each turn .4 s earlier, while the user spoke, which costs nothing here.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import Measured, run

from echox import AudioChunk, EchoX
from echox.audio import load_audio
from echox.data.corpora.everyday import everyday_requests
from echox.data.corpora.nano.world import build_dialogues
from echox.data.engines.engine import Voice
from echox.data.manifest import read_dialogues
from echox.errors import NoSpeech
from echox.evaluation.sets.items import read_recordings
from echox.evaluation.subjects.local import model_fingerprint
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import Judge, SessionOptions
from echox.serving.realtime.listening.live_transcript import STEP_S
from echox.serving.turn_detection.turns import Paused, SpeechStopped, TurnDetector, TurnEvent, TurnSettings
from echox.serving.turn_detection.vad import FRAME_MS, FRAME_SAMPLES, SAMPLING_RATE, open_vad
from echox.speech_detection import MARGIN_AFTER_S
from echox.streaming import Judged
from echox.streaming.events import Event
from echox.streaming.prompt.messages import Audio, Message
from echox.training.stages.hearing.heard_texts import key, pause_places
from echox.training.stages.hearing.pauses import PausedSpeech, cut, cut_with_pause, speak, speak_with_pause
from echox.training.stages.hearing.turn_head import split_of

VOICES = ("flite/slt", "flite/rms", "espeak-ng/en-us", "espeak-ng/en-us+Andrea", "piper/en_US-joe-medium")
SHORTEST_S = 0.25
SILENCE_MS = 500  # of server_vad
HELDOUT_SHARE = 0.25  # as in the recipes of stage turn_head
TRAINING_SEED = 0  # likewise: their held-out questions are asked here


@dataclass(frozen=True)
class Answer:
    """What the model made of a turn, and the processor time it took, ms: to the judgement, and to the first sound."""

    complete: float | None
    judged_ms: float
    sound_ms: float


@dataclass(frozen=True)
class Stop:
    """The end of a turn, the first sound of its reply, and the silence before, ms in the time of the audio."""

    decided_ms: float
    sound_ms: float
    silence_ms: float


def ask(model: EchoX, samples: np.ndarray) -> Answer:
    """Begin a reply to a turn, as the server does in a pause: its events come within the round that makes them."""
    began_s = time.process_time()
    complete, judged_ms, sound_ms = None, 0.0, None

    def take(event: Event | None) -> None:
        nonlocal complete, judged_ms, sound_ms
        now_ms = 1000 * (time.process_time() - began_s)
        if isinstance(event, Judged):
            complete, judged_ms = event.complete, now_ms
        elif isinstance(event, AudioChunk) and sound_ms is None:
            sound_ms = now_ms

    task = model.session().speculate([Message("user", (Audio(samples, SAMPLING_RATE),))], on_event=take)
    while sound_ms is None and not task.done:
        model.scheduler.step()
    task.cancel()
    if task.error is not None and not isinstance(task.error, ValueError):  # which says that nothing was heard
        raise task.error
    return Answer(complete, judged_ms, 1000 * (time.process_time() - began_s) if sound_ms is None else sound_ms)


def stops(probabilities: list[float], settings: TurnSettings, hear: Callable[[int, int], Answer]) -> Iterator[Stop]:
    """Ends of turns, frame by frame.

    Args:
        probabilities: of speech, of each frame.
        settings: of the detector.
        hear: what the model makes of the audio between two times, ms.
    """
    turns = TurnDetector(settings)
    asked: tuple[float, Paused, Answer] | None = None  # when the answer comes

    def stop(event: SpeechStopped, decided_ms: float, voiced_ms: int) -> Stop:
        if asked is not None and event.end_ms == asked[1].at_ms:  # the reply was begun when it was asked
            begun_ms, answer = float(asked[1].at_ms), asked[2]
        else:  # begun when the margin was complete, or, if the turn ended before, then
            begun_ms, answer = min(decided_ms, voiced_ms + 1000 * MARGIN_AFTER_S), hear(event.start_ms, event.end_ms)
        return Stop(decided_ms, max(decided_ms, begun_ms + answer.sound_ms), decided_ms - voiced_ms)

    voiced_ms = 0
    for number, probability in enumerate(probabilities):
        start_ms, end_ms = number * FRAME_MS, (number + 1) * FRAME_MS
        if asked is not None and asked[0] <= end_ms:
            due_ms, pause, answer = asked
            over = answer.complete is not None and answer.complete >= 0.5
            for event in turns.judged(pause, answer.complete, start_ms, final=over):
                if isinstance(event, SpeechStopped):
                    yield stop(event, max(due_ms, start_ms), voiced_ms)
            asked = asked if turns.awaits(pause) else None
            if asked is not None:
                asked = (float("inf"), pause, answer)
        events: list[TurnEvent] = turns.push(probability, start_ms, end_ms)
        silence_ms = turns.silence_ms(end_ms)
        voiced_ms = voiced_ms if silence_ms is None else end_ms - silence_ms
        for event in events:
            if isinstance(event, Paused):
                answer = hear(event.start_ms, event.at_ms)
                asked = (event.at_ms + answer.judged_ms, event, answer)
            elif isinstance(event, SpeechStopped):
                yield stop(event, end_ms, voiced_ms)


def questions(options: argparse.Namespace) -> list[str]:
    """Questions that the turn head was not fitted to."""
    dialogues = [*build_dialogues(), *everyday_requests()] if options.model == "nano" else everyday_requests()
    if options.dialogues:
        dialogues = read_dialogues(options.dialogues)
        texts = [one.turns[0].text or "" for one in dialogues if one.turns[0].role == "user"]
    else:
        single = [one for one in dialogues if sum(turn.role == "user" for turn in one.turns) == 1]
        held = [one for one in single if split_of(until_question(one), HELDOUT_SHARE, TRAINING_SEED) == "test"]
        texts = [one.turns[0].text or "" for one in held]
    return [text for text in dict.fromkeys(texts) if 4 <= len(text.split()) <= 18]


def until_question(dialogue: Any) -> Any:
    """A dialogue of one question, without its reply."""
    return type(dialogue)(dialogue.id, dialogue.turns[:1], dialogue.split)


def recorded(model: EchoX, options: argparse.Namespace, rng: random.Random) -> Iterator[PausedSpeech]:
    """Recordings with a pause inside."""
    items = read_recordings(options.recordings)
    for item in rng.sample(items, min(options.questions, len(items))):
        waveform = load_audio(item.audios[0], SAMPLING_RATE)
        (encoded,) = model.engine.encode([Audio(waveform, SAMPLING_RATE)])
        places = [place for place in pause_places(encoded.text, set()) if place < len(encoded.words)]
        if places:
            cuts = [(encoded.words[rng.choice(places) - 1].end_s, rng.uniform(SHORTEST_S, options.longest_s))]
            yield cut_with_pause(encoded.text, waveform, cuts, rng, tail_s=3.0)


def synthesized(options: argparse.Namespace, voices: list[Voice], rng: random.Random) -> Iterator[PausedSpeech]:
    """Questions in voices, with a pause inside."""
    found = questions(options)
    chosen, known = rng.sample(found, min(options.questions, len(found))), {key(text) for text in found}
    for number, text in enumerate(chosen):
        speech = spoken(text, voices[number % len(voices)], known, options.longest_s, rng)
        if speech is not None:
            yield speech


def usable_voices() -> list[Voice]:
    """Those that are installed."""
    found = []
    for name in VOICES:
        engine, _, voice = name.partition("/")
        try:
            speak("Yes.", Voice(engine, voice))
        except (ValueError, FileNotFoundError) as error:
            print(f"left out: {error}")
            continue
        found.append(Voice(engine, voice))
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="nano")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument(
        "--longest-s", type=float, default=1.5, help="Of the pauses inside; over 0.5 server_vad ends turns."
    )
    parser.add_argument("--dialogues", help="manifest of questions; default: held-out ones of the package")
    parser.add_argument("--recordings", type=Path, help="folder of recorded questions, instead of spoken ones")
    parser.add_argument(
        "--live-transcripts", action="store_true", help="as for clients that want them: the newest was not long ago"
    )
    parser.add_argument("--seed", type=int, default=0)


def measure(options: argparse.Namespace) -> Measured:
    model = EchoX.from_pretrained(options.model)
    new_vad = open_vad("silero")[1]
    rng = random.Random(f"end of turn {options.seed}")
    voices = [] if options.recordings else usable_voices()
    speeches = recorded(model, options, rng) if options.recordings else synthesized(options, voices, rng)
    judge = None if model.turn_head is None else Judge.MODEL
    arms = {"server_vad": settings_of(judge, {"type": "server_vad"})}
    arms["server_vad 500 ms"] = settings_of(judge, {"type": "server_vad", "silence_duration_ms": 500})
    for eagerness in ("high", "auto", "low"):
        arms[f"semantic_vad {eagerness}"] = settings_of(judge, {"type": "semantic_vad", "eagerness": eagerness})
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for number, speech in enumerate(speeches):

        def hear(start_ms: int, at_ms: int, waveform: np.ndarray = speech.waveform) -> Answer:
            if options.live_transcripts and at_ms - start_ms > 1000 * STEP_S:
                with contextlib.suppress(NoSpeech):
                    model.engine.encode([Audio(cut(waveform, start_ms, at_ms - round(1000 * STEP_S)), SAMPLING_RATE)])
            return ask(model, cut(waveform, start_ms, at_ms))

        vad = new_vad()
        frames = len(speech.waveform) // FRAME_SAMPLES
        probabilities = [
            vad.push(speech.waveform[one * FRAME_SAMPLES : (one + 1) * FRAME_SAMPLES]) for one in range(frames)
        ]
        if number % 10 == 9:
            print(f"{number + 1} of {options.questions} questions", flush=True)
        for name, settings in arms.items():
            model.engine.clear_encoded()  # of one way to hear a turn, what was heard before is a draft; not of another
            results[name].append(outcome(speech, list(stops(probabilities, settings, hear))))
    figures: dict[str, Any] = {name: summary(rows) for name, rows in results.items()}
    figures |= {
        "questions": len(results["server_vad"]),
        "voices": [f"{one.engine}/{one.name}" for one in voices] or ["recordings"],
        "pause_s": [SHORTEST_S, options.longest_s],
    }
    return Measured(figures, model_fingerprint(model))


def settings_of(judge: Judge | None, detection: dict[str, Any]) -> TurnSettings:
    """What the server detects turns with, if a client asks for this."""
    options = SessionOptions("any", Limits(), judge).changed({"audio": {"input": {"turn_detection": detection}}})
    settings = options.turn_settings
    assert settings is not None
    return settings


def spoken(text: str, voice: Voice, known: set[str], longest_s: float, rng: random.Random) -> PausedSpeech | None:
    """A question with a pause inside; None: it has no place for one."""
    places = pause_places(text, known)
    if not places:
        return None
    voice = Voice(voice.engine, voice.name, rng.uniform(0.9, 1.1))
    return speak_with_pause(text, voice, [(rng.choice(places), rng.uniform(SHORTEST_S, longest_s))], rng, tail_s=3.0)


def outcome(speech: PausedSpeech, found: list[Stop]) -> dict[str, Any]:
    """What came of one question."""
    end_ms, ((pauses_s, resumes_s),) = 1000 * speech.end_s, speech.pauses
    early = [one for one in found if one.decided_ms < end_ms]
    labelled = [one for one in early if 1000 * pauses_s <= one.decided_ms < 1000 * resumes_s]
    hasty = [one for one in labelled if one.silence_ms < SILENCE_MS]
    late = [one for one in found if one.decided_ms >= end_ms]
    return {
        "false_start": bool(early),
        "audible": any(one.sound_ms < 1000 * resumes_s for one in early),
        "hasty": any(one.sound_ms < 1000 * resumes_s for one in hasty),
        "elsewhere": len(labelled) < len(early),
        "decided_s": (late[0].decided_ms - end_ms) / 1000 if late else None,
        "first_audio_s": (late[0].sound_ms - end_ms) / 1000 if late else None,
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, and quantiles of times after the last word."""

    def quantiles(name: str) -> dict[str, float]:
        values = [row[name] for row in rows if row[name] is not None]
        return {f"p{level}": round(float(np.quantile(values, level / 100)), 3) for level in (10, 50, 75, 90, 95)}

    sounds = [row["first_audio_s"] for row in rows if row["first_audio_s"] is not None]
    return {
        "false_starts": sum(row["false_start"] for row in rows),
        "audible_false_starts": sum(row["audible"] for row in rows),
        "hasty_false_starts": sum(row["hasty"] for row in rows),
        "unlabelled_false_starts": sum(row["elsewhere"] for row in rows),
        "not_answered": sum(row["decided_s"] is None for row in rows),
        "decided_s": quantiles("decided_s"),
        "first_audio_s": quantiles("first_audio_s"),
        "within_250_ms": round(float(np.mean([one <= 0.25 for one in sounds])), 3),
    }


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
