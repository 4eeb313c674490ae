"""Multilingual LibriSpeech: ``mls_<language>/<split>/transcripts.txt``, ``audio/<speaker>/<book>/<id>.flac`` (opus)."""

from __future__ import annotations

from collections.abc import Iterator
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

    def rows(self, folder: Path) -> Iterator[Row]:
        """Lines of all transcripts; archives beside them are unpacked first."""
        for archive, _, problem in unpack(sorted(folder.glob("mls_*.tar.gz")), folder / "unpacked"):
            if problem:
                yield Row(archive.name, ValueError(problem), folder)
        for path in sorted(folder.rglob("transcripts.txt")):
            yield from lines(path, folder)

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
