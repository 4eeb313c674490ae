"""Scores of nano's sets: what was heard, written and said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from echox.data.scoring import normalize_words, same_words
from echox.evaluation.scoring.metrics import agreement_table, bootstrap, exist_match
from echox.evaluation.scoring.scores import Row, counts, error_rate, score_rates

if TYPE_CHECKING:
    pass


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
