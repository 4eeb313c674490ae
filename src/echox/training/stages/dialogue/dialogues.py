"""Dialogues of stages "s2t" and "echo", typed or spoken, and the batches made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from echox.data.features.corpus_features import Features
from echox.data.features.tower_features import TowerFeatures, item_features
from echox.data.manifest import Dialogue, audio_path, read_dialogues
from echox.models.text.tokenization_text import render_chat
from echox.training.batches.collate import pad_sequences


@dataclass(frozen=True)
class SpokenDialogue:
    """A dialogue, and the places of the features of its spoken turns (store: None where there is no speech)."""

    dialogue: Dialogue
    store: Features | None
    rows: dict[int, int]  # index of a turn -> row of the store
    tower: TowerFeatures | None = None  # whose features they are

    @property
    def frames(self) -> int:
        """Hundredths of a second (mel frames) of all spoken turns."""
        if self.store is None:
            return 0
        assert self.tower is not None
        return self.tower.mel_frames(sum(self.store.frames(row) for row in self.rows.values()))

    def features(self, turn: int) -> Tensor:
        """(frames, mels) or (samples, 1), float32, of one turn."""
        assert self.store is not None
        return item_features(self.store, self.rows[turn])


def question(item: SpokenDialogue) -> str:
    """The text of the last user turn."""
    return next(turn.text or "" for turn in reversed(item.dialogue.turns) if turn.role == "user")


def replies(item: SpokenDialogue) -> list[str]:
    """The text of each of the assistant's turns."""
    return [turn.text or "" for turn in item.dialogue.turns if turn.role == "assistant"]


def spoken_dialogues(
    manifest: str | Path, tower: TowerFeatures | None, as_served: bool = False
) -> list[SpokenDialogue]:
    """Dialogues of a manifest with a tower's features of the user's audio, computed once and kept beside the manifest.

    Without a tower, all turns are text. ``as_served``: see `S2TData`.

    Audio of assistants' turns is not read: see `Dialogue.heard_turns`.

    Raises:
        ValueError: a dialogue that does not end with the assistant's turn, by its id, or a damaged manifest.
    """
    manifest = Path(manifest)
    dialogues = read_dialogues(manifest)
    for dialogue in dialogues:
        if dialogue.turns[-1].role != "assistant":
            raise ValueError(
                f"{manifest}: {dialogue.id}: expected the last turn to be the assistant's (the reply to "
                f"learn), found the {dialogue.turns[-1].role}'s; add the reply"
            )
    places = [
        {turn: audio_path(manifest, str(item.turns[turn].audio)) for turn in item.heard_turns if tower is not None}
        for item in dialogues
    ]
    files = sorted({path for heard in places for path in heard.values()})
    store = None
    if tower is not None and files:
        form = "served" if as_served else "dialogues"
        store = tower.store(files, manifest.parent / "features", f"{manifest.stem}-{form}", as_served)
    row_of = {path: row for row, path in enumerate(files)}
    return [
        SpokenDialogue(dialogue, store, {turn: row_of[path] for turn, path in heard.items()}, tower)
        for dialogue, heard in zip(dialogues, places, strict=True)
    ]


def dialogue_pieces(
    tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, spoken: set[int], last_reply: bool = True
) -> list[tuple[str, bool]]:
    """A dialogue by the chat template, as pieces (text, whether it is a reply to learn) in order.

    Args:
        tokenizer: with a chat template in which a conversation's beginning does not depend on its end.
        dialogue: whose user turns in ``spoken`` become audio placeholders.
        spoken: indices of turns.
        last_reply: False leaves the last reply out: a prompt to generate from.

    Raises:
        ValueError: a template that rewrites earlier turns.
    """
    messages = [
        {"role": turn.role, "content": [{"type": "audio"}] if index in spoken else turn.text}
        for index, turn in enumerate(dialogue.turns)
    ]
    pieces: list[tuple[str, bool]] = []
    written = ""
    for index, turn in enumerate(dialogue.turns):
        if turn.role != "assistant":
            continue
        prompt = render_chat(tokenizer, messages[:index], add_generation_prompt=True)
        whole = render_chat(tokenizer, messages[: index + 1])
        if not prompt.startswith(written) or not whole.startswith(prompt):
            raise ValueError("expected a chat template that only ever appends, found one that rewrites earlier turns")
        pieces.append((prompt[len(written) :], False))
        if index < len(messages) - 1 or last_reply:
            pieces.append((whole[len(prompt) :], True))
        written = whole
    return pieces


def dialogue_batch(
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[SpokenDialogue],
    spoken: Sequence[set[int]],
    features: Sequence[Tensor],
    last_reply: bool = True,
) -> dict[str, Tensor]:
    """Batch of stage I.

    Args:
        tokenizer: the language model's.
        items: B dialogues.
        spoken: the turns of each dialogue that are given as speech.
        features: of these turns, in reading order, see `SpokenDialogue.features`.
        last_reply: False for prompts.

    Returns:
        input_ids, attention_mask, labels (B, N), padded on the right; with audio also input_features,
        input_features_mask (A, T), see `AudioTower.forward`, and ctc_labels (A, M), -100 padded.
    """
    ids, labels, transcripts = [], [], []
    for item, turns in zip(items, spoken, strict=True):
        pieces = dialogue_pieces(tokenizer, item.dialogue, turns, last_reply)
        tokens = tokenizer([text for text, _ in pieces], add_special_tokens=False)["input_ids"]
        ids.append([token for piece in tokens for token in piece])
        labels.append(
            [token if reply else -100 for (_, reply), piece in zip(pieces, tokens, strict=True) for token in piece]
        )
        transcripts += [item.dialogue.turns[turn].text or "" for turn in sorted(turns)]
    batch = {
        "input_ids": pad_sequences(ids, tokenizer.pad_token_id),
        "attention_mask": pad_sequences([[1] * len(row) for row in ids], 0),
        "labels": pad_sequences(labels, -100),
    }
    if features:
        tower = items[0].tower
        assert tower is not None, "features are a tower's"
        batch["input_features"], batch["input_features_mask"] = tower.batch(features)
        batch["ctc_labels"] = pad_sequences(tokenizer(transcripts, add_special_tokens=False)["input_ids"], -100)
    return batch
