"""InstructS2S-200K: dialogues of several turns, ``instruct_en*.json`` and the WAV files it names.

The archive comes in pieces (``en_part_*``) that are joined before they are unpacked. An item is ``{"id",
"conversation": [{"from": "human"|"gpt", "text", "speech"}, ...]}``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, Provenance, Row, require
from echox.data.corpora.conversations import turns
from echox.data.corpora.layouts import json_array, unpack


class InstructS2S(Corpus):
    """See the module."""

    name = "instructs2s"
    provenance = Provenance(
        title="InstructS2S-200K",
        homepage="https://huggingface.co/datasets/ICTNLP/InstructS2S-200K",
        licence="CC BY-NC 4.0 (research only, no commercial use)",
        hub_id="ICTNLP/InstructS2S-200K",
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Items of the JSON files, after the pieces are joined and unpacked."""
        pieces = sorted(folder.glob("en_part_*"))
        joined = folder / "instructs2s_200k.tar.gz"
        if pieces and not joined.exists():
            partial = joined.with_suffix(".part")
            with partial.open("wb") as out:
                for piece in pieces:
                    with piece.open("rb") as source:
                        shutil.copyfileobj(source, out)
            partial.replace(joined)
        root = folder
        for archive, target, problem in unpack([joined] if joined.exists() else [], folder / "unpacked"):
            if problem:
                yield Row(archive.name, ValueError(problem), target)
            root = target
        for path in sorted({*folder.glob("instruct_en*.json"), *root.rglob("instruct_en*.json")}):
            yield from json_array(path, folder, root)

    def parse(self, row: Row) -> CorpusItem:
        """One dialogue; audio paths are relative to the unpacked archive."""
        name = require(row, "id", (str, int))
        conversation = row.value.get("conversation", row.value.get("conversations"))
        speakers = {"user": "instructs2s/user", "assistant": "instructs2s/assistant"}
        return CorpusItem(
            str(name), turns(conversation, row.folder, speakers), "val" if "_val" in row.place else "train"
        )
