"""LibriSpeech: 960 h of read English (``<part>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt`` and FLAC)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row, existing
from echox.data.corpora.layouts import lines, unpack

PARTS = ("train-clean-100", "train-clean-360", "train-other-500", "dev-clean", "dev-other", "test-clean", "test-other")


class LibriSpeech(Corpus):
    """See the module; a part's name decides the split ("train", else the part itself)."""

    name = "librispeech"
    provenance = Provenance(
        title="LibriSpeech",
        homepage="https://www.openslr.org/12",
        licence="CC BY 4.0",
        urls=tuple(f"https://www.openslr.org/resources/12/{part}.tar.gz" for part in PARTS),
        speech="read",
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Lines of all transcripts; archives beside them are unpacked first."""
        for archive, _, problem in unpack(sorted(folder.glob("*.tar.gz")), folder / "unpacked"):
            if problem:
                yield Row(archive.name, ValueError(problem), folder)
        for path in sorted(folder.rglob("*.trans.txt")):
            yield from lines(path, folder)

    def parse(self, row: Row) -> CorpusItem:
        """A line is ``84-121123-0000 TEXT IN CAPITALS``."""
        name, _, text = row.value.partition(" ")
        if name.count("-") != 2 or not text.strip():
            raise ValueError(f"expected 'speaker-chapter-number TEXT', found {row.value[:60]!r}")
        part = row.folder.parent.parent.name
        speaker = f"librispeech/{name.split('-')[0]}"
        audio = existing(row.folder / f"{name}.flac")
        return CorpusItem(
            name, (CorpusTurn(text, audio, speaker=speaker),), "train" if part.startswith("train") else part
        )

    def fix(self, text: str) -> str:
        """Lower case: the tokenizer of an LLM splits capitals into other tokens."""
        return super().fix(text).lower()
