"""Study of speech policies on the same questions: time to first audio against errors of the speech.

Every question is answered with every policy. The text is the same each time (greedy). The policies differ in where they
cut it and when its speech starts: first audio, in text tokens and milliseconds, is compared with the judge's
transcript. The order of the policies changes with every question, so that load on the machine affects all of them.

Source: the latency-quality curve that EchoX (arXiv 2509.09174) does not show.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from echox.api import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.data.manifest import Dialogue, audio_path, read_dialogues
from echox.data.scoring import same_words
from echox.evaluation.judges.asr import Judge
from echox.evaluation.latency.playback import play
from echox.evaluation.latency.probe import corpus_questions, machine_of, spread
from echox.evaluation.scoring.nano import contains_words
from echox.evaluation.scoring.records import balanced_order
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.scores import error_rate
from echox.evaluation.scoring.statistics import bootstrap
from echox.evaluation.studies.speech_policies.candidate_policies import candidate_policy
from echox.streaming import AudioChunk, Session
from echox.streaming.events import ReplyBuilder

OFFLINE = "whole"
"""Label of the candidate that all others are compared with."""


@dataclass(frozen=True)
class Candidate:
    """A policy of the comparison: its label in the figure, and the arguments of `candidate_policy`."""

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
"""Every policy, some of them with several values of their numbers."""


@dataclass(frozen=True)
class PolicyQuestion:
    """A question; ``group`` is the length of its reply; ``reference`` and ``answer`` are "" if not known."""

    id: str
    group: str
    question: Path
    reference: str = ""
    answer: str = ""


class _Scores(TypedDict, total=False):
    said: str
    text_as_heard: str
    s2s_exact: bool
    s2s_answer: bool


class PolicyReply(_Scores):
    """One reply with one policy: cost and playback; with a judge, its transcript and whether that is right."""

    group: str
    text: str
    tokens: float
    segments: int
    chunks: int
    ttfa_s: float | None
    ttfa_cpu_s: float | None
    ttfa_tokens: float
    total_s: float
    compute_s: float
    audio_s: float
    underruns: int
    stalled_s: float
    failures: int


def policy_questions(data_dir: Path | None, limit: int, seed: int = 0) -> list[PolicyQuestion]:
    """Held-out spoken questions in voices of the training.

    Args:
        data_dir: folder of the nano corpus; None: the bundled questions, of which there are few.
        limit: number of questions with replies of one sentence, and of those with longer replies.
        seed: of their order.

    Raises:
        ValueError: the folder is no such corpus, or has no held-out questions.
    """
    if data_dir is None:
        return [PolicyQuestion(path.stem, "bundled", path) for path in bundled_questions()[:limit]]
    manifest = corpus_questions(data_dir)
    groups: dict[str, list[Dialogue]] = {"one sentence": [], "several sentences": []}
    for item in read_dialogues(manifest):
        if item.split == "heldout_seen_voices" and len(item.turns) == 2 and item.turns[0].audio is not None:
            sentences = len(re.findall(r"[.!?](?:\s|$)", item.turns[-1].text or ""))
            groups["several sentences" if sentences > 1 else "one sentence"].append(item)
    if not any(groups.values()):
        raise ValueError(f"{manifest}: expected held-out questions, found none: run the corpus stage")
    return [
        PolicyQuestion(
            item.id, group, audio_path(manifest, str(item.turns[0].audio)), item.turns[1].text or "", item.answer or ""
        )
        for group, items in groups.items()
        for item in balanced_order(items, lambda item: str(item.topic), seed)[:limit]
    ]


def compare_policies(
    model: EchoX,
    judge: Judge | None,
    items: Sequence[PolicyQuestion],
    candidates: Sequence[Candidate] = CANDIDATES,
    progress: Callable[[str], None] = lambda line: None,
) -> JsonObject:
    """Answer every item with every candidate.

    Args:
        model: decoded greedily.
        judge: transcribes the replies; None: only times are measured.
        items: of `policy_questions`.
        candidates: with `OFFLINE` among them, one of the others is recommended.
        progress: called with one line after every question.

    Returns:
        The machine, ``policies``: by label, figures of all items and of each group (see `summary`), and
        ``recommended``.

    Raises:
        ValueError: no items.
    """
    if not items:
        raise ValueError("expected at least one question, found none: name a corpus folder")
    transcripts: dict[bytes, str] = {}  # many policies cut a short reply in the same way, so it sounds the same
    rows: dict[str, list[PolicyReply]] = {candidate.label: [] for candidate in candidates}
    for candidate in candidates:  # not counted: the first reply of a process and of a policy is slow
        _answer(model, items[0], load_audio(items[0].question, model.sampling_rate), candidate)
    for number, item in enumerate(items):
        turned = number % len(candidates)
        question = load_audio(item.question, model.sampling_rate)
        for place, candidate in enumerate([*candidates[turned:], *candidates[:turned]]):
            # Audio is encoded once: an inaudible change makes each policy encode it again.
            question[-1] = 1e-9 * (place + 1)
            row, waveform = _answer(model, item, question, candidate)
            if judge is not None:
                rate = model.engine.output_sampling_rate
                sound = waveform.tobytes()
                if sound not in transcripts:
                    transcripts[sound] = judge.transcribe([waveform], rate)[0] if sound else ""
                _add_scores(row, item, transcripts[sound], judge)
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
    model: EchoX, item: PolicyQuestion, question: np.ndarray, candidate: Candidate
) -> tuple[PolicyReply, np.ndarray]:
    """One reply: its text, cost, and arrival of its chunks; and its waveform (S,)."""
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
    row: PolicyReply = {
        "group": item.group,
        "text": reply.text,
        "tokens": float(reply.timings["num_tokens"] or 0),
        "segments": task.speech.num_segments if task.speech is not None else 0,
        "chunks": len(arrivals_s),
        "ttfa_s": arrivals_s[0] if arrivals_s else None,
        "ttfa_cpu_s": ttfa_cpu_s,
        "ttfa_tokens": float(reply.timings["ttfa_tokens"] or 0),
        "total_s": total_s,
        "compute_s": float(reply.timings["compute_s"] or 0),
        "audio_s": reply.duration_s,
        "underruns": playback.underruns,
        "stalled_s": playback.stalled_s,
        "failures": len(reply.failures),
    }
    return row, reply.waveform


def _add_scores(row: PolicyReply, item: PolicyQuestion, said: str, judge: Judge) -> None:
    row["said"], row["text_as_heard"] = said, judge.as_heard(row["text"])
    if item.reference:
        row["s2s_exact"] = same_words(judge.as_heard(item.reference), said)
        row["s2s_answer"] = contains_words(said, judge.as_heard(item.answer or item.reference))


def summary(rows: Sequence[PolicyReply]) -> JsonObject:
    """Figures of one policy over replies.

    ``ttfa_tokens``, ``ttfa_s`` and ``ttfa_cpu_s`` (`spread` over the spoken replies; the last is processor time, which
    other processes do not change), ``segments`` and ``tokens`` per reply, ``rtf`` (time of all replies per second of
    their speech), ``underruns``: replies with a gap, ``stalled_s``: the longest gap. With a judge also
    ``reply_wer`` (speech against its own text), ``s2s_answer`` and ``s2s_exact``.

    Raises:
        ValueError: nothing was spoken.
    """
    spoken = [row for row in rows if row["ttfa_s"] is not None]
    if not spoken:
        raise ValueError(f"expected spoken replies, found none of {len(rows)}: is the model trained?")
    found: JsonObject = {
        "replies": len(rows),
        "unspoken": len(rows) - len(spoken),
        "failures": sum(row["failures"] for row in rows),
        "ttfa_tokens": spread([row["ttfa_tokens"] for row in spoken]),
        "ttfa_s": spread([row["ttfa_s"] for row in spoken if row["ttfa_s"] is not None]),
        "ttfa_cpu_s": spread([row["ttfa_cpu_s"] for row in spoken if row["ttfa_cpu_s"] is not None]),
        "segments": sum(row["segments"] for row in rows) / len(rows),
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        "audio_s": sum(row["audio_s"] for row in rows),
        "rtf": sum(row["total_s"] for row in rows) / sum(row["audio_s"] for row in rows),
        "underruns": sum(row["underruns"] > 0 for row in rows),
        "stalled_s": max(row["stalled_s"] for row in rows),
    }
    if "said" in rows[0]:
        found["reply_wer"] = error_rate([row["text_as_heard"] for row in rows], [row["said"] for row in rows])
        answered = [float(row["s2s_answer"]) for row in rows if "s2s_answer" in row]
        exact = [float(row["s2s_exact"]) for row in rows if "s2s_exact" in row]
        for name, scored in (("s2s_answer", answered), ("s2s_exact", exact)):
            if scored:
                found[name] = asdict(bootstrap(scored))
    return found


def recommend(policies: dict[str, JsonObject], points: float = 0.01) -> str | None:
    """The policy with the earliest first audio among those that are as good as `OFFLINE`. None without a judge.

    As good means: accuracy and word errors are at most ``points`` worse than those of `OFFLINE`, and the share of
    replies with a gap is at most ``points`` above the smallest share of any streaming policy (load causes gaps too).
    """
    if OFFLINE not in policies or "reply_wer" not in policies[OFFLINE]["all"]:
        return None
    waiting = policies[OFFLINE]["all"]
    streaming = {label: policy["all"] for label, policy in policies.items() if label != OFFLINE}
    fewest = min((figures["underruns"] / figures["replies"] for figures in streaming.values()), default=0.0)

    def good(figures: JsonObject) -> bool:
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
