"""Dialogues in Shar shards: one cut a dialogue, whose recording is all that the user says in it, turn after turn.

Each user turn that has audio is a supervision of the cut (start, duration, text, speaker); the whole dialogue, with
the turns that are text, is the cut's custom field ``dialogue``, as a line of ``dialogues.jsonl``. A dialogue without
audio is a cut without a recording.

    shards/train/cuts.000000.jsonl.gz  recording.000000.tar ...
    shards/train.index.npz  shards/heldout/ ...
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from echox.audio import encode_audio, load_audio
from echox.data.features.corpus_features import SAMPLING_RATE, mel_frames
from echox.data.manifest import Dialogue, dialogue_of_row, row_of
from echox.data.shards.files import names_in
from echox.data.shards.index import INDEX_SUFFIX, ShardIndex, ShardReader, read_index, write_index
from echox.files import JsonObject

if TYPE_CHECKING:
    from lhotse import MonoCut

_TEXT_ONLY_S = 0.01
"""Nominal duration of a cut without a recording, as lhotse has none without a duration."""


def dialogue_cut(dialogue: Dialogue, waveforms: Mapping[int, np.ndarray], sampling_rate: int) -> MonoCut:
    """The cut of a dialogue, with its recording in memory.

    Args:
        dialogue: in which every turn of `waveforms` is a user's.
        waveforms: samples (S,) of each turn that is heard, by its index.
        sampling_rate: of the samples.
    """
    from lhotse import MonoCut, Recording, SupervisionSegment

    custom = {"dialogue": row_of(dialogue), "split": dialogue.split}
    if not waveforms:
        return MonoCut(dialogue.id, 0.0, _TEXT_ONLY_S, 0, custom=custom)
    content = encode_audio(np.concatenate([waveforms[turn] for turn in sorted(waveforms)]), sampling_rate, "flac")
    cut = Recording.from_bytes(content, recording_id=dialogue.id).to_cut()
    cut.id, cut.custom = dialogue.id, custom
    start = 0
    for turn in sorted(waveforms):
        count, said = len(waveforms[turn]), dialogue.turns[turn]
        cut.supervisions.append(
            SupervisionSegment(
                id=f"{dialogue.id}.{turn}",
                recording_id=dialogue.id,
                start=start / sampling_rate,
                duration=count / sampling_rate,
                text=said.text,
                speaker=said.speaker or "unknown",
                custom={"turn": turn},
            )
        )
        start += count
    return cut


@dataclass(frozen=True)
class ShardedDialogue:
    """One dialogue of shards: text at hand, audio read when asked for.

    Attributes:
        dialogue: the whole of it.
        spans: (first sample, samples) of each heard turn in the recording, by the turn's index, at 16 kHz.
    """

    dialogue: Dialogue
    spans: dict[int, tuple[int, int]]
    reader: ShardReader
    item: int

    def waveforms(self) -> dict[int, np.ndarray]:
        """Samples (S,) float32 at 16 kHz of each heard turn.

        Raises:
            ValueError: damaged audio, or less of it than the cut says.
        """
        if not self.spans:
            return {}
        samples = load_audio(self.reader.audio(self.item), SAMPLING_RATE)
        expected = max(start + count for start, count in self.spans.values())
        if len(samples) < expected - 1:  # times in seconds are rounded
            raise ValueError(
                f"{self.reader.index.folder}: {self.dialogue.id}: expected {expected} samples of audio, found "
                f"{len(samples)}; write the shards again"
            )
        return {turn: samples[start : start + count] for turn, (start, count) in self.spans.items()}


class DialogueShards(Sequence[ShardedDialogue]):
    """The dialogues of one split of a folder of shards, read one by one; numbers of all of them are at hand.

    Attributes:
        places: their index, with the columns ``frames`` (hundredths of a second that are heard), ``reply_words``
            (white-space words of the assistant's turns) and ``text_bytes`` (of all texts, as UTF-8).
    """

    def __init__(self, folder: str) -> None:
        self.places: ShardIndex = read_index(folder)
        self._reader = ShardReader(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, item: int) -> ShardedDialogue:  # type: ignore[override]  # no slices
        if not 0 <= item < len(self):
            raise IndexError(item)
        cut = self._reader.cut(item)
        return ShardedDialogue(_dialogue_of(cut), _spans(cut), self._reader, item)


def splits_of(folder: str) -> list[str]:
    """The splits of a folder of dialogue shards, by their indices."""
    return [name.removesuffix(INDEX_SUFFIX) for name in names_in(folder) if name.endswith(INDEX_SUFFIX)]


def index_dialogues(folder: str) -> ShardIndex:
    """Index the shards of one split; see `write_index`."""
    return write_index(folder, measures)


def measures(cut: JsonObject) -> dict[str, int]:
    """The columns of a cut in the index of `DialogueShards`."""
    dialogue = _dialogue_of(cut)
    return {
        "frames": sum(mel_frames(count) for _, count in _spans(cut).values()),
        "reply_words": dialogue.reply_words,
        "text_bytes": dialogue.text_bytes,
    }


def _dialogue_of(cut: JsonObject) -> Dialogue:
    row = (cut.get("custom") or {}).get("dialogue")
    if not isinstance(row, dict):
        raise ValueError(
            f"cut {cut.get('id')}: expected a custom field 'dialogue', found {json.dumps(row)[:40]}; make the shards "
            "by echox run, stage prepare_data"
        )
    try:
        return dialogue_of_row(row)
    except ValueError as error:
        raise ValueError(f"cut {cut.get('id')}: {error}") from error


def _spans(cut: JsonObject) -> dict[int, tuple[int, int]]:
    return {
        int(said["custom"]["turn"]): (round(said["start"] * SAMPLING_RATE), round(said["duration"] * SAMPLING_RATE))
        for said in cut.get("supervisions") or []
    }
