"""Figures from records: answers in writing and aloud, speech against its own text, rates of speech.

Everything is computed from records alone, so a run can be scored again without its model. `DEFINITIONS` says what
each figure means; every report prints it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from echox.data.scoring import WordErrors, edit_counts, normalize_words
from echox.evaluation.scoring.metrics import agreement_table, exist_match
from echox.evaluation.scoring.schema import JsonObject, JudgeSpelling, Row
from echox.evaluation.scoring.statistics import DIFFERENCE, bootstrap, bootstrap_ratio, permutation_test
from echox.evaluation.scoring.transcripts import bleu, english_normalizer, whisper_errors

MAX_UNKNOWN_WORDS = 0.05
"""A judge with a closed vocabulary does not judge replies if it lacks more of their words than this share."""

FRAMES_PER_S = 50
"""Unit frames per second, of all encoders that units are made with."""

DEFINITIONS = {
    "acc_ultraeval": "share of items whose answer's tokens stand together in the reply (UltraEval-Audio's "
    "qa-exist-match); items that failed are left out, as there, and counted in fail_rate",
    "acc_strict": "the same over all items: a failure, an empty reply and a reply without speech are wrong",
    "s2t, s2s": "the rule on the written reply, and on the judge's transcript of the same reply's speech",
    "unclear": "of big-bench-audio: share of replies that name no answer, or more than one; they count as wrong. A "
    "language model as judge, as the set's authors have it, decides them, so its figures may be higher",
    "t2t": "the rule on the reply to the same question in writing (--typed)",
    "s2t_over_t2t, s2s_over_s2t": "ratios of acc_strict over the same questions: what is left of the language model's "
    "knowledge after hearing, and after speaking; 95 % bootstrap over items",
    "interval": "95 % bootstrap; an end that no draw can pass, as where all items are right, is moved by what so many "
    "items cannot exclude (Clopper and Pearson)",
    "gap": "s2t minus s2s, both acc_strict, over the same replies; 95 % bootstrap over items, and p of a "
    "paired permutation test over items (two-sided); neither covers other trainings of the same recipe",
    "reply_wer": "word error rate of the judge's transcript against the reply's own text: all errors over all words; "
    "lower case, no punctuation, reference spelled as the judge would",
    "reply_wer_whisper": "the same with Whisper's English normaliser and 13a tokens, as UltraEval-Audio does",
    "control_wer, control_wer_whisper": "the same of the replies' texts spoken by the voice of --control: errors of "
    "the judge, not of the model; reply_wer_minus_control: the difference, 95 % bootstrap over replies",
    "control_s2s, s2s_over_control": "answers that the judge still finds in the control, strict, and s2s of the same "
    "replies over that",
    "words_per_s": "words of the replies' text per second of their speech",
    "units_per_s": "reduced units per second of speech",
    "unit_words_per_s": "unit words (steps of the unit decoder) per second of speech",
    "compression": "unit frames (50 a second) per unit word",
    "unit_words_per_token": "unit words per token of the reply's text",
    "first_audio_tokens": "text tokens that were written before the first audio could be made",
    "transcription_wer": "word error rate of the transcript of the question (CTC) against the question's text",
    "exact, answer": "of nano's sets: the reply has the reference's words and no others; the answer's words stand "
    "together in it (t2t: typed questions)",
    "asr_wer": "word error rate of the written reply against the reference",
    "asr_bleu": "BLEU of the judge's transcript against the reference translation, both without capitals and "
    "punctuation; text_bleu: of the written reply, cased",
    "uro_wer": "of URO-Bench's sets, its ASR-WER: mean over replies of the transcript's word error rate against the "
    "reply's own text, by Whisper's normaliser",
    "text_repeat, asr_repeat": "of URO-Bench's Repeat: mean over replies of one minus the word error rate, none where "
    "it is over one half (ok_rate: the others); written, and as the judge heard it, which is the published score",
    "utmos, dnsmos, dnsmos_p808": "mean opinion score that a model predicts for each spoken reply (dnsmos: the overall "
    "score of P.835); mean over replies; control_...: of the control's speech",
}


Rule = Callable[[str, Row], bool]
"""Whether a text, a row's reply or the transcript of it, is right."""


