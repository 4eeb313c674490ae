"""Manifests of utterances, dialogues and units: one JSON object a line, checked when read.

A manifest is a JSONL file; audio paths in it are relative to the manifest's folder, so a corpus can be moved as one
folder. Reading validates every field and names the file, the line and the field at fault; writing is atomic.

    speech/questions.jsonl   {"id": ..., "audio": "wav/q1.wav", "text": ..., "speaker": ..., "duration_s": 2.1, ...}
    text/dialogues.jsonl     {"id": ..., "turns": [{"role": "user", "text": ...}, ...], "split": "train", ...}

They can be converted to lhotse cuts or WebDataset-like Shar folders (:func:`to_cuts`, :func:`write_shar`).
Source: the shape of the types follows lhotse's manifests, https://lhotse.readthedocs.io.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from echox.data.sealed import any_sealed
from echox.files import JsonObject, text_lines
from echox.models.text.word_breaks import split_words

if TYPE_CHECKING:
    from lhotse import CutSet

log = logging.getLogger(__name__)
ROLES = ("system", "user", "assistant")
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Utterance:
    """One recording and the text that is spoken in it.

    Attributes:
        id: Unique within its manifest.
        audio: Path of the audio file, relative to the manifest's folder.
        text: The spoken text, words separated by single spaces.
        speaker: Name of the voice.
        duration_s: Length of the audio, in seconds.
        split: "train", or the name of an evaluation set.
        word_ends_s: One end time, in seconds, per whitespace word of ``text``; None: not known.
        written: The text as it was written ("$5"), if ``text`` has it in words; None: they are the same.
    """

    id: str
    audio: str
    text: str
    speaker: str
    duration_s: float
    split: str = "train"
    word_ends_s: tuple[float, ...] | None = None
    written: str | None = None

    def __post_init__(self) -> None:
        _require_text(self, "id", "audio", "text", "speaker", "split")
        _require_duration("duration_s", self.duration_s)
        if self.word_ends_s is None:
            return
        words = self.text.split()
        if len(self.word_ends_s) != len(words):
            raise ValueError(
                f"word_ends_s: expected one end per word ({len(words)}), found {len(self.word_ends_s)}; align again"
            )
        ends = (0.0, *self.word_ends_s)
        if any(later < earlier for earlier, later in zip(ends, ends[1:], strict=False)):
            raise ValueError(f"word_ends_s: expected times that never decrease, found {self.word_ends_s}; align again")
        if self.word_ends_s and self.word_ends_s[-1] > self.duration_s + 0.05:
            raise ValueError(
                f"word_ends_s: expected ends within {self.duration_s} s, found {self.word_ends_s[-1]} s; align again"
            )


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue. A user turn has text, audio or both (text beside audio is its transcript).

    Attributes:
        role: "system", "user" or "assistant".
        text: The spoken text, as written.
        audio: Path of the audio file, relative to the manifest's folder.
        duration_s: Length of the audio, in seconds.
        speaker: Name of the voice.
        written: As in :class:`Utterance`.
    """

    role: str
    text: str | None = None
    audio: str | None = None
    duration_s: float | None = None
    speaker: str | None = None
    written: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"role: expected one of {', '.join(ROLES)}, found {self.role!r}; correct the turn")
        if not self.text and not self.audio:
            raise ValueError("text: expected text or audio in every turn, found neither; fill one in")
        if self.role != "user" and not self.text:
            raise ValueError(f"text: expected text in a {self.role} turn, found only audio; add its transcript")
        for name in ("text", "audio", "speaker", "written"):
            if getattr(self, name) is not None:
                _require_text(self, name)
        if self.duration_s is not None:
            _require_duration("duration_s", self.duration_s)


