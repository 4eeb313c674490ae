"""EchoX-Dialogues and EchoX-Dialogues-Plus: tar.gz shards, each with ``data.json`` and the WAV files it names.

``data.json`` is a list of ``{"conversations": [{"from", "value", "audio", "wer"}, ...]}``. The subsets (ShareChatX,
Magpie-Pro-Speech+, HH-RLHF-Speech) have this layout too and are recognised by their folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, Provenance, Row, identifier, require
from echox.data.corpora.conversations import turns
from echox.data.corpora.layouts import json_array, unpack

MAX_RECORDED_WER = 0.25
"""Turns of the corpus have the word error rate that its authors measured; above this, speech and text differ."""


class EchoXDialogues(Corpus):
    """See the module. ``subset`` is part of the paths of the shards that belong to a subset."""

    name = "echox-dialogues"
    subset = ""
    provenance = Provenance(
        title="EchoX-Dialogues and EchoX-Dialogues-Plus",
        homepage="https://huggingface.co/datasets/KurtDu/EchoX-Dialogues-Plus",
        licence="not verified here; see the dataset card (sources of the texts differ)",
        hub_id="KurtDu/EchoX-Dialogues-Plus",
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Items of the shards' ``data.json``; damage of a truncated shard is reported, its undamaged items are read."""
        for archive in sorted(folder.rglob("*.tar.gz")):
            place = str(archive.relative_to(folder))
            if self.subset.lower() not in place.lower():
                continue
            ((_, target, problem),) = unpack([archive], folder / "unpacked" / archive.parent.relative_to(folder))
            if problem:
                yield Row(place, ValueError(problem), target)
            if not (target / "data.json").is_file():
                yield Row(f"{place}:data.json", ValueError("expected data.json in the archive, found none"), target)
                continue
            for row in json_array(target / "data.json", target):
                yield Row(f"{place}:{row.place}", row.value, row.folder)

    def parse(self, row: Row) -> CorpusItem:
        """One conversation; an item without an id gets one from its place."""
        conversation = require(row, "conversations", list)
        for index, turn in enumerate(conversation):
            rate = turn.get("wer") if isinstance(turn, dict) else None
            if rate is not None and not (isinstance(rate, (int, float)) and rate <= MAX_RECORDED_WER):
                raise ValueError(
                    f"conversations[{index}].wer: expected at most {MAX_RECORDED_WER}, found {rate}: wrong text"
                )
        name = identifier(row.value.get("id"), row.place.replace(".tar.gz:data.json:", "-").replace("/", "-"))
        speakers = {"user": f"{self.name}/user", "assistant": f"{self.name}/assistant"}
        return CorpusItem(name, turns(conversation, row.folder, speakers))
