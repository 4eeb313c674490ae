"""Nano's scorecard: what it hears, writes and says on held-out paraphrases and held-out voices.

Four sets of the nano corpus, in an order balanced over topics:

- ``typed``: the question as text; does the reply equal the reference (T2T)?
- ``heldout_seen_voices``, ``heldout_new_voices``, ``multi_turn``: the question (in ``multi_turn`` all questions so far)
  as audio. From the same reply come the transcription error of the CTC head, S2T (the written reply), S2S (what a judge
  heard of the spoken reply) and the error of the speech against its own text. A reply that could not be spoken counts
  as an empty transcript, a question that could not be heard as an empty reply: never as missing.

The stages (generate, transcribe, score) are those of every task: :mod:`echox.evaluation.run`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echox.data.manifest import Dialogue, audio_path, read_dialogues
from echox.data.scoring import normalize_words, same_words
from echox.evaluation.items import Item
from echox.evaluation.metrics import agreement_table, bootstrap, exist_match
from echox.evaluation.records import balanced_order
from echox.evaluation.scores import Row, counts, error_rate, score_rates

if TYPE_CHECKING:
    from echox.api import EchoX
    from echox.evaluation.judges.asr import Judge

TYPED = "typed"
SPOKEN_SETS = {
    "heldout_seen_voices": ("dialogues.jsonl", "heldout_seen_voices"),
    "heldout_new_voices": ("dialogues.jsonl", "heldout_new_voices"),
    "multi_turn": ("multi_turn.jsonl", "heldout"),
}
"""Name of a set of spoken questions -> its manifest under ``speech/`` and its split there."""
METRICS_FILE = "metrics.json"


def evaluate_nano(
    model: EchoX, judge: Judge, data_dir: Path, output_dir: Path, limit: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Run and score everything; writes records, replies and ``metrics.json`` into ``output_dir``.

    Args:
        model: the model under test; decoded greedily.
        judge: recogniser of the spoken replies.
        data_dir: folder of the corpus stage.
        output_dir: a second call with the same weights goes on where the first stopped.
        limit: items per set (None = all); a beginning of an order balanced over topics.
        seed: of that order.

    Raises:
        ValueError: a set of the corpus is missing or empty.
    """
    from echox.evaluation.run import run_tasks
    from echox.evaluation.subjects import InProcess
    from echox.evaluation.tasks import NANO, open_tasks

    tasks = open_tasks(NANO, data_dir, limit, seed)
    metrics = metrics_of(run_tasks(tasks, InProcess(model), judge, output_dir, recordings=data_dir, limit=limit))
    assert metrics is not None, "all of nano's sets were run"
    return metrics


def metrics_of(summary: dict[str, Any]) -> dict[str, Any] | None:
    """The scorecard in a run's summary: what ``metrics.json`` holds; None where not all of nano's sets were run."""
    tasks = summary["tasks"]
    names = (TYPED, *SPOKEN_SETS)
    if not all(name in tasks for name in names):
        return None
    return {"model": summary["subject"]["key"], "judge": summary["judge"], **{name: tasks[name] for name in names}}


def nano_items(data_dir: Path, limit: int | None = None, seed: int = 0) -> dict[str, list[Item]]:
    """The items of each set.

    Args:
        data_dir: folder of the corpus stage, or the embedded held-out part of it.
        limit: items per set (None = all).
        seed: of the order.

    Raises:
        ValueError: a set is missing or empty.
    """
    text = data_dir / "text" / "dialogues.jsonl"
    sets = {TYPED: [_item(item, None) for item in _chosen(text, "heldout", limit, seed)]}
    for name, (file, split) in SPOKEN_SETS.items():
        manifest = data_dir / "speech" / file
        sets[name] = [_item(item, manifest) for item in _chosen(manifest, split, limit, seed)]
    return sets


def _chosen(manifest: Path, split: str, limit: int | None, seed: int) -> list[Dialogue]:
    items = [item for item in read_dialogues(manifest) if item.split == split] if manifest.exists() else []
    if not items:
        raise ValueError(f"{manifest}: expected dialogues of split {split!r}, found none: run the corpus stage")
    return balanced_order(items, lambda item: str(item.topic), seed)[:limit]