@dataclass(frozen=True)
class Dialogue:
    """A conversation; the last turn is the reply that the model should give.

    Attributes:
        id: Unique within its manifest.
        turns: The turns in order.
        split: "train", or the name of an evaluation set.
        answer: The part of the last reply that must be right.
        topic: Kind of question, to report by.
    """

    id: str
    turns: tuple[Turn, ...]
    split: str = "train"
    answer: str | None = None
    topic: str | None = None

    def __post_init__(self) -> None:
        _require_text(self, "id", "split")
        if not self.turns:
            raise ValueError("turns: expected at least one turn, found none; remove the dialogue or fill it in")

    @property
    def heard_turns(self) -> tuple[int, ...]:
        """Indices of the turns that a model listens to: the user's, where they have audio.

        Audio of an assistant's turn is a recording of the reply voice: an output of the model, never an input.
        """
        return tuple(index for index, turn in enumerate(self.turns) if turn.role == "user" and turn.audio)

    @property
    def questions(self) -> list[str]:
        """Texts of the user's turns that have one."""
        return [turn.text for turn in self.turns if turn.role == "user" and turn.text]

    @property
    def reply_words(self) -> int:
        """Words of the assistant's turns, as they are spoken one by one (`split_words`)."""
        return sum(len(split_words(turn.text or "")) for turn in self.turns if turn.role == "assistant")

    @property
    def text_bytes(self) -> int:
        """Bytes of all texts, as UTF-8."""
        return sum(len((turn.text or "").encode()) for turn in self.turns)


@dataclass(frozen=True)
class UnitUtterance:
    """An utterance as reduced units (runs of one unit collapsed), aligned with its words.

    Attributes:
        id: The id of the :class:`Utterance` it was made from.
        text: The spoken text, as written.
        units: Reduced unit ids.
        durations_frames: Frames each reduced unit lasts (the length of its run); empty if nobody spoke the text.
        word_of_unit: Index of the whitespace word each reduced unit belongs to; never decreases.
        split, written: As in :class:`Utterance`.
    """

    id: str
    text: str
    units: tuple[int, ...]
    durations_frames: tuple[int, ...]
    word_of_unit: tuple[int, ...]
    split: str = "train"
    written: str | None = None

    def __post_init__(self) -> None:
        _require_text(self, "id", "text", "split")
        for name in ("durations_frames", "word_of_unit"):
            if len(getattr(self, name)) != len(self.units) and (name == "word_of_unit" or self.durations_frames):
                raise ValueError(
                    f"{name}: expected one value per unit ({len(self.units)}), found {len(getattr(self, name))}"
                )
        if any(unit < 0 for unit in self.units):
            raise ValueError(f"units: expected ids of at least 0, found {min(self.units)}; extract again")
        if any(duration < 1 for duration in self.durations_frames):
            raise ValueError("durations_frames: expected at least 1 frame per unit, found less; extract again")
        words, of = len(self.text.split()), self.word_of_unit
        if any(not 0 <= word < words for word in of) or any(b < a for a, b in zip(of, of[1:], strict=False)):
            raise ValueError(f"word_of_unit: expected non-decreasing indices below {words}, found {of}; align again")


Item = TypeVar("Item", Utterance, Dialogue, UnitUtterance)


def read_utterances(path: str | Path) -> list[Utterance]:
    """Read a manifest of :class:`Utterance`. Raises ValueError naming file, line and field."""
    return _read(Path(path), _utterance)


def write_utterances(path: str | Path, items: Iterable[Utterance]) -> None:
    """Write a manifest of :class:`Utterance`. Raises ValueError for duplicate ids."""
    _write(Path(path), items)


def read_dialogues(path: str | Path, with_sealed: bool = False) -> list[Dialogue]:
    """Read a manifest of :class:`Dialogue`.

    Args:
        path: of the manifest.
        with_sealed: also held-out dialogues that ask a sealed question (`without_sealed`); who reads them says why.

    Raises:
        ValueError: names file, line and field.
    """
    found = _read(Path(path), dialogue_of_row)
    return found if with_sealed else without_sealed(found, str(path))


