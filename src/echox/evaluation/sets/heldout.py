"""The held-out questions inside the package: a small corpus folder, so that nano is scored without a download.

The items are the first ones of the order in which the whole corpus is scored, which is balanced over topics. Speech is
Opus at about 25 kbit/s, an eighth of the size of 16-bit WAV. docs/evaluation.md says how this changes the scores.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import soundfile

from echox.audio import load_audio
from echox.data.manifest import (
    Dialogue,
    Turn,
    audio_path,
    read_dialogues,
    read_utterances,
    write_dialogues,
    write_utterances,
)
from echox.data.sampling import spread
from echox.evaluation.scoring.records import balanced_order
from echox.files import write_text

SAMPLING_RATE = 16000
COMPRESSION = 0.95  # as soundfile counts it: 1 gives the smallest file
LEXICON = "phones.json"


def embedded_heldout() -> Path:
    """The folder of the held-out questions inside the package; its layout is that of the nano corpus."""
    return Path(str(files("echox") / "assets" / "heldout"))


def write_heldout(
    data_dir: Path,
    folder: Path,
    spoken: int = 80,
    multi_turn: int = 16,
    typed: int = 200,
    recordings: int = 40,
    seed: int = 0,
) -> None:
    """Write a small held-out part of the nano corpus, in the same layout.

    Args:
        data_dir: folder of the corpus stage.
        folder: to be written.
        spoken: single questions of each of the two sets of voices.
        multi_turn: spoken dialogues of several turns.
        typed: typed questions, evenly drawn from all.
        recordings: original recordings of the reply voice, to measure the judge's own errors.
        seed: of the order, as in :func:`echox.evaluation.sets.nano.nano_items`.

    Raises:
        ValueError: a manifest of the corpus is missing.
    """
    speech, target = data_dir / "speech", folder / "speech"
    texts = [item for item in read_dialogues(data_dir / "text" / "dialogues.jsonl") if item.split == "heldout"]
    write_dialogues(folder / "text" / "dialogues.jsonl", spread(texts, typed))
    for name, splits, count in (
        ("dialogues.jsonl", ("heldout_seen_voices", "heldout_new_voices"), spoken),
        ("multi_turn.jsonl", ("heldout",), multi_turn),
    ):
        items = read_dialogues(speech / name)
        chosen = [
            item
            for split in splits
            for item in balanced_order([item for item in items if item.split == split], _topic, seed)[:count]
        ]
        write_dialogues(target / name, (_embed(item, speech / name, target) for item in chosen))
    replies = [item for item in read_utterances(speech / "replies.jsonl") if item.split != "train"]
    kept = [
        replace(item, audio=_opus(audio_path(speech / "replies.jsonl", item.audio), target, "replies"))
        for item in spread(replies, recordings)
    ]
    write_utterances(target / "replies.jsonl", kept)
    lexicon = json.loads((data_dir / LEXICON).read_text(encoding="utf-8"))
    write_text(folder / LEXICON, json.dumps(lexicon, ensure_ascii=False, separators=(",", ":")) + "\n")


def _topic(item: Dialogue) -> str:
    return str(item.topic)


def _embed(item: Dialogue, manifest: Path, target: Path) -> Dialogue:
    return replace(item, turns=tuple(_turns(item, manifest, target)))


def _turns(item: Dialogue, manifest: Path, target: Path) -> Iterable[Turn]:
    """The turns; audio that the model hears is encoded, audio of replies is left out."""
    for index, turn in enumerate(item.turns):
        heard = index in item.heard_turns
        audio = _opus(audio_path(manifest, str(turn.audio)), target, "questions") if heard else None
        yield replace(turn, audio=audio)


def _opus(audio: Path, target: Path, kind: str) -> str:
    """Encode one file; its path relative to the manifests."""
    path = target / kind / f"{audio.stem}.opus"
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(
        path,
        load_audio(audio, SAMPLING_RATE),
        SAMPLING_RATE,
        format="OGG",
        subtype="OPUS",
        compression_level=COMPRESSION,
    )
    return str(path.relative_to(target))
