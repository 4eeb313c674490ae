"""Any dataset of rows: ``.jsonl``, ``.json`` or ``.parquet`` files, from disk or the Hugging Face hub.

Columns are named by their meaning; the defaults are the names of most datasets::

    Table({"text": "sentence", "audio": "clip"})                     # utterances
    Table({"question": "instruction", "answer": "output"})           # dialogues, spoken or to be spoken
    Table({"conversations": "messages"})                             # dialogues of several turns
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from echox.audio import encode_audio
from echox.data.corpora.base import Corpus, CorpusItem, CorpusTurn, Provenance, Row, existing, identifier, require
from echox.data.corpora.conversations import turns
from echox.data.corpora.layouts import any_table

MEANINGS = (
    "id",
    "text",
    "audio",
    "speaker",
    "split",
    "question",
    "question_audio",
    "answer",
    "answer_audio",
    "conversations",
)


class Table(Corpus):
    """See the module.

    Args:
        columns: Meaning to column, for columns with other names.
        hub_id: Dataset on the hub, for `download`.
        licence: Recorded with the corpus.

    Raises:
        ValueError: an unknown meaning.
    """

    name = "table"
    provenance = Provenance("Any JSONL, JSON or Parquet dataset", "the dataset's own page", "unknown", languages=())

    def __init__(
        self, columns: Mapping[str, str] | None = None, hub_id: str | None = None, licence: str = "unknown"
    ) -> None:
        for meaning in columns or {}:
            if meaning not in MEANINGS:
                raise ValueError(f"column: expected one of {', '.join(MEANINGS)}, found {meaning!r}")
        self.columns = {meaning: (columns or {}).get(meaning, meaning) for meaning in MEANINGS}
        self.provenance = replace(type(self).provenance, hub_id=hub_id, licence=licence)

    def rows(self, folder: Path) -> Iterator[Row]:
        """Rows of all files, in the order of their names."""
        for path in sorted(path for path in folder.rglob("*") if path.suffix in {".jsonl", ".json", ".parquet"}):
            if not path.name.startswith("."):
                yield from any_table(path, folder)

    def parse(self, row: Row) -> CorpusItem:
        """An utterance or a dialogue, depending on the columns."""
        if not isinstance(row.value, dict):
            raise ValueError(f"expected an object, found {type(row.value).__name__}")
        column = self.columns
        name = identifier(row.value.get(column["id"]), row.place.replace("/", "-").replace(":", "-"))
        split = identifier(row.value.get(column["split"]), "train")
        speaker = identifier(row.value.get(column["speaker"]), "unknown")
        if column["conversations"] in row.value:
            said = turns(row.value[column["conversations"]], row.folder, {"user": speaker})
        elif column["question"] in row.value:
            said = (
                CorpusTurn(require(row, column["question"]), audio_of(row, column["question_audio"]), "user", speaker),
                CorpusTurn(require(row, column["answer"]), audio_of(row, column["answer_audio"]), "assistant"),
            )
        else:
            said = (CorpusTurn(require(row, column["text"]), audio_of(row, column["audio"]), speaker=speaker),)
            if said[0].audio is None:
                raise ValueError(f"{column['audio']}: expected audio of the utterance, found none")
        return CorpusItem(name, said, split)


def audio_of(row: Row, key: str) -> Path | bytes | None:
    """Audio of a row: a path, or the hub's ``{"bytes", "path"}`` or ``{"array", "sampling_rate"}``; None: no column.

    Raises:
        ValueError: something else, or a file that is not there.
    """
    value = row.value.get(key)
    if value is None:
        return None
    if isinstance(value, str):
        return existing(row.folder / value)
    if isinstance(value, dict) and value.get("bytes"):
        return bytes(value["bytes"])
    if isinstance(value, dict) and value.get("array") is not None and value.get("sampling_rate"):
        import numpy as np

        return encode_audio(np.asarray(value["array"], dtype=np.float32), int(value["sampling_rate"]))
    if isinstance(value, dict) and value.get("path"):
        return existing(row.folder / str(value["path"]))
    raise ValueError(f"{key}: expected a path or audio bytes, found {str(value)[:60]!r}")