def without_sealed(dialogues: Sequence[Dialogue], source: str) -> list[Dialogue]:
    """Without held-out dialogues in which a sealed question is asked (`echox.data.sealed`).

    Args:
        dialogues: of any splits.
        source: where they are from, for the log.
    """
    kept = [item for item in dialogues if item.split == "train" or not any_sealed(item.questions)]
    if len(kept) < len(dialogues):
        log.info("%s: %d dialogues are left out, whose questions are sealed", source, len(dialogues) - len(kept))
    return kept


def write_dialogues(path: str | Path, items: Iterable[Dialogue]) -> None:
    """Write a manifest of :class:`Dialogue`. Raises ValueError for duplicate ids."""
    _write(Path(path), items)


def read_unit_utterances(path: str | Path) -> list[UnitUtterance]:
    """Read a manifest of :class:`UnitUtterance`. Raises ValueError naming file, line and field."""
    return _read(Path(path), _unit_utterance)


def write_unit_utterances(path: str | Path, items: Iterable[UnitUtterance]) -> None:
    """Write a manifest of :class:`UnitUtterance`. Raises ValueError for duplicate ids."""
    _write(Path(path), items)


def audio_path(manifest_path: str | Path, audio: str) -> Path:
    """Return the audio file that a manifest names (absolute paths are left as they are)."""
    return Path(manifest_path).parent / audio


def to_cuts(utterances: Sequence[Utterance], manifest_path: str | Path) -> CutSet:
    """Return the utterances as a lhotse ``CutSet`` (split, word ends and relative path travel as custom fields).

    Args:
        utterances: What to convert.
        manifest_path: The manifest they come from; audio paths are relative to its folder.

    Raises:
        FileNotFoundError: An audio file is missing.
    """
    from lhotse import CutSet, Recording, SupervisionSegment

    cuts = []
    for item in utterances:
        recording = Recording.from_file(audio_path(manifest_path, item.audio), recording_id=item.id)
        custom: dict[str, object] = {"split": item.split, "audio": item.audio}
        if item.word_ends_s is not None:
            custom["word_ends_s"] = list(item.word_ends_s)
        if item.written is not None:
            custom["written"] = item.written
        supervision = SupervisionSegment(
            id=item.id,
            recording_id=item.id,
            start=0.0,
            duration=recording.duration,
            text=item.text,
            speaker=item.speaker,
            custom=custom,
        )
        cut = recording.to_cut()
        cut.id = item.id
        cut.supervisions = [supervision]
        cuts.append(cut)
    return CutSet.from_cuts(cuts)


def from_cuts(cuts: CutSet) -> list[Utterance]:
    """Return the utterances of a lhotse ``CutSet``: one per cut, the inverse of :func:`to_cuts`.

    Cuts made elsewhere need one supervision each; their audio path is the recording's own.

    Raises:
        ValueError: A cut has no supervision or more than one.
    """
    utterances = []
    for cut in cuts:
        if len(cut.supervisions) != 1:
            raise ValueError(
                f"cut {cut.id}: expected one supervision, found {len(cut.supervisions)}; call trim_to_supervisions()"
            )
        (supervision,) = cut.supervisions
        custom = supervision.custom or {}
        ends = custom.get("word_ends_s")
        utterances.append(
            Utterance(
                id=cut.id,
                audio=custom.get("audio") or str(cut.recording.sources[0].source),
                text=supervision.text,
                speaker=supervision.speaker or "unknown",
                duration_s=round(cut.duration, 4),
                split=custom.get("split", "train"),
                word_ends_s=tuple(ends) if ends is not None else None,
                written=custom.get("written"),
            )
        )
    return utterances


