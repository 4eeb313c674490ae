"""The trigger laboratory: what each speech policy costs in words and gains in time, on the same questions.

Every question is answered under every policy. The text is the same each time (greedy), so what differs is where its
speech is cut and when it starts: first audio in text tokens and in milliseconds, against what a judge hears. The order
of the policies turns with every question, so a busy moment of the machine does not fall on one policy alone.

Source: the latency-quality curve that EchoX (arXiv 2509.09174) does not show.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from echox.api import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.data.manifest import Dialogue, audio_path, read_dialogues
from echox.data.scoring import same_words
from echox.evaluation.judges.asr import Judge
from echox.evaluation.latency.playback import play
from echox.evaluation.latency.probe import machine_of, spread
from echox.evaluation.scoring.metrics import bootstrap
from echox.evaluation.scoring.nano import says
from echox.evaluation.scoring.records import balanced_order
from echox.evaluation.scoring.scores import error_rate
from echox.evaluation.studies.candidate_policies import candidate_policy
from echox.streaming import AudioChunk, Session
from echox.streaming.events import ReplyBuilder

OFFLINE = "whole"
"""Label of the candidate that all others are held against."""


@dataclass(frozen=True)
class Candidate:
    """A policy of the laboratory: its name in the figure, and what `candidate_policy` takes."""

    label: str
    policy: str
    numbers: dict[str, float] = field(default_factory=dict)


CANDIDATES = (
    Candidate(OFFLINE, "whole"),
    Candidate("reference", "reference"),
    Candidate("semantic", "semantic"),
    Candidate("semantic, look-ahead 1", "semantic", {"lookahead_tokens": 1}),
    Candidate("semantic, look-ahead 0", "semantic", {"lookahead_tokens": 0}),
    Candidate("punctuation", "punctuation"),
    Candidate("fixed 4", "fixed", {"every_tokens": 4}),
    Candidate("fixed 8", "fixed", {"every_tokens": 8}),
    Candidate("fixed 16", "fixed", {"every_tokens": 16}),
    Candidate("early 1 word", "early_first", {"first_words": 1}),
    Candidate("early 2 words", "early_first", {"first_words": 2}),
    Candidate("early 4 words", "early_first", {"first_words": 4}),
    Candidate("word by word, commas", "word_by_word", {"min_tokens": 4}),
    Candidate("word by word", "word_by_word"),
)
"""Every policy, and a small grid of what its numbers change."""


@dataclass(frozen=True)
class LabItem:
    """A question: ``group`` says how long its reply should be; ``reference`` and ``answer`` are "" if not known."""

    id: str
    group: str
    question: Path
    reference: str = ""
    answer: str = ""


def lab_items(data_dir: Path | None, limit: int, seed: int = 0) -> list[LabItem]:
    """Held-out spoken questions of known voices: so many whose reply is one sentence, and so many with longer ones.

    Without a corpus: the bundled questions.

    Raises:
        ValueError: the corpus has no held-out questions.
    """
    manifest = data_dir / "speech" / "dialogues.jsonl" if data_dir is not None else None
    if manifest is None or not manifest.is_file():
        return [LabItem(path.stem, "bundled", path) for path in bundled_questions()[:limit]]
    groups: dict[str, list[Dialogue]] = {"one sentence": [], "several sentences": []}
    for item in read_dialogues(manifest):
        if item.split == "heldout_seen_voices" and len(item.turns) == 2 and item.turns[0].audio is not None:
            sentences = len(re.findall(r"[.!?](?:\s|$)", item.turns[-1].text or ""))
            groups["several sentences" if sentences > 1 else "one sentence"].append(item)
    if not any(groups.values()):
        raise ValueError(f"{manifest}: expected held-out questions, found none: run the corpus stage")
    return [
        LabItem(
            item.id, group, audio_path(manifest, str(item.turns[0].audio)), item.turns[1].text or "", item.answer or ""
        )
        for group, items in groups.items()
        for item in balanced_order(items, lambda item: str(item.topic), seed)[:limit]
    ]


def run_trigger_lab(
    model: EchoX,
    judge: Judge | None,
    items: Sequence[LabItem],
    candidates: Sequence[Candidate] = CANDIDATES,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Answer every item under every candidate.

    Args:
        model: decoded greedily.
        judge: hears the replies; None: only times are measured.
        items: of `lab_items`.
        candidates: `OFFLINE` among them, if the others are to be held against it and one recommended.
        progress: called with one line after every question.

    Returns:
        The machine, ``policies``: by label, figures of all items and of each group (see `summary`), and
        ``recommended``.

    Raises:
        ValueError: no items.
    """
    if not items:
        raise ValueError("expected at least one question, found none: name a corpus folder")
    heard: dict[bytes, str] = {}  # many policies cut a short reply alike: then its sound is the same
    rows: dict[str, list[dict[str, Any]]] = {candidate.label: [] for candidate in candidates}
    for candidate in candidates:  # not counted: the first reply of a process, and of a policy, is slow
        _answer(model, items[0], load_audio(items[0].question, model.sampling_rate), candidate)
    for number, item in enumerate(items):
        turned = number % len(candidates)
        question = load_audio(item.question, model.sampling_rate)
        for place, candidate in enumerate([*candidates[turned:], *candidates[:turned]]):
            # What was heard before is not encoded again: each policy gets a sound of its own, inaudibly so.
            question[-1] = 1e-9 * (place + 1)
            row, waveform = _answer(model, item, question, candidate)
            if judge is not None:
                sound = waveform.tobytes()
                if sound not in heard:
                    heard[sound] = judge.transcribe([waveform], model.engine.output_sampling_rate)[0] if sound else ""
                row |= _judged(item, row["text"], heard[sound], judge)
            rows[candidate.label].append(row)
        progress(f"{number + 1}/{len(items)} {item.id}")
    groups = list(dict.fromkeys(item.group for item in items))
    policies = {
        candidate.label: {
            "policy": candidate.policy,
            "numbers": candidate.numbers,
            "all": summary(rows[candidate.label]),
            **{name: summary([r for r in rows[candidate.label] if r["group"] == name]) for name in groups},
        }
        for candidate in candidates
    }
    return {
        **machine_of(model),
        "judge": judge.name if judge is not None else None,
        "questions": {name: sum(item.group == name for item in items) for name in groups},
        "policies": policies,
        "recommended": recommend(policies),
    }


