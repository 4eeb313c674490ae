"""A language model's own replies, out of dialogues that stage "replies" wrote."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from echox.data.manifest import Dialogue


def first_exchanges(dialogues: Iterable[Dialogue], split: str) -> Iterator[tuple[Dialogue, str, str]]:
    """Yield dialogues with their first question and its reply.

    Args:
        dialogues: those that have no reply are left out.
        split: "train": dialogues of training; another one: those that are held out, each question once, so that splits
            that share them have different ones.
    """
    source = "train" if split == "train" else "heldout"
    seen: set[str] = set()
    for dialogue in dialogues:
        turns = [turn for turn in dialogue.turns if turn.role != "system"]
        if dialogue.split == source and len(turns) > 1:
            question = turns[0].text or ""
            if split == "train" or question not in seen:
                yield dialogue, question, turns[1].text or ""
            seen.add(question)
