"""Nano's scorecard: what it hears, writes and says on held-out paraphrases and held-out voices.

Runs over the held-out dialogues of the nano corpus, in an order balanced over topics, each resumable:

- ``typed``: the question as text; does the reply equal the reference (T2T)?
- ``heldout_seen_voices``, ``heldout_new_voices``, ``multi_turn``: the question (in ``multi_turn`` all questions so far)
  as audio. From the same reply come the transcription error of the CTC head, S2T (the written reply), S2S (what a judge
  heard of the spoken reply) and the error of the speech against its own text. A reply that could not be spoken counts
  as an empty transcript, a question that could not be heard as an empty reply: never as missing.

Replies are kept as FLAC, so another judge may hear them without the model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from echox.audio import load_audio, save_audio
from echox.data.manifest import Dialogue, audio_path, read_dialogues
from echox.data.scoring import WordErrors, edit_counts, normalize_words, same_words
from echox.evaluation.asr import Judge
from echox.evaluation.metrics import agreement_table, bootstrap, exist_match
from echox.evaluation.records import balanced_order, fingerprint, recorded
from echox.evaluation.voice import recordings_wer
from echox.files import write_text
from echox.streaming import EchoX

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
    output_dir.mkdir(parents=True, exist_ok=True)
    key = fingerprint(model.model, model.model.config.to_json_string(), model.settings)
    typed = _chosen(data_dir / "text" / "dialogues.jsonl", "heldout", limit, seed)
    metrics: dict[str, Any] = {
        "model": key,
        "judge": {"name": judge.name, "recordings": recordings_wer(judge, data_dir, limit)},
        "torch_threads": torch.get_num_threads(),
        "typed": _score_typed(_typed(model, typed, output_dir, key)),
    }
    for name, (file, split) in SPOKEN_SETS.items():
        manifest = data_dir / "speech" / file
        items = _chosen(manifest, split, limit, seed)
        metrics[name] = _score_spoken(_spoken(model, judge, items, manifest, output_dir / name, key))
    write_text(output_dir / METRICS_FILE, json.dumps(metrics, indent=1) + "\n")
    return metrics


def _chosen(manifest: Path, split: str, limit: int | None, seed: int) -> list[Dialogue]:
    items = [item for item in read_dialogues(manifest) if item.split == split] if manifest.exists() else []
    if not items:
        raise ValueError(f"{manifest}: expected dialogues of split {split!r}, found none: run the corpus stage")
    return balanced_order(items, lambda item: str(item.topic), seed)[:limit]


def messages_of(dialogue: Dialogue, manifest: Path | None) -> list[dict[str, Any]]:
    """A dialogue without its last reply, as ``EchoX.generate`` takes it.

    Args:
        dialogue: ends with the reply to be given.
        manifest: where its audio is relative to: audio turns are heard; None: every turn is read.
    """
    messages = []
    for turn in dialogue.turns[:-1]:
        heard = manifest is not None and turn.audio is not None
        content = [{"type": "audio", "audio": audio_path(manifest, turn.audio)}] if heard else turn.text  # type: ignore[arg-type]
        messages.append({"role": turn.role, "content": content})
    return messages


def _typed(model: EchoX, items: list[Dialogue], output_dir: Path, key: str) -> list[dict[str, Any]]:
    def answer(item: Dialogue) -> dict[str, Any]:
        reply = model.generate(messages_of(item, None), speak=False, temperature=0.0)
        return _asked(item) | {"reply": reply.text}

    return list(recorded(items, output_dir / "typed.jsonl", key, answer))


def _spoken(
    model: EchoX, judge: Judge, items: list[Dialogue], manifest: Path, output: Path, key: str
) -> list[dict[str, Any]]:
    """Replies (``<output>.jsonl``, ``<output>/<key>/*.flac``), and what was heard of them (``<output>.said.jsonl``)."""

    def answer(item: Dialogue) -> dict[str, Any]:
        record = _asked(item)
        for turn in item.turns:  # a corpus with holes must not pass for a model that hears badly
            if turn.audio is not None and not audio_path(manifest, turn.audio).is_file():
                raise ValueError(f"{audio_path(manifest, turn.audio)}: expected a question, found no such file; run "
                                 "the corpus stage")  # fmt: skip
        try:
            reply = model.generate(messages_of(item, manifest), temperature=0.0, echo_temperature=0.0)
        except ValueError as error:  # nothing was heard in the question: an answer of no words
            silent = {"heard": "", "reply": "", "reply_s": 0.0, "compute_s": 0.0}
            return record | silent | {"failures": [], "error": str(error)}
        if len(reply.waveform):
            save_audio(replies / f"{item.id}.flac", reply.waveform, reply.sampling_rate)
        return record | {
            "heard": reply.heard,
            "reply": reply.text,
            "reply_s": reply.duration_s,
            "compute_s": reply.timings["compute_s"],
            "failures": [failure.reason for failure in reply.failures],
            "error": None,
        }

    def listen(item: Dialogue) -> dict[str, Any]:
        if not made[item.id]["reply_s"]:
            return {"said": ""}
        rate = model.engine.output_sampling_rate
        return {"said": judge.transcribe([load_audio(replies / f"{item.id}.flac", rate)], rate)[0]}

    replies = output / key
    replies.mkdir(parents=True, exist_ok=True)
    made = {record["id"]: record for record in recorded(items, output.with_suffix(".jsonl"), key, answer)}
    heard = recorded(items, output.with_suffix(".said.jsonl"), f"{key} {judge.name}", listen)
    return [_judged(made[record["id"]], record["said"], judge) for record in heard]


def _judged(record: dict[str, Any], said: str, judge: Judge) -> dict[str, Any]:
    """The record of a reply with what was heard of it, and with its texts as the judge would write them."""
    texts = {f"{name}_as_heard": judge.as_heard(record[name]) for name in ("reference", "reply", "answer")}
    return record | texts | {"said": said}


def _asked(item: Dialogue) -> dict[str, Any]:
    question, reference = item.turns[-2], item.turns[-1]
    return {
        "topic": item.topic,
        "speaker": question.speaker,
        "question": question.text,
        "reference": reference.text,
        "answer": item.answer or reference.text,
    }


def says(text: str, answer: str) -> bool:
    """Whether the words of the answer occur in a row in the text, punctuation apart ("B, L" is said "b l")."""
    words, wanted = normalize_words(text), normalize_words(answer)
    return bool(wanted) and any(
        words[start : start + len(wanted)] == wanted for start in range(len(words) - len(wanted) + 1)
    )


def _score_typed(records: list[dict[str, Any]]) -> dict[str, Any]:
    exact = [same_words(record["reference"], record["reply"]) for record in records]
    answered = [says(record["reply"], record["answer"]) for record in records]
    return {
        "t2t_exact": _mean(exact),
        "t2t_answer": _mean(answered),
        "t2t_exact_by_topic": _by(records, exact),
    }


def _score_spoken(records: list[dict[str, Any]]) -> dict[str, Any]:
    s2t = [same_words(record["reference"], record["reply"]) for record in records]
    s2s = [same_words(record["reference_as_heard"], record["said"]) for record in records]
    s2t_answer = [says(record["reply"], record["answer"]) for record in records]
    s2s_answer = [says(record["said"], record["answer_as_heard"]) for record in records]
    ultraeval = [exist_match(record["reply"], record["answer"]) for record in records]
    speech_s = sum(record["reply_s"] for record in records)
    return {
        "transcription_wer": error_rate([record["question"] for record in records], [r["heard"] for r in records]),
        "s2t_exact": _mean(s2t),
        "s2t_answer": _mean(s2t_answer),
        "s2t_ultraeval": _mean(ultraeval),
        "s2s_exact": _mean(s2s),
        "s2s_answer": _mean(s2s_answer),
        "s2t_against_s2s_exact": agreement_table(s2t, s2s),
        "s2t_against_s2s_answer": agreement_table(s2t_answer, s2s_answer),
        "reply_wer": error_rate([r["reply_as_heard"] for r in records], [r["said"] for r in records]),
        "unspoken_replies": sum(record["reply_s"] == 0 for record in records),
        "partly_unspoken_replies": sum(bool(record["failures"]) for record in records),
        "errors": sum(record["error"] is not None for record in records),
        "reply_s": speech_s,
        "rtf": sum(record["compute_s"] for record in records) / speech_s if speech_s else None,
        "s2t_exact_by_topic": _by(records, s2t),
        "s2s_exact_by_topic": _by(records, s2s),
        "s2t_exact_by_speaker": _by(records, s2t, key="speaker"),
    }


def error_rate(references: Sequence[str], hypotheses: Sequence[str]) -> dict[str, Any]:
    """Corpus word error rate with its bootstrap interval over utterances, and its counts."""
    pairs = [
        edit_counts(normalize_words(reference), normalize_words(hypothesis))
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]
    places = range(len(pairs))
    interval = bootstrap(
        [float(place) for place in places],
        lambda chosen: sum((pairs[int(place)] for place in chosen), WordErrors()).rate,
        resamples=300,
    )
    return asdict(interval) | {"word_errors": asdict(sum(pairs, WordErrors()))}


def _mean(right: Sequence[bool]) -> dict[str, float]:
    return asdict(bootstrap([float(value) for value in right]))


def _by(records: list[dict[str, Any]], right: Sequence[bool], key: str = "topic") -> dict[str, dict[str, float]]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for record, value in zip(records, right, strict=True):
        groups[str(record[key])].append(value)
    return {name: {"mean": sum(group) / len(group), "count": len(group)} for name, group in sorted(groups.items())}