def _answer(
    model: EchoX, item: LabItem, question: np.ndarray, candidate: Candidate
) -> tuple[dict[str, Any], np.ndarray]:
    """One reply: what it was, and when its chunks came."""
    builder = ReplyBuilder(model.engine.output_sampling_rate)
    arrivals_s: list[float] = []
    began_s, began_cpu_s, ttfa_cpu_s = time.perf_counter(), time.process_time(), None
    policy = candidate_policy(candidate.policy, model.engine.trigger, **candidate.numbers)
    session = Session(model.scheduler, model.settings.replaced({"temperature": 0.0}), policy=policy)
    task = session.submit(question.copy())
    for event in task:
        builder.add(event)
        if isinstance(event, AudioChunk):
            arrivals_s.append(time.perf_counter() - began_s)
            ttfa_cpu_s = ttfa_cpu_s or time.process_time() - began_cpu_s
    total_s = time.perf_counter() - began_s
    reply = builder.build()
    playback = play(arrivals_s, [chunk.duration_s for chunk in reply.chunks])
    row = {
        "group": item.group,
        "text": reply.text,
        "tokens": reply.timings["num_tokens"],
        "segments": task.speech.num_segments if task.speech is not None else 0,
        "chunks": len(arrivals_s),
        "ttfa_s": arrivals_s[0] if arrivals_s else None,
        "ttfa_cpu_s": ttfa_cpu_s,
        "ttfa_tokens": reply.timings["ttfa_tokens"],
        "total_s": total_s,
        "compute_s": reply.timings["compute_s"],
        "audio_s": reply.duration_s,
        "underruns": playback.underruns,
        "stalled_s": playback.stalled_s,
        "failures": len(reply.failures),
    }
    return row, reply.waveform