def _item(dialogue: Dialogue, manifest: Path | None) -> Item:
    question, reference = dialogue.turns[-2], dialogue.turns[-1]
    return Item(
        dialogue.id,
        messages_of(dialogue, manifest),
        question.text or "",
        (dialogue.answer or reference.text or "",),
        {"topic": dialogue.topic, "speaker": question.speaker, "reference": reference.text},
    )


def messages_of(dialogue: Dialogue, manifest: Path | None) -> list[dict[str, Any]]:
    """A dialogue without its last reply, as ``EchoX.generate`` takes it.

    Args:
        dialogue: ends with the reply to be given.
        manifest: where its audio is relative to: the user's audio is heard; None: every turn is read.
    """
    messages = []
    for index, turn in enumerate(dialogue.turns[:-1]):
        heard = manifest is not None and index in dialogue.heard_turns
        content = [{"type": "audio", "audio": audio_path(manifest, turn.audio)}] if heard else turn.text  # type: ignore[arg-type]
        messages.append({"role": turn.role, "content": content})
    return messages


def says(text: str, answer: str) -> bool:
    """Whether the words of the answer occur in a row in the text, punctuation apart ("B, L" is said "b l")."""
    words, wanted = normalize_words(text), normalize_words(answer)
    return bool(wanted) and any(
        words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1)
    )


def score_typed(rows: Sequence[Row]) -> dict[str, Any]:
    """T2T: the reply to a typed question."""
    exact = [same_words(row["columns"]["reference"], row["text"]) for row in rows]
    answered = [says(row["text"], row["answers"][0]) for row in rows]
    return {
        "t2t_exact": _mean(exact),
        "t2t_answer": _mean(answered),
        "t2t_exact_by_topic": _by(rows, exact),
    }


def score_spoken(rows: Sequence[Row]) -> dict[str, Any]:
    """What was heard, written and said; without a judge, the first two."""
    s2t = [same_words(row["columns"]["reference"], row["text"]) for row in rows]
    s2t_answer = [says(row["text"], row["answers"][0]) for row in rows]
    scores: dict[str, Any] = {
        "transcription_wer": error_rate([row["question"] for row in rows], [row["heard"] for row in rows]),
        "s2t_exact": _mean(s2t),
        "s2t_answer": _mean(s2t_answer),
        "s2t_ultraeval": _mean([exist_match(row["text"], row["answers"]) for row in rows]),
        "reply_s": sum(row["reply_s"] for row in rows),
        "s2t_exact_by_topic": _by(rows, s2t),
        "s2t_exact_by_speaker": _by(rows, s2t, key="speaker"),
    }
    failures = counts(rows)
    scores |= score_rates(rows)
    scores |= {name: failures[name] for name in ("unspoken_replies", "partly_unspoken_replies", "errors")}
    if any(row["unjudged"] for row in rows):
        return scores
    said = [row["said"] or "" for row in rows]
    s2s = [same_words(row["as_heard"]["reference"], heard) for row, heard in zip(rows, said, strict=True)]
    s2s_answer = [says(heard, row["as_heard"]["answers"][0]) for row, heard in zip(rows, said, strict=True)]
    for row, written, spoken in zip(rows, s2t_answer, s2s_answer, strict=True):
        row["s2t"], row["s2s"] = written, spoken
    return scores | {
        "s2s_exact": _mean(s2s),
        "s2s_answer": _mean(s2s_answer),
        "s2t_against_s2s_exact": agreement_table(s2t, s2s),
        "s2t_against_s2s_answer": agreement_table(s2t_answer, s2s_answer),
        "reply_wer": error_rate([row["as_heard"]["reply"] for row in rows], said),
        "s2s_exact_by_topic": _by(rows, s2s),
    }


def _mean(right: Sequence[bool]) -> dict[str, float]:
    return asdict(bootstrap([float(value) for value in right]))


def _by(rows: Sequence[Row], right: Sequence[bool], key: str = "topic") -> dict[str, dict[str, float]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, value in zip(rows, right, strict=True):
        groups[str(row["columns"][key])].append(value)
    return {name: {"mean": sum(group) / len(group), "count": len(group)} for name, group in sorted(groups.items())}
