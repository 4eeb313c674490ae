"""Nano's four test sets: held-out paraphrases, typed and spoken, in voices of the training and in held-out ones.

The items are in an order balanced over topics:

- ``typed``: the question as text; does the reply equal the reference (T2T)?
- ``heldout_seen_voices``, ``heldout_new_voices``, ``multi_turn``: the question (in ``multi_turn`` all questions so far)
  as audio. The same reply gives the transcription error of the CTC head, S2T (the written reply), S2S (the judge's
  transcript of the spoken reply) and the error of the speech against its own text. A reply that could not be spoken
  counts as an empty transcript, a question without recognisable speech as an empty reply; none is left out.

The stages (generate, transcribe, score) are those of every task: :mod:`echox.evaluation.run`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from echox.data.corpora.nano.world import build_dialogues
from echox.data.manifest import Dialogue, audio_path, read_dialogues, without_sealed
from echox.evaluation.scoring.records import balanced_order
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.transcripts import english_normalizer
from echox.evaluation.sets.items import ChatMessage, ContentPart, EvalItem
from echox.evaluation.sets.sealed import OPENED, open_seal

TYPED = "typed"
SPOKEN_SETS = {
    "heldout_seen_voices": ("dialogues.jsonl", "heldout_seen_voices"),
    "heldout_new_voices": ("dialogues.jsonl", "heldout_new_voices"),
    "multi_turn": ("multi_turn.jsonl", "heldout"),
}
"""Name of a set of spoken questions -> its manifest under ``speech/`` and its split there."""
METRICS_FILE = "metrics.json"


def metrics_of(summary: JsonObject) -> JsonObject | None:
    """The scorecard in a run's summary, the content of ``metrics.json``; None if some of nano's sets were not run."""
    tasks = summary["tasks"]
    names = (TYPED, *SPOKEN_SETS)
    if not all(name in tasks for name in names):
        return None
    return {"model": summary["subject"]["key"], "judge": summary["judge"], **{name: tasks[name] for name in names}}


def nano_items(data_dir: Path, limit: int | None = None, seed: int = 0) -> dict[str, list[EvalItem]]:
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


def nano_questions(data_dir: Path | None = None, limit: int | None = None, seed: int = 0) -> list[EvalItem]:
    """Nano's held-out single questions, typed, as any model may be asked them; without the sealed ones.

    Their order is balanced over topics. Numbers are right in words and in figures: nano writes the former, other models
    and recognisers the latter.

    Args:
        data_dir: folder of the corpus stage; None: the corpus as it is written anew.
        limit: of items.
        seed: of the order.

    Raises:
        ValueError: the folder has no dialogues.
    """
    path = data_dir / "text" / "dialogues.jsonl" if data_dir is not None else None
    if path is not None and not path.is_file():
        raise ValueError(f"{path}: expected the dialogues of the nano corpus, found none: run the corpus stage")
    dialogues = read_dialogues(path, with_sealed=True) if path is not None else build_dialogues(seed, with_sealed=True)
    single = [item for item in dialogues if item.split != "train" and len(item.turns) == 2]
    return [_of_any_model(item) for item in _in_order(single, limit, seed)]


def open_nano_seal(
    name: str, purpose: str, state: JsonObject, now: str, register: Path, again: bool = False
) -> list[JsonObject]:
    """Open a sealed set of nano's questions (`open_seal`): rows of a table that ``echox eval run --task qa`` reads.

    Raises:
        ValueError: see `open_seal`.
    """
    chosen, entry = open_seal(name, build_dialogues(with_sealed=True), purpose, state, now, register, again)
    rows = []
    for item in map(_of_any_model, chosen):
        opened = f"{name}, opening {entry['opening']}, commit {entry['commit'][:12]}"
        columns = {"topic": item.columns["topic"], OPENED: opened}
        rows.append({"id": item.id, "question": item.question, "answers": list(item.answers), **columns})
    return rows


def _of_any_model(dialogue: Dialogue) -> EvalItem:
    item = _item(dialogue, None)
    return replace(item, answers=_spellings(item.answers[0]))


def _spellings(answer: str) -> tuple[str, ...]:
    """An answer with its numbers in words, with hyphens, and in figures."""
    normalize, _ = english_normalizer()
    return tuple(dict.fromkeys([answer, answer.replace(" ", "-"), normalize(answer).strip() or answer]))


def _chosen(manifest: Path, split: str, limit: int | None, seed: int) -> list[Dialogue]:
    dialogues = read_dialogues(manifest, with_sealed=True) if manifest.exists() else []
    items = [item for item in dialogues if item.split == split]
    if not items:
        raise ValueError(f"{manifest}: expected dialogues of split {split!r}, found none: run the corpus stage")
    return _in_order(items, limit, seed)


def _in_order(items: list[Dialogue], limit: int | None, seed: int) -> list[Dialogue]:
    """The first items balanced over topics, without the sealed ones, whose places stay in the order as it ever was."""
    return without_sealed(balanced_order(items, lambda item: str(item.topic), seed), "nano's test sets")[:limit]


def _item(dialogue: Dialogue, manifest: Path | None) -> EvalItem:
    question, reference = dialogue.turns[-2], dialogue.turns[-1]
    return EvalItem(
        dialogue.id,
        messages_of(dialogue, manifest),
        question.text or "",
        (dialogue.answer or reference.text or "",),
        {"topic": dialogue.topic, "speaker": question.speaker, "reference": reference.text},
    )


def messages_of(dialogue: Dialogue, manifest: Path | None) -> list[ChatMessage]:
    """A dialogue without its last reply, as ``EchoX.generate`` takes it.

    Args:
        dialogue: ends with the reply to be given.
        manifest: its audio paths are relative to it, and the user's turns are audio; None: every turn is text.
    """
    messages: list[ChatMessage] = []
    for index, turn in enumerate(dialogue.turns[:-1]):
        heard = manifest is not None and index in dialogue.heard_turns
        content: str | list[ContentPart] = turn.text or ""
        if heard and manifest is not None:
            content = [{"type": "audio", "audio": audio_path(manifest, str(turn.audio))}]
        messages.append({"role": turn.role, "content": content})
    return messages