def score_answers(rows: Sequence[Row]) -> JsonObject:
    """Questions with accepted answers: S2T, S2S, the gap between them, and the speech."""
    return score_by_rule(rows, _exist_match, as_ultraeval=True)


def score_by_rule(rows: Sequence[Row], rule: Rule, as_ultraeval: bool = False) -> JsonObject:
    """S2T, S2S, the gap between them, and the speech, by any rule.

    Args:
        rows: replies; ``s2t`` and, if they are judged, ``s2s`` are set in them.
        rule: what is right.
        as_ultraeval: whether ``acc_ultraeval`` is given too.
    """
    said = why_unjudged(rows)
    written = [rule(row["text"], row) for row in rows]
    s2t_failed = [row["error"] is not None for row in rows]
    s2t_right = _strict(rows, written, s2t_failed, lambda row: bool(row["text"].strip()))
    scores: JsonObject = {"s2t": _accuracy(written, s2t_failed, s2t_right, as_ultraeval)}
    for row, right in zip(rows, s2t_right, strict=True):
        row["s2t"] = right
    if said is not None:
        return scores | {"s2s": not_measured(said), "gap": not_measured(said), **score_speech(rows)}
    spoken = [rule(row["said"] or "", row) for row in rows]
    s2s_failed = [row["error"] is not None or not row["audio"] or row["judge_error"] is not None for row in rows]
    s2s_right = _strict(rows, spoken, s2s_failed, lambda row: bool((row["said"] or "").strip()))
    differences = [float(one) - float(other) for one, other in zip(s2t_right, s2s_right, strict=True)]
    p_value = permutation_test([float(one) for one in s2t_right], [float(one) for one in s2s_right])
    for row, right in zip(rows, s2s_right, strict=True):
        row["s2s"] = right
    return scores | {
        "s2s": _accuracy(spoken, s2s_failed, s2s_right, as_ultraeval),
        "gap": asdict(bootstrap(differences, bounds=DIFFERENCE)) | {"p": p_value},
        "s2s_over_s2t": ratio_of(s2s_right, s2t_right),
        "table": agreement_table(s2t_right, s2s_right),
        **score_speech(rows),
    }


def score_typed_answers(rows: Sequence[Row]) -> JsonObject:
    """The same questions in writing (T2T)."""
    return score_typed_by_rule(rows, _exist_match, as_ultraeval=True)


def score_typed_by_rule(rows: Sequence[Row], rule: Rule, as_ultraeval: bool = False) -> JsonObject:
    """Questions in writing (T2T) by any rule; ``t2t`` is set in the rows. Arguments as of `score_by_rule`."""
    written = [rule(row["text"], row) for row in rows]
    failed = [row["error"] is not None for row in rows]
    right = _strict(rows, written, failed, lambda row: bool(row["text"].strip()))
    for row, one in zip(rows, right, strict=True):
        row["t2t"] = one
    return {"t2t": _accuracy(written, failed, right, as_ultraeval)}


