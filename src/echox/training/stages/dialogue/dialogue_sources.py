"""Where dialogues of stages "s2t" and "echo" come from: manifests, or folders of shards.

Of a manifest, features of all recordings are made once and kept beside it. Of shards, they are made for each batch,
from the recording where it is; a run knows of all dialogues their numbers only (lengths, shards).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from echox.data.features.corpus_features import features_of, mel_frames
from echox.data.features.tower_features import TowerFeatures
from echox.data.sampling import spread
from echox.data.shards.dialogues import DialogueShards, ShardedDialogue, splits_of
from echox.data.shards.files import is_remote, joined
from echox.training.stages.dialogue.dialogues import SpokenDialogue, spoken_dialogues

TRAIN = "train"
SPOKEN_FRAMES_PER_WORD = 40
"""Hundredths of a second that a word of a reply takes when it is spoken, about."""
_COUNTED = 256
"""Dialogues whose tokens are counted, for an estimate of the others."""


@dataclass(frozen=True)
class Dialogues(Sequence[SpokenDialogue]):
    """Dialogues by number, and what batches are formed by, for all of them.

    Attributes:
        items: the dialogues.
        frames: (items,) hundredths of a second of all that is heard.
        reply_words: (items,) words of the assistant's turns.
        text_bytes: (items,) of all texts.
        shards: (items,) the shard of each, by any number; None: they are not in shards.
    """

    items: Sequence[SpokenDialogue]
    frames: np.ndarray
    reply_words: np.ndarray
    text_bytes: np.ndarray
    shards: np.ndarray | None = None

    @classmethod
    def listed(cls, items: Sequence[SpokenDialogue]) -> Dialogues:
        """Dialogues that are in memory."""
        return cls(
            items,
            np.array([item.frames for item in items], dtype=np.int64),
            np.array([item.dialogue.reply_words for item in items], dtype=np.int64),
            np.array([item.dialogue.text_bytes for item in items], dtype=np.int64),
        )

    @classmethod
    def joined(cls, parts: Sequence[Dialogues]) -> Dialogues:
        """Several, one after the other."""
        shards = None
        if any(part.shards is not None for part in parts):
            numbered, first = [], 0
            for part in parts:  # dialogues in memory: each for itself
                own = np.arange(len(part)) if part.shards is None else part.shards
                numbered.append(own + first)
                first += int(own.max(initial=-1)) + 1
            shards = np.concatenate(numbered)
        return cls(
            _Joined([part.items for part in parts]),
            _together([part.frames for part in parts]),
            _together([part.reply_words for part in parts]),
            _together([part.text_bytes for part in parts]),
            shards,
        )

    def chosen(self, places: Sequence[int]) -> Dialogues:
        """Some of them, in this order, each as often as it is named."""
        at = np.array(places, dtype=np.int64)
        shards = None if self.shards is None else self.shards[at]
        return Dialogues(_Chosen(self.items, at), self.frames[at], self.reply_words[at], self.text_bytes[at], shards)

    def spoken_lengths(self) -> list[int]:
        """Mel frames of each, plus those of the words of its replies: its cost where replies are spoken."""
        return (self.frames + SPOKEN_FRAMES_PER_WORD * self.reply_words).tolist()

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> SpokenDialogue:  # type: ignore[override]  # no slices
        return self.items[place]


@dataclass(frozen=True)
class DialogueSource:
    """What a recipe names as a manifest.

    Attributes:
        training: dialogues of split "train".
        held_out: dialogues of other splits; of shards a part.
        listed: all dialogues of a manifest in its order; of shards `held_out`.
    """

    training: Dialogues
    held_out: list[SpokenDialogue]
    listed: list[SpokenDialogue]


def dialogue_source(
    place: str | Path, tower: TowerFeatures, held_out_items: int, as_served: bool = False
) -> DialogueSource:
    """Dialogues of a manifest, or of a folder of shards (stage prepare_data: ``dialogue_shards``).

    Args:
        place: a file (``.jsonl``), a folder, or the address of a folder in an object store.
        tower: whose features are made of what is heard.
        held_out_items: of each held-out split of shards.
        as_served: see `S2TData`.

    Raises:
        ValueError: no such manifest or shards, or damaged ones.
    """
    if not is_remote(str(place)) and not Path(place).is_dir():
        listed = spoken_dialogues(place, tower, as_served)
        training = [item for item in listed if item.dialogue.split == TRAIN]
        return DialogueSource(
            Dialogues.listed(training), [item for item in listed if item.dialogue.split != TRAIN], listed
        )
    found = splits_of(str(place))
    if not found:
        raise ValueError(
            f"{place}: expected folders of dialogue shards, one a split, each with its index beside it, found none; "
            "name the folder dialogue_shards that echox run with a recipe of stage prepare_data has written"
        )
    training_items: Dialogues = Dialogues.joined([])
    held_out: list[SpokenDialogue] = []
    for split in found:
        shards = DialogueShards(joined(str(place), split))
        items = _Sharded(shards, tower, as_served)
        if split == TRAIN:
            columns = shards.places.columns
            training_items = Dialogues(
                items,
                columns["frames"],
                columns["reply_words"],
                columns["text_bytes"],
                shards.places.shard_of_items(),
            )
        else:
            held_out += [items[number] for number in spread(range(len(items)), held_out_items)]
    return DialogueSource(training_items, held_out, held_out)


def tokens_by_bytes(dialogues: Dialogues, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """About the tokens of each dialogue's texts: its bytes, by the bytes a token of evenly spaced dialogues.

    Counting exactly would read the texts of the whole corpus at every start.
    """
    asked = [dialogues[place] for place in spread(range(len(dialogues)), _COUNTED)]
    texts = [turn.text for item in asked for turn in item.dialogue.turns if turn.text]
    tokens = sum(map(len, tokenizer(texts, add_special_tokens=False)["input_ids"])) if texts else 0
    rate = tokens / max(1, sum(item.dialogue.text_bytes for item in asked))
    return np.ceil(dialogues.text_bytes * rate).astype(np.int64).tolist()


class _Sharded(Sequence[SpokenDialogue]):
    """Dialogues of shards, as the stages read them."""

    def __init__(self, shards: DialogueShards, tower: TowerFeatures, as_served: bool) -> None:
        self._shards, self._tower, self._as_served = shards, tower, as_served

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, place: int) -> SpokenDialogue:  # type: ignore[override]  # no slices
        found = self._shards[place]
        if found.dialogue.turns[-1].role != "assistant":
            raise ValueError(f"{found.dialogue.id}: expected the last turn to be the assistant's; prepare again")
        heard = HeardTurns(found, self._tower, self._as_served)
        return SpokenDialogue(found.dialogue, heard, {turn: turn for turn in found.spans}, self._tower)


@dataclass(frozen=True)
class HeardTurns:
    """Features of the turns of one dialogue of shards, by their indices, made when they are asked for."""

    found: ShardedDialogue
    tower: TowerFeatures
    as_served: bool

    @cached_property
    def _waveforms(self) -> dict[int, np.ndarray]:
        return self.found.waveforms()

    def __getitem__(self, turn: int) -> np.ndarray:
        return features_of(self._waveforms[turn], self.tower.spec.num_mel_bins, self.as_served)

    def frames(self, turn: int) -> int:
        """Mel frames, or samples, of a turn (before silence is cut off)."""
        samples = self.found.spans[turn][1]
        return samples if self.tower.spec.num_mel_bins is None else mel_frames(samples)


def _together(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype=np.int64), *parts])


class _Joined(Sequence[SpokenDialogue]):
    """Sequences one after the other, none of them copied."""

    def __init__(self, parts: Sequence[Sequence[SpokenDialogue]]) -> None:
        self._parts = list(parts)
        self._ends = np.cumsum([len(part) for part in parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, place: int) -> SpokenDialogue:  # type: ignore[override]  # no slices
        if not 0 <= place < len(self):
            raise IndexError(place)
        part = int(np.searchsorted(self._ends, place, side="right"))
        return self._parts[part][place - int(self._ends[part]) + len(self._parts[part])]


class _Chosen(Sequence[SpokenDialogue]):
    """Items of a sequence by place."""

    def __init__(self, items: Sequence[SpokenDialogue], places: np.ndarray) -> None:
        self._items, self._places = items, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int) -> SpokenDialogue:  # type: ignore[override]  # no slices
        return self._items[int(self._places[place])]