def _judged(item: LabItem, text: str, said: str, judge: Judge) -> dict[str, Any]:
    scores: dict[str, Any] = {"said": said, "text_as_heard": judge.as_heard(text)}
    if item.reference:
        scores["s2s_exact"] = same_words(judge.as_heard(item.reference), said)
        scores["s2s_answer"] = says(said, judge.as_heard(item.answer or item.reference))
    return scores


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one policy over replies.

    ``ttfa_tokens``, ``ttfa_s`` and ``ttfa_cpu_s`` (`spread`, over the spoken replies; the last is processor time, which
    other work on the machine does not lengthen), ``segments`` and ``tokens`` a reply, ``rtf`` (time to the end of the
    reply over its speech, all together), ``underruns``: replies that stalled, ``stalled_s``: the longest stall; with a
    judge ``reply_wer`` (speech against its own text), ``s2s_answer``, ``s2s_exact``.

    Raises:
        ValueError: nothing was spoken.
    """
    spoken = [row for row in rows if row["ttfa_s"] is not None]
    if not spoken:
        raise ValueError(f"expected spoken replies, found none of {len(rows)}: is the model trained?")
    found: dict[str, Any] = {
        "replies": len(rows),
        "unspoken": len(rows) - len(spoken),
        "failures": sum(row["failures"] for row in rows),
        **{name: spread([row[name] for row in spoken]) for name in ("ttfa_tokens", "ttfa_s", "ttfa_cpu_s")},
        "segments": sum(row["segments"] for row in rows) / len(rows),
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        "audio_s": sum(row["audio_s"] for row in rows),
        "rtf": sum(row["total_s"] for row in rows) / sum(row["audio_s"] for row in rows),
        "underruns": sum(row["underruns"] > 0 for row in rows),
        "stalled_s": max(row["stalled_s"] for row in rows),
    }
    if "said" in rows[0]:
        found["reply_wer"] = error_rate([row["text_as_heard"] for row in rows], [row["said"] for row in rows])
        for name in ("s2s_answer", "s2s_exact"):
            scored = [float(row[name]) for row in rows if name in row]
            if scored:
                found[name] = asdict(bootstrap(scored))
    return found


def recommend(policies: dict[str, dict[str, Any]], points: float = 0.01) -> str | None:
    """The earliest policy among those as good as waiting. None without a judge.

    As good: accuracy and word errors at most ``points`` worse than `OFFLINE`'s, and the share of replies that stall at
    most ``points`` above the smallest of any streaming policy (a busy moment may fall on any).
    """
    if OFFLINE not in policies or "reply_wer" not in policies[OFFLINE]["all"]:
        return None
    waiting = policies[OFFLINE]["all"]
    streaming = {label: policy["all"] for label, policy in policies.items() if label != OFFLINE}
    fewest = min((figures["underruns"] / figures["replies"] for figures in streaming.values()), default=0.0)

    def good(figures: dict[str, Any]) -> bool:
        accuracy = figures.get("s2s_answer", {"mean": 0.0})["mean"]
        expected = waiting.get("s2s_answer", {"mean": 0.0})["mean"]
        return (
            figures["reply_wer"]["mean"] <= waiting["reply_wer"]["mean"] + points
            and accuracy >= expected - points
            and figures["underruns"] / figures["replies"] <= fewest + points
        )

    def early(label: str) -> tuple[float, float]:
        return streaming[label]["ttfa_tokens"]["p50"], streaming[label]["reply_wer"]["mean"]

    return min((label for label, figures in streaming.items() if good(figures)), key=early, default=None)
