"""WebQuestions: 5,810 questions that people typed into a search engine, with answers, as text.

The archive's three parts of the training set are one split here; "test" is the test set of the papers. A row is
``{"qId", "qText", "answers"}``; the first answer is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row, require
from echox.data.corpora.layouts import json_array

_COMMIT = "668890853388010fe6ae9a5eb035a7917b88933b"
_SHA256 = {
    "trainmodel.json": "eef8b21e5b65697b643f3904c4f1122f077a8afdf3dc91a2058d3cf7d34baa50",
    "val.json": "eece8cddb324972d55bae4ac05eb06d728bc6e4111585509391efcff5c29e063",
    "devtest.json": "2541838645f7b8a6f24c4f409f12568b1616095f2edb6280eec924ea3df123c8",
    "test.json": "de320953700cd08300b9bcd2e60399da43b458a1be02db3f93c40344729fed39",
}


class WebQuestions(Corpus):
    """See the module."""

    name = "webquestions"
    provenance = Provenance(
        title="WebQuestions",
        homepage="https://github.com/brmson/dataset-factoid-webquestions",
        licence="CC BY 4.0",
        urls=tuple(
            f"https://raw.githubusercontent.com/brmson/dataset-factoid-webquestions/{_COMMIT}/main/{name}"
            for name in _SHA256
        ),
        sha256=tuple(_SHA256.values()),
        speech="none: texts",
    )

    def rows(self, folder: Path) -> Iterator[Row]:
        """Rows of the files that are there."""
        for name in _SHA256:
            if (folder / name).exists():
                yield from json_array(folder / name, folder)

    def parse(self, row: Row) -> CorpusItem:
        """A question and its first answer."""
        name, question = require(row, "qId"), require(row, "qText")
        answer = str(require(row, "answers", list)[0])
        split = "test" if row.place.startswith("test.json") else "train"
        return CorpusItem(name, (CorpusTurn(question), CorpusTurn(answer, role="assistant")), split)
