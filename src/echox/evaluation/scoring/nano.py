"""Scores of nano's test sets: transcripts of questions, written replies, spoken replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from echox.data.scoring import normalize_words, same_words
from echox.evaluation.scoring.metrics import agreement_table, exist_match
from echox.evaluation.scoring.schema import JsonObject, Row
from echox.evaluation.scoring.scores import by_column, counts, error_rate, judged, score_answers, score_rates
from echox.evaluation.scoring.statistics import bootstrap


def contains_words(text: str, answer: str) -> bool:
    """Whether the words of the answer stand together in the text, in order; punctuation does not count."""
    words, wanted = normalize_words(text), normalize_words(answer)
    return bool(wanted) and any(
        words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1)
    )


def score_typed(rows: Sequence[Row]) -> JsonObject:
    """T2T: replies to typed questions."""
    exact = [same_words(row["columns"]["reference"], row["text"]) for row in rows]
    answered = [contains_words(row["text"], row["answers"][0]) for row in rows]
    return {
        "t2t_exact": _mean(exact),
        "t2t_answer": _mean(answered),
        "t2t_exact_by_topic": by_column(rows, exact, "topic"),
    }


def score_spoken(rows: Sequence[Row]) -> JsonObject:
    """Transcripts of the questions, S2T and S2S; without a judge, S2S is left out."""
    s2t = [same_words(row["columns"]["reference"], row["text"]) for row in rows]
    s2t_answer = [contains_words(row["text"], row["answers"][0]) for row in rows]
    scores: JsonObject = {
        "transcription_wer": error_rate([row["question"] for row in rows], [row["heard"] for row in rows]),
        "s2t_exact": _mean(s2t),
        "s2t_answer": _mean(s2t_answer),
        "s2t_ultraeval": _mean([exist_match(row["text"], row["answers"]) for row in rows]),
        "reply_s": sum(row["reply_s"] for row in rows),
        "s2t_exact_by_topic": by_column(rows, s2t, "topic"),
        "s2t_exact_by_speaker": by_column(rows, s2t, "speaker"),
    }
    failures = counts(rows)
    scores |= score_rates(rows)
    scores |= {name: failures[name] for name in ("unspoken_replies", "partly_unspoken_replies", "errors")}
    if any(row["unjudged"] for row in rows):
        return scores
    said = [row["said"] or "" for row in rows]
    spelled = [judged(row) for row in rows]
    s2s = [same_words(one["reference"] or "", heard) for one, heard in zip(spelled, said, strict=True)]
    s2s_answer = [contains_words(heard, one["answers"][0]) for one, heard in zip(spelled, said, strict=True)]
    for row, written, spoken in zip(rows, s2t_answer, s2s_answer, strict=True):
        row["s2t"], row["s2s"] = written, spoken
    return scores | {
        "s2s_exact": _mean(s2s),
        "s2s_answer": _mean(s2s_answer),
        "s2t_against_s2s_exact": agreement_table(s2t, s2s),
        "s2t_against_s2s_answer": agreement_table(s2t_answer, s2s_answer),
        "reply_wer": error_rate([one["reply"] for one in spelled], said),
        "s2s_exact_by_topic": by_column(rows, s2s, "topic"),
    }


def score_questions(rows: Sequence[Row]) -> JsonObject:
    """Nano's questions as any model may be asked them: by their answers, and by topic."""
    scores = score_answers(rows)
    right = {"s2t": [row["s2t"] for row in rows]}
    if "not_measured" not in scores["s2s"]:
        right["s2s"] = [row["s2s"] for row in rows]
    return scores | {f"{side}_by_topic": by_column(rows, flags, "topic") for side, flags in right.items()}


def _mean(right: Sequence[bool]) -> dict[str, float]:
    return asdict(bootstrap([float(value) for value in right]))
