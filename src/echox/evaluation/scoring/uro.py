"""Figures of URO-Bench that need no language model: word errors of speech, and of repeating what was said.

Restated from the published behaviour of https://github.com/Ruiqi-Yan/URO-Bench (metrics/mark_wer.py, 2025-09; MIT). Its
word error rates are means over replies, not errors over words: one bad reply counts more than in ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from echox.data.scoring import edit_counts
from echox.evaluation.scoring.schema import JsonObject, Row
from echox.evaluation.scoring.scores import not_measured, score_speech, why_not_spelled, why_unjudged
from echox.evaluation.scoring.statistics import bootstrap
from echox.evaluation.scoring.transcripts import english_normalizer

MAX_REPEAT_WER = 0.5
"""A reply that differs more from what was to be repeated counts as nothing."""


def reply_errors(truth: str, hypothesis: str) -> float:
    """Word error rate of one reply, of Whisper's normalised words; 1 if the truth has none."""
    normalize, _ = english_normalizer()
    wanted, found = (normalize(text.strip().lower()).split() for text in (truth, hypothesis))
    return edit_counts(wanted, found).rate if wanted else 1.0


def score_uro(rows: Sequence[Row]) -> JsonObject:
    """``uro_wer``, their ASR-WER: of the judge's transcripts against the written replies; and our rates of speech."""
    reason = _why_unheard(rows)
    if reason is not None:
        return {"uro_wer": not_measured(reason), **score_speech(rows)}
    rates = [reply_errors(row["text"], row["said"] or "") for row in rows]
    return {"uro_wer": asdict(bootstrap(rates)), **score_speech(rows)}


def score_uro_repeat(rows: Sequence[Row]) -> JsonObject:
    """How well replies say their reference again: ``text_repeat``, and ``asr_repeat``, their score; both as shares."""
    scores = {"text_repeat": _repeated(rows, [row["text"] for row in rows])}
    reason = _why_unheard(rows)
    scores["asr_repeat"] = not_measured(reason) if reason else _repeated(rows, [row["said"] or "" for row in rows])
    return scores | score_uro(rows)


def uro_reference(row: Row) -> str:
    """What URO-Bench compares a reply with: accepted answers side by side, or else the question."""
    return " / ".join(row["answers"]) or row["question"]


def _repeated(rows: Sequence[Row], replies: Sequence[str]) -> JsonObject:
    """Mean of one minus the error rate, where that is small. As published, the reply is the truth of the rate."""
    rates = [reply_errors(reply, uro_reference(row)) for reply, row in zip(replies, rows, strict=True)]
    kept = [rate <= MAX_REPEAT_WER for rate in rates]
    share = bootstrap([1 - rate if keep else 0.0 for rate, keep in zip(rates, kept, strict=True)])
    return asdict(share) | {"ok_rate": sum(kept) / len(kept)}


def _why_unheard(rows: Sequence[Row]) -> str | None:
    return why_unjudged(rows) or why_not_spelled([row for row in rows if row["as_heard"] is not None])