def write_shar(
    utterances: Sequence[Utterance], manifest_path: str | Path, folder: str | Path, shard_size: int = 1000
) -> list[Path]:
    """Write the utterances as a lhotse Shar folder (sequential tar shards, for large corpora and slow disks).

    Returns:
        The files written. Read them with ``lhotse.CutSet.from_shar(in_dir=folder)``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = to_cuts(utterances, manifest_path).to_shar(folder, fields={"recording": "flac"}, shard_size=shard_size)
    return sorted(Path(path) for paths in written.values() for path in paths)


def _utterance(row: JsonObject) -> Utterance:
    _check_fields(row, Utterance)
    if row.get("word_ends_s") is not None:
        row["word_ends_s"] = _numbers(row, "word_ends_s", float)
    return Utterance(**row)


def dialogue_of_row(row: JsonObject) -> Dialogue:
    """The dialogue of a line of a manifest. Raises ValueError naming the field."""
    _check_fields(row, Dialogue)
    if not isinstance(row["turns"], list):
        raise ValueError(f"turns: expected a list, found {type(row['turns']).__name__}")
    turns = []
    for index, turn in enumerate(row["turns"]):
        try:
            _check_fields(turn, Turn)
            turns.append(Turn(**turn))
        except ValueError as error:
            raise ValueError(f"turns[{index}].{error}") from error
    return Dialogue(**{**row, "turns": tuple(turns)})


def _unit_utterance(row: JsonObject) -> UnitUtterance:
    _check_fields(row, UnitUtterance)
    for name in ("units", "durations_frames", "word_of_unit"):
        row[name] = _numbers(row, name, int)
    return UnitUtterance(**row)


def _check_fields(row: object, kind: type) -> None:
    if not isinstance(row, dict):
        raise ValueError(f"{kind.__name__}: expected a JSON object, found {type(row).__name__}; write one per line")
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]
    unknown = sorted(set(row) - set(fields))
    if unknown:
        raise ValueError(f"{unknown[0]}: unknown field of {kind.__name__}, expected one of {', '.join(fields)}")
    required = [name for name in fields if name not in kind.__dict__]
    missing = [name for name in required if name not in row]
    if missing:
        raise ValueError(f"{missing[0]}: required field of {kind.__name__} is missing; add it")


def _numbers(row: JsonObject, name: str, number: type[Number]) -> tuple[Number, ...]:
    values = row[name]
    kinds = (int,) if number is int else (int, float)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, kinds) for v in values):
        raise ValueError(f"{name}: expected a list of {number.__name__}, found {str(values)[:60]}")
    return tuple(number(value) for value in values)


def _require_text(item: object, *names: str) -> None:
    for name in names:
        value = getattr(item, name)
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name}: expected text that is not empty, found {value!r}; fill it in")


def _require_duration(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}: expected a duration above 0 s, found {value!r}; measure the audio again")


def _read(path: Path, parse: Callable[[JsonObject], Item]) -> list[Item]:
    items: list[Item] = []
    seen: dict[str, int] = {}
    for number, line in text_lines(path):
        try:
            if isinstance(line, ValueError):
                raise line
            item = parse(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{number}: expected one JSON object a line, found {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        name = item.id
        if name in seen:
            raise ValueError(f"{path}:{number}: id: expected unique ids, found {name!r} again (line {seen[name]})")
        seen[name] = number
        items.append(item)
    return items


def _write(path: Path, items: Iterable[Utterance] | Iterable[Dialogue] | Iterable[UnitUtterance]) -> None:
    """Write through a temporary file, so that a reader never finds a part of a manifest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as out:
            for item in items:
                if item.id in seen:
                    raise ValueError(f"{path}: id: expected unique ids, found {item.id!r} twice; rename one")
                seen.add(item.id)
                out.write(json.dumps(row_of(item), ensure_ascii=False) + "\n")
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def row_of(item: Utterance | Dialogue | UnitUtterance) -> JsonObject:
    """The line of an item in a manifest, as a JSON object."""
    return _compact(asdict(item))  # type: ignore[return-value]  # of a dict comes a dict


def _compact(value: object) -> object:
    """Drop the fields that are None, and round times to a tenth of a millisecond."""
    if isinstance(value, dict):
        return {key: _compact(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, (list, tuple)):
        return [_compact(entry) for entry in value]
    return round(value, 4) if isinstance(value, float) else value
