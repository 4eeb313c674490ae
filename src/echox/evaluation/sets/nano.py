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

from pathlib import Path
from typing import TYPE_CHECKING, Any

from echox.data.manifest import Dialogue, audio_path, read_dialogues
from echox.evaluation.scoring.records import balanced_order
from echox.evaluation.sets.items import Item

if TYPE_CHECKING:
    pass

TYPED = "typed"
SPOKEN_SETS = {
    "heldout_seen_voices": ("dialogues.jsonl", "heldout_seen_voices"),
    "heldout_new_voices": ("dialogues.jsonl", "heldout_new_voices"),
    "multi_turn": ("multi_turn.jsonl", "heldout"),
}
"""Name of a set of spoken questions -> its manifest under ``speech/`` and its split there."""
METRICS_FILE = "metrics.json"


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
