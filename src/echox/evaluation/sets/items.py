"""Items of a test set: read from JSONL, CSV, TSV or Parquet, and checked.

The documented columns are ``id``, ``audio``, ``question`` and ``answers``. The names that other benchmarks use for them
are also read. All columns but the audio are kept for export.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypedDict

from echox.data.tables import read_table
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.sets.sealed import OPENED, refuse_sealed

AUDIO_COLUMNS = ("audio", "WavPath", "audio_path", "wav", "audio_filename", "path", "file_name", "source_wav")
QUESTION_COLUMNS = ("question", "Questions", "Question", "questions", "prompt", "source_text")
ANSWER_COLUMNS = ("answers", "answer", "Answer", "Answers", "reference", "references", "target_text")
ID_COLUMNS = ("id", "index", "key")
QUESTION_FILES = ("questions.jsonl", "questions.csv", "questions.tsv", "metadata.jsonl", "metadata.csv", "test.jsonl")
"""Names of the file of items in a folder: ours, those of the hub's folders of audio files, and URO-Bench's."""
_AUDIO_ENDINGS = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aac", ".webm", ".sph", ".aiff", ".wma")
"""Of what must be a recording, whatever its column is called."""
_NO_COMMA = re.compile(r"['\"]\s+['\"]")


class ContentPart(TypedDict, total=False):
    """A part of a message. ``type``, "text" or "audio", names the other key; audio is a path or the bytes of a file."""

    type: str
    text: str
    audio: Path | bytes


class ChatMessage(TypedDict):
    """A message as ``EchoX.generate`` takes it."""

    role: str
    content: str | list[ContentPart]


@dataclass(frozen=True)
class EvalItem:
    """One question.

    Attributes:
        id: unique within its task.
        messages: the question, and the turns before it.
        question: its words, if they are known.
        answers: accepted answers, or the reference.
        columns: what the data set says of it, without the audio.
    """

    id: str
    messages: Sequence[ChatMessage]
    question: str = ""
    answers: tuple[str, ...] = ()
    columns: Mapping[str, object] = field(default_factory=dict)

    @property
    def audios(self) -> list[Path | bytes]:
        """All audio of the messages, in order."""
        parts = [
            part for message in self.messages if isinstance(message["content"], list) for part in message["content"]
        ]
        return [part["audio"] for part in parts if part["type"] == "audio"]

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits of the content of the question; where its audio file lies does not matter.

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
    path: str | Path,
    answer_columns: Sequence[str] = ANSWER_COLUMNS,
    instruction: str | None = None,
    numbers: bool = False,
) -> list[EvalItem]:
    """Items of a ``.jsonl``, ``.csv`` or ``.tsv`` file, or of a folder with ``.parquet`` files (a data set of the hub)
    or with its questions in a file of `QUESTION_FILES`.

    Args:
        path: audio in it is relative to the file.
        answer_columns: names of columns that may hold the reference, in order of preference.
        instruction: text that is sent beside every audio.
        numbers: whether a reference that is a number stands for its text.

    Raises:
        ValueError: no such data, an item without question, audio in some rows only or in a column of another name, a
            reference that is not text, an id twice, or sealed questions.
    """
    path = Path(path)
    for name in QUESTION_FILES if path.is_dir() else ():
        if (path / name).is_file():
            path = path / name
            break
    rows = _parquet(path) if path.is_dir() else read_table(path)
    items = [
        _item(row, f"{path}: item {number}", number, path.parent, answer_columns, instruction, numbers)
        for number, row in enumerate(rows)
    ]
    refuse_sealed([(item.question, item.columns.get(OPENED)) for item in items], path)
    if not items:
        raise ValueError(f"{path}: expected at least one item, found none")
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"{path}: expected every id once, found {item.id!r} twice; give each item its own")
        seen.add(item.id)
    silent = [item for item in items if not item.audios]
    if 0 < len(silent) < len(items):
        raise ValueError(
            f"{path}: expected audio in every row or in none, found none in {len(silent)} of {len(items)} rows "
            f"(the first is {silent[0].id!r}): they would be asked in writing and counted as heard; add their audio, "
            "or make them a table of their own"
        )
    return items


def read_recordings(path: str | Path) -> list[EvalItem]:
    """`read_items` of spoken questions.

    Raises:
        ValueError: see `read_items`; or the questions are written.
    """
    items = read_items(path)
    if not items[0].audios:
        raise ValueError(
            f"{path}: expected spoken questions in a column of {', '.join(AUDIO_COLUMNS)}, found none with audio; name "
            "a table of recordings"
        )
    return items


def _parquet(folder: Path) -> Iterable[JsonObject]:
    """Rows of all shards, in order of their names; audio is the bytes that the hub stores."""
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
    row: Mapping[str, object],
    place: str,
    number: int,
    folder: Path,
    answer_columns: Sequence[str],
    instruction: str | None,
    numbers: bool,
) -> EvalItem:
    audio_column, audio = _first(row, AUDIO_COLUMNS)
    question_column, question = _first(row, [name for name in QUESTION_COLUMNS if name not in answer_columns])
    answer_column, answers = _first(row, answer_columns)
    _, name = _first(row, ID_COLUMNS)
    text: list[ContentPart] = [{"type": "text", "text": instruction}] if instruction else []
    others = {key: value for key, value in row.items() if key not in (question_column, answer_column)}
    unread = next((key for key, value in others.items() if _is_audio(value)), None) if audio is None else None
    if unread is not None:
        raise ValueError(
            f"{place}: expected its audio in a column of {', '.join(AUDIO_COLUMNS)}, found audio in {unread!r}: give "
            "the column one of these names, or leave it out if it is not the question"
        )
    if audio is not None:
        content: str | list[ContentPart] = [{"type": "audio", "audio": _audio(audio, folder, place)}, *text]
    elif question:
        content = str(question)
    elif "dialogue" in row:
        raise ValueError(f"{place}: expected one question a row, found a conversation (column dialogue)")
    else:
        raise ValueError(
            f"{place}: expected a question, found neither audio ({', '.join(AUDIO_COLUMNS)}) nor text "
            f"({', '.join(QUESTION_COLUMNS)}) but the columns {named(row)}: give the columns these names"
        )
    return EvalItem(
        id=str(number) if name is None else str(name).replace("/", "_"),
        messages=[{"role": "user", "content": content}],
        question=str(question or ""),
        answers=_answers(answers, place, answer_column, numbers),
        columns={key: value for key, value in row.items() if key != audio_column},
    )


def named(columns: Iterable[object]) -> str:
    """Names of columns for an error, in quotation marks: a space at their end is seen."""
    return ", ".join(map(repr, columns)) or "none"


def _is_audio(value: object) -> bool:
    """Whether a cell can be nothing but a recording: a name with the ending of one, or what the hub stores."""
    if isinstance(value, dict):
        return "sampling_rate" in value or ("bytes" in value and (not value.get("path") or _is_audio(value["path"])))
    return isinstance(value, str) and "\n" not in value and value.strip().lower().endswith(_AUDIO_ENDINGS)


def _first(row: Mapping[str, object], names: Sequence[str]) -> tuple[str | None, object]:
    """The first of the columns that exists and is not empty, with its name."""
    for name in names:
        if row.get(name) not in (None, ""):
            return name, row[name]
    return None, None


def _audio(value: object, folder: Path, place: str) -> Path | bytes:
    if isinstance(value, dict):  # as the hub stores it
        if value.get("bytes"):
            return bytes(value["bytes"])
        value = value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{place}: expected audio as a path, found {type(value).__name__}")
    return folder / value


def _answers(value: object, place: str, column: str | None, numbers: bool) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        value = _listed(value, f"{place}: {column}")
    values = value if isinstance(value, list) else [value]
    if numbers:
        values = [str(one) if isinstance(one, int | float) and not isinstance(one, bool) else one for one in values]
    if not all(isinstance(one, str) for one in values):
        raise ValueError(f"{place}: {column}: expected text or a list of texts, found {value!r}: quote numbers")
    return tuple(values)


def _listed(text: str, place: str) -> object:
    """A cell; one in brackets is a list, as JSON or as Python writes it (the cells of a CSV are texts)."""
    inside = text.strip()
    if not (inside.startswith("[") and inside.endswith("]")):
        return text
    for read in (json.loads, ast.literal_eval):
        if read is ast.literal_eval and _NO_COMMA.search(inside):  # as NumPy writes it: Python would join the texts
            break
        try:
            found: object = read(inside)
        except (ValueError, SyntaxError):
            continue
        return found
    raise ValueError(
        f'{place}: expected a text or a list of texts such as ["Paris", "Lyon"], found {inside[:80]!r}: quote its texts'
    )
