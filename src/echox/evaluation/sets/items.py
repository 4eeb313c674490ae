"""What a model is asked: items of a test set, read from JSONL, CSV or Parquet, each checked at the door.

The documented columns are ``id``, ``audio``, ``question`` and ``answers``; the names that other benchmarks use for them
are understood, and every column but the audio is kept, to be exported again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from echox.files import decoded, text_lines

AUDIO_COLUMNS = ("audio", "WavPath", "audio_path", "wav", "audio_filename", "path")
QUESTION_COLUMNS = ("question", "Questions", "Question", "questions", "prompt")
ANSWER_COLUMNS = ("answers", "answer", "Answer", "Answers", "reference", "references")
ID_COLUMNS = ("id", "index", "key")


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        id: unique within its task.
        messages: what is asked, as ``EchoX.generate`` takes it; audio is a path or the bytes of a file.
        question: its words, where they are known.
        answers: what is accepted, or the reference.
        columns: all that the data says of it, without the audio.
    """

    id: str
    messages: Sequence[dict[str, Any]]
    question: str = ""
    answers: tuple[str, ...] = ()
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def audios(self) -> list[Path | bytes]:
        """All audio of the messages, in order."""
        parts = [
            part for message in self.messages if isinstance(message["content"], list) for part in message["content"]
        ]
        return [part["audio"] for part in parts if part["type"] == "audio"]

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits of what is asked: a changed question is another question, a moved file is the same.

        Raises:
            ValueError: an audio file is missing.
        """
        texts = [
            [
                message["role"],
                *(
                    [message["content"]]
                    if isinstance(message["content"], str)
                    else [part["text"] for part in message["content"] if part["type"] == "text"]
                ),
            ]
            for message in self.messages
        ]
        digest = hashlib.sha256(json.dumps(texts).encode())
        for audio in self.audios:
            if isinstance(audio, bytes):
                digest.update(audio)
                continue
            if not audio.is_file():
                raise ValueError(
                    f"{audio}: expected the spoken question of {self.id!r}, found no such file; prepare the data again"
                )
            digest.update(audio.read_bytes())
        return digest.hexdigest()[:12]


def read_items(
    path: str | Path, answer_columns: Sequence[str] = ANSWER_COLUMNS, instruction: str | None = None
) -> list[Item]:
    """Items of a ``.jsonl`` or ``.csv`` file, or of a folder of ``.parquet`` files (a data set of the hub).

    Args:
        path: audio in it is relative to the file.
        answer_columns: where the reference is looked for, in this order.
        instruction: text that is sent beside every audio.

    Raises:
        ValueError: no such data, an item without question, a reference that is not text, or an id twice.
    """
    path = Path(path)
    rows = _rows(path)
    items = [
        _item(row, f"{path}: item {number}", number, path.parent, answer_columns, instruction)
        for number, row in enumerate(rows)
    ]
    if not items:
        raise ValueError(f"{path}: expected at least one item, found none")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"{path}: expected every id once, found {item.id!r} twice; give each item its own")
        seen.add(item.id)
    return items


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    if path.is_dir():
        return _parquet(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a .jsonl or .csv file or a folder of .parquet files, found nothing there")
    if path.suffix == ".jsonl":
        return _jsonl(path)
    if path.suffix == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(decoded(path.read_bytes()), newline="")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    raise ValueError(
        f"{path}: expected .jsonl, .csv or a folder of .parquet files, found {path.suffix or 'no ending'!r}"
    )


def _jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    for number, line in text_lines(path):
        try:
            if isinstance(line, ValueError):
                raise line
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: expected one JSON object a line, found {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def _parquet(folder: Path) -> Iterable[dict[str, Any]]:
    """Rows of all shards in order of their names; audio as the bytes that the hub stores."""
    shards = sorted(folder.rglob("*.parquet"))
    if not shards:
        raise ValueError(f"{folder}: expected .parquet files in it, found none; name a .jsonl file, or download again")
    try:
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(f"{folder}: expected pyarrow to read Parquet, found none; pip install pyarrow") from error
    for shard in shards:
        for batch in pyarrow.parquet.ParquetFile(shard).iter_batches(batch_size=64):
            yield from batch.to_pylist()


def _item(
    row: Mapping[str, Any],
    place: str,
    number: int,
    folder: Path,
    answer_columns: Sequence[str],
    instruction: str | None,
) -> Item:
    audio_column, audio = _first(row, AUDIO_COLUMNS)
    _, question = _first(row, [name for name in QUESTION_COLUMNS if name not in answer_columns])
    answer_column, answers = _first(row, answer_columns)
    _, name = _first(row, ID_COLUMNS)
    text = [{"type": "text", "text": instruction}] if instruction else []
    if audio is not None:
        content: Any = [{"type": "audio", "audio": _audio(audio, folder, place)}, *text]
    elif question:
        content = str(question)
    else:
        raise ValueError(
            f"{place}: expected a question, found neither audio ({', '.join(AUDIO_COLUMNS)}) nor text "
            f"({', '.join(QUESTION_COLUMNS)}): name the columns so"
        )
    return Item(
        id=str(number) if name is None else str(name).replace("/", "_"),
        messages=[{"role": "user", "content": content}],
        question=str(question or ""),
        answers=_answers(answers, place, answer_column),
        columns={key: value for key, value in row.items() if key != audio_column},
    )


def _first(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str | None, Any]:
    """The first of the columns that is there and not empty, with its name."""
    for name in names:
        if row.get(name) not in (None, ""):
            return name, row[name]
    return None, None


def _audio(value: Any, folder: Path, place: str) -> Path | bytes:
    if isinstance(value, dict):  # as the hub stores it
        if value.get("bytes"):
            return bytes(value["bytes"])
        value = value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{place}: expected audio as a path, found {type(value).__name__}")
    return folder / value


def _answers(value: Any, place: str, column: str | None) -> tuple[str, ...]:
    if value is None:
        return ()
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(one, str) for one in values):
        raise ValueError(f"{place}: {column}: expected text or a list of texts, found {value!r}: quote numbers")
    return tuple(values)