def by_column(rows: Sequence[Row], right: Sequence[bool], column: str) -> dict[str, dict[str, float]]:
    """Share and number of what is right, by the value of a column of the data set."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for row, value in zip(rows, right, strict=True):
        groups[str(row["columns"][column])].append(value)
    return {name: {"mean": sum(group) / len(group), "count": len(group)} for name, group in sorted(groups.items())}


def ratio_of(over: Sequence[bool], under: Sequence[bool]) -> JsonObject:
    """`bootstrap_ratio` of what was right; not measured if nothing was."""
    if not any(under):
        return not_measured("none of the answers that it is compared with was right")
    return asdict(bootstrap_ratio([float(one) for one in over], [float(one) for one in under]))


def score_speech(rows: Sequence[Row]) -> JsonObject:
    """Word errors of the speech against its own text, and its rates: no reference is needed."""
    return {**_reply_wer(rows), **score_rates(rows)}


def score_transcription(rows: Sequence[Row]) -> JsonObject:
    """Speech recognition: the transcript of the question, and the written reply, against the reference."""
    references = [row["answers"][0] if row["answers"] else row["question"] for row in rows]
    heard = [row["heard"] for row in rows]
    scores = {"asr_wer": error_rate(references, [row["text"] for row in rows], whisper=True)}
    has_transcript = any(heard)
    scores["transcription_wer"] = (
        error_rate(references, heard, whisper=True) if has_transcript else not_measured("no transcripts were given")
    )
    return scores


def score_translation(rows: Sequence[Row]) -> JsonObject:
    """Speech-to-speech translation: BLEU of the written replies and of the transcripts of the spoken ones.

    A transcript has no capitals or punctuation of the model, so transcript and reference are compared without them, as
    is usual for translated speech.
    """
    references = [row["answers"][0] if row["answers"] else "" for row in rows]
    scores: JsonObject = _bleu("text_bleu", references, [row["text"] for row in rows])
    reason = why_unjudged(rows)
    if reason is None:
        # References as the judge spells them; of failed items as they were given.
        wanted = [row["as_heard"]["answers"] if row["as_heard"] else row["answers"] for row in rows]
        pairs = [(answers[0] if answers else "", row["said"] or "") for answers, row in zip(wanted, rows, strict=True)]
        plain = [[" ".join(normalize_words(text)) for text in pair] for pair in pairs]
        scores |= _bleu("asr_bleu", [reference for reference, _ in plain], [said for _, said in plain])
    else:
        scores["asr_bleu"] = not_measured(reason)
    return scores | score_speech(rows)


def _bleu(name: str, references: Sequence[str], hypotheses: Sequence[str]) -> JsonObject:
    """BLEU under a name, with sacreBLEU's signature; not measured where sacrebleu is not installed."""
    try:
        score, signature = bleu(references, hypotheses)
    except ImportError:
        return {name: not_measured("sacrebleu is not installed: pip install 'echox[eval]'")}
    return {name: score, "bleu_signature": signature}


def counts(rows: Sequence[Row]) -> JsonObject:
    """Counts of items and of failures, and a list of the items that failed; reports print them beside the figures."""
    failed = [
        {"id": row["id"], "error": row["error"] or row["judge_error"]}
        for row in rows
        if row["error"] is not None or row["judge_error"] is not None
    ]
    return {
        "items": len(rows),
        "errors": len(failed),
        "empty_replies": sum(not row["text"].strip() and row["error"] is None for row in rows),
        "unspoken_replies": sum(row["speaks"] and not row["audio"] and row["error"] is None for row in rows),
        "partly_unspoken_replies": sum(bool(row["failures"]) for row in rows),
        "truncated_replies": sum(row["stopped"] == "length" for row in rows),
        "answers_that_match_anything": sum(any(not answer.strip() for answer in row["answers"]) for row in rows),
        "failed": failed,
    }


def why_unjudged(rows: Sequence[Row]) -> str | None:
    """Why the speech of these replies cannot be scored; None: it can."""
    if not any(row["speaks"] for row in rows):
        return "no speech was asked for"
    reasons = {row["unjudged"] for row in rows if row["unjudged"]}
    if reasons:
        return "; ".join(sorted(reasons))
    words = sum(len(normalize_words(row["text"])) for row in rows)
    unknown = sum(row["unknown_words"] for row in rows)
    if unknown > MAX_UNKNOWN_WORDS * words:
        return f"the judge does not know {unknown} of the replies' {words} words: name another"
    return None


def judged(row: Row) -> JudgeSpelling:
    """The texts of a judged reply, spelled as its judge would."""
    spelled = row["as_heard"]
    assert spelled is not None, f"{row['id']}: the run has a judge"
    return spelled


def why_not_spelled(rows: Sequence[Row]) -> str | None:
    """Why transcripts of these judged replies cannot be compared with texts as people write them; None: they can."""
    other = any(judged(row)["reply"] != row["text"] for row in rows)  # a phone judge, which has its own spelling
    return "the judge does not spell as people do" if other else None


def not_measured(reason: str) -> dict[str, str]:
    """What is recorded in the place of a figure."""
    return {"not_measured": reason}


