"""Splits of texts that are written here: wordings that are learned, and held-out ones to choose and to report by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

SPLITS = ("train", "validation", "heldout")

Item = TypeVar("Item")


def check_split(split: str) -> None:
    """Whether there is such a split.

    Raises:
        ValueError: there is none.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(SPLITS)}, found {split!r}")


def held_out_share(items: Sequence[Item], split: str) -> list[Item]:
    """Of items that are held out, every second one: each split but that of training has its own."""
    return list(items[SPLITS.index(split) - 1 :: 2])
