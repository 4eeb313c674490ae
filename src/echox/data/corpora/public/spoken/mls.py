"""Multilingual LibriSpeech: ``mls_<language>/<split>/transcripts.txt``, ``audio/<speaker>/<book>/<id>.flac`` (opus)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row, existing
from echox.data.corpora.layouts import lines, unpack

LANGUAGES = {
    "english": "en",
    "german": "de",
    "dutch": "nl",
    "french": "fr",
    "spanish": "es",
    "italian": "it",
    "portuguese": "pt",
    "polish": "pl",
}
_STEP = 16


class MultilingualLibriSpeech(Corpus):
    """See the module; the compressed (opus) and the FLAC release have one layout."""

    name = "mls"
    provenance = Provenance(
        title="Multilingual LibriSpeech",
        homepage="https://www.openslr.org/94",
        licence="CC BY 4.0",
        urls=tuple(f"https://dl.fbaipublicfiles.com/mls/mls_{language}_opus.tar.gz" for language in LANGUAGES),
        languages=tuple(LANGUAGES.values()),
        speech="read",
    )

    archives = "mls_*.tar.gz"

    def rows(self, folder: Path) -> Iterator[Row]:
        """Lines of all transcripts; archives beside them are unpacked first."""
        for archive, _, problem in unpack(sorted(folder.glob(self.archives)), folder / "unpacked"):
            if problem:
                yield Row(archive.name, ValueError(problem), folder)
        yield from self._lines(folder)

    def _lines(self, folder: Path) -> Iterator[Row]:
        for path in self._transcripts(folder):
            yield from lines(path, folder)

    def _transcripts(self, folder: Path) -> list[Path]:
        return sorted(folder.rglob("transcripts.txt"))

    def parse(self, row: Row) -> CorpusItem:
        """A line is ``4800_10003_000000<tab>text``."""
        name, tab, text = row.value.partition("\t")
        if name.count("_") != 2 or not tab or not text.strip():
            raise ValueError(f"expected 'speaker_book_number<tab>text', found {row.value[:60]!r}")
        speaker, book, _ = name.split("_")
        audio = row.folder / "audio" / speaker / book
        found = [path for path in (audio / f"{name}.flac", audio / f"{name}.opus") if path.is_file()]
        split = row.folder.name
        said = CorpusTurn(text, found[0] if found else existing(audio / f"{name}.flac"), speaker=f"mls/{speaker}")
        return CorpusItem(name, (said,), split)


class EnglishLibriSpeech(MultilingualLibriSpeech):
    """Its English part, in an order of which every beginning has speakers from the whole: for ``limit``."""

    name = "mls-english"
    provenance = replace(
        MultilingualLibriSpeech.provenance,
        title="Multilingual LibriSpeech, English",
        urls=("https://dl.fbaipublicfiles.com/mls/mls_english_opus.tar.gz",),
        languages=("en",),
    )
    archives = "mls_english*.tar.gz"

    def _lines(self, folder: Path) -> Iterator[Row]:
        """Every sixteenth line of all transcripts, then those after them, and so on: speakers are not mixed in them."""
        for start in range(_STEP):
            for path in self._transcripts(folder):
                yield from itertools.islice(lines(path, folder), start, None, _STEP)

    def _transcripts(self, folder: Path) -> list[Path]:
        found = super()._transcripts(folder)
        return [path for path in found if any(part.startswith("mls_english") for part in path.resolve().parts)]