def error_rate(references: Sequence[str], hypotheses: Sequence[str], whisper: bool = False) -> JsonObject:
    """Corpus word error rate with its bootstrap interval over utterances, and its counts.

    Args:
        references: one each.
        hypotheses: transcripts.
        whisper: Whisper's normaliser and 13a tokens instead of plain words.
    """
    pairs = [
        whisper_errors(reference, hypothesis)
        if whisper
        else edit_counts(normalize_words(reference), normalize_words(hypothesis))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    places = range(len(pairs))
    interval = bootstrap(
        [float(place) for place in places],
        lambda chosen: sum((pairs[int(place)] for place in chosen), WordErrors()).rate,
        resamples=300,
        each=[errors.rate for errors in pairs],
    )
    name = {"normaliser": english_normalizer()[1]} if whisper else {}
    return asdict(interval) | {"word_errors": asdict(sum(pairs, WordErrors()))} | name


def _exist_match(text: str, row: Row) -> bool:
    return exist_match(text, row["answers"])


def _accuracy(matched: Sequence[bool], failed: Sequence[bool], right: Sequence[bool], as_ultraeval: bool) -> JsonObject:
    strict: JsonObject = {
        "fail_rate": sum(failed) / len(failed),
        "acc_strict": asdict(bootstrap([float(value) for value in right])),
    }
    if not as_ultraeval:
        return strict
    kept = [float(match) for match, fails in zip(matched, failed, strict=True) if not fails]
    return {"acc_ultraeval": sum(kept) / len(kept) if kept else None} | strict


def _strict(
    rows: Sequence[Row], matched: Sequence[bool], failed: Sequence[bool], answered: Callable[[Row], bool]
) -> list[bool]:
    return [match and not fails and answered(row) for row, match, fails in zip(rows, matched, failed, strict=True)]


def _reply_wer(rows: Sequence[Row]) -> JsonObject:
    """Speech against its own text, over replies that have words."""
    reason = why_unjudged(rows)
    kept = [row for row in rows if row["error"] is None and row["text"].strip()]
    if reason is None and not kept:
        reason = "no reply had words"
    if reason is not None:
        return {"reply_wer": not_measured(reason)}
    references, said = [judged(row)["reply"] for row in kept], [row["said"] or "" for row in kept]
    for row, reference, hypothesis in zip(kept, references, said, strict=True):
        row["reply_wer"] = edit_counts(normalize_words(reference), normalize_words(hypothesis)).rate
    rates = [row["reply_wer"] for row in kept]
    found = error_rate(references, said) | {
        "median": float(np.median(rates)),
        "share_above_half": sum(rate > 0.5 for rate in rates) / len(rates),
    }
    other_spelling = why_not_spelled(kept)
    if other_spelling is not None:
        return {"reply_wer": found, "reply_wer_whisper": not_measured(other_spelling)}
    return {"reply_wer": found, "reply_wer_whisper": error_rate([row["text"] for row in kept], said, whisper=True)}


def score_rates(rows: Sequence[Row]) -> JsonObject:
    """Words, units and tokens per second of speech; no figures if nothing was spoken."""
    spoken = [row for row in rows if row["audio"]]
    speech_s = sum(row["reply_s"] for row in spoken)
    if not speech_s:
        return {}

    def total(name: str) -> float | None:
        known = [value for row in spoken if (value := row["timings"].get(name)) is not None]
        return float(sum(known)) if len(known) == len(spoken) else None

    unit_words, units, tokens = total("num_unit_words"), total("num_units"), total("num_tokens")
    frames = speech_s * FRAMES_PER_S
    firsts = [first for row in spoken if (first := row["timings"].get("ttfa_tokens")) is not None]
    reason = not_measured("the model does not report it")

    def ratio(over: float | None, under: float | None) -> float | dict[str, str]:
        return over / under if over is not None and under else reason

    for row in spoken:
        if count := row["timings"].get("num_unit_words"):
            row["compression"] = row["reply_s"] * FRAMES_PER_S / count
    return {
        "speech_s": speech_s,
        "words_per_s": sum(len(row["text"].split()) for row in spoken) / speech_s,
        "units_per_s": ratio(units, speech_s),
        "unit_words_per_s": ratio(unit_words, speech_s),
        "compression": ratio(frames, unit_words),
        "unit_words_per_token": ratio(unit_words, tokens),
        "first_audio_tokens": {
            "mean": float(np.mean(firsts)),
            "p50": float(np.median(firsts)),
            "p95": float(np.percentile(firsts, 95)),
        }
        if firsts
        else reason,
    }
