"""AudioQA-1M: ``train.json`` and ``eval.json``, arrays of conversations whose turns name their WAV files.

A turn is ``{"content", "wavpath", "codec", "role"}``; the audio comes in tar archives that are unpacked beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, Provenance, Row, require
from echox.data.corpora.conversations import turns
from echox.data.corpora.layouts import json_array, unpack


class AudioQA(Corpus):
    """See the module."""

    name = "audioqa"
    provenance = Provenance(
        title="AudioQA-1M",
        homepage="https://huggingface.co/datasets/VITA-MLLM/AudioQA-1M",
        licence="not verified here; a copy (shenyunhang/AudioQA-1M) is reported as Apache-2.0",
        hub_id="VITA-MLLM/AudioQA-1M",
        languages=("zh", "en"),
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Items of both files; archives are unpacked into ``unpacked`` first."""
        roots = [folder]
        for archive, target, problem in unpack(sorted(folder.rglob("*.tar*")), folder / "unpacked"):
            if problem:
                yield Row(str(archive.relative_to(folder)), ValueError(problem), folder)
            roots.append(target)
        for path in (folder / "train.json", folder / "eval.json"):
            if path.is_file():
                for row in json_array(path, folder):
                    yield Row(row.place, row.value, _root_of(row, roots))

    def parse(self, row: Row) -> CorpusItem:
        """One conversation; the file it comes from is the split."""
        conversation = row.value if isinstance(row.value, list) else require(row, "conversations", list)
        file, _, number = row.place.rpartition(":")
        speakers = {"user": "audioqa/user", "assistant": "audioqa/assistant"}
        return CorpusItem(f"{Path(file).stem}-{number}", turns(conversation, row.folder, speakers), Path(file).stem)


def _root_of(row: Row, roots: list[Path]) -> Path:
    """The folder that holds the first recording of the item: that of an archive, or of the corpus."""
    conversation = row.value.get("conversations") if isinstance(row.value, dict) else row.value
    first = conversation[0] if isinstance(conversation, list) and conversation else None
    name = first.get("wavpath") if isinstance(first, dict) else None
    return next((root for root in roots if name and (root / str(name)).is_file()), roots[0])
