"""The base of all corpora: read items, fix and check them, write manifests; resumable, with provenance.

A corpus declares its source and the layout of its files; the rest is here:

    corpus = open_corpus("librispeech")          # echox.data.corpora.public.catalog
    corpus.download(folder)                      # if the licence allows it; resumes
    prepared = corpus.prepare(folder, output)    # utterances.jsonl, dialogues.jsonl, provenance.json
    corpus.validate(output)

A damaged item is refused by file and line; with ``keep_going`` it is left out and listed in ``damaged.jsonl``.
Source: the four verbs (download, prepare, fix, validate) follow lhotse's recipes, https://lhotse.readthedocs.io.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from echox.audio import load_audio
from echox.data.corpora.fetch import fetch_hub, fetch_url
from echox.data.manifest import (
    Dialogue,
    Turn,
    Utterance,
    audio_path,
    read_dialogues,
    read_utterances,
    write_dialogues,
    write_utterances,
)
from echox.files import JsonObject, journal_entries, open_journal, stamp, write_lines, write_text

SAMPLING_RATE = 16_000
MAX_HELD_OUT = 500


@dataclass(frozen=True)
class Provenance:
    """Source and licence of a corpus.

    Attributes:
        title: Name as its authors write it.
        homepage: Page that describes it.
        licence: As stated there, or "not stated".
        hub_id: Dataset repository on the Hugging Face hub, if there is one.
        patterns: Files of that repository that are needed; empty: all.
        urls: Files on other servers.
        sha256: Checksum of each of `urls`, if their makers do not change them; else empty.
        languages: ISO 639-1 codes.
        speech: "read" by people, "spoken" freely, "synthetic", or "none: texts".
    """

    title: str
    homepage: str
    licence: str
    hub_id: str | None = None
    patterns: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    sha256: tuple[str, ...] = ()
    languages: tuple[str, ...] = ("en",)
    speech: str = "synthetic"


@dataclass(frozen=True)
class Row:
    """One item as it is stored in the files of the corpus.

    Attributes:
        place: File (relative to the folder of the corpus) and line or number, "dev/transcripts.txt:3".
        value: Its content; a ValueError if it could not be read.
        folder: Audio paths in it are relative to this folder.
    """

    place: str
    value: Any
    folder: Path


@dataclass(frozen=True)
class CorpusTurn:
    """An utterance, or one turn of a dialogue: text, audio or both.

    Attributes:
        text: Transcript or text to speak.
        audio: A file, or an audio file's bytes.
        role: "user" or "assistant" in a dialogue.
        speaker: Name of the voice.
        units: Reduced units, if the corpus has them instead of audio.
    """

    text: str | None
    audio: Path | bytes | None = None
    role: str = "user"
    speaker: str = "unknown"
    units: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CorpusItem:
    """One parsed item: an utterance (one turn) or a dialogue (several)."""

    id: str
    turns: tuple[CorpusTurn, ...]
    split: str = "train"


@dataclass
class Prepared:
    """The result of `Corpus.prepare`: counts, hours of audio, and damaged items.

    Attributes:
        held_out: Items of other splits than "train".
    """

    utterances: int = 0
    dialogues: int = 0
    held_out: int = 0
    hours: float = 0.0
    damaged: list[dict[str, str]] = field(default_factory=list)


class Corpus(ABC):
    """A corpus in its own layout. Subclasses define `rows` and `parse`, and may define `fix`."""

    name: str
    provenance: Provenance

    @abstractmethod
    def rows(self, folder: Path) -> Iterator[Row]:
        """Items of ``folder``, in a fixed order."""

    @abstractmethod
    def parse(self, row: Row) -> CorpusItem:
        """Parse one item. Raises ValueError (expected, found) for a damaged one."""

    def fix(self, text: str) -> str:
        """The corrected text: single spaces."""
        return " ".join(text.split())

    def download(self, folder: str | Path) -> None:
        """Fetch the corpus into ``folder``; continues where it stopped. Archives are unpacked by `prepare`.

        Raises:
            ValueError: the corpus has no public source.
            ConnectionError: the source cannot be reached.
        """
        origin = self.provenance
        if not origin.hub_id and not origin.urls:
            raise ValueError(f"{self.name}: expected a public source, found none; see {origin.homepage}")
        for url, sha256 in zip(origin.urls, origin.sha256 or [None] * len(origin.urls), strict=True):
            fetch_url(url, Path(folder) / url.rsplit("/", 1)[-1], sha256=sha256)
        if origin.hub_id:
            fetch_hub(origin.hub_id, Path(folder), origin.patterns)

    def prepare(
        self,
        folder: str | Path,
        output: str | Path,
        keep_going: bool = False,
        limit: int | None = None,
        hold_out: float = 0.01,
    ) -> Prepared:
        """Read the corpus, check every item, write manifests.

        Called again, after an interruption or with other texts, it measures only audio that is new or has changed.

        Args:
            folder: The corpus.
            output: Folder of the manifests (and of audio that is stored inside other files).
            keep_going: Leave damaged items out and list them, instead of refusing the corpus.
            limit: Read at most this many items.
            hold_out: Share of the items that becomes split "heldout" if the corpus has no split but "train"
                (`hold_out_items`); 0: none.

        Raises:
            ValueError: no items, the first damaged one or a repeated id, by file and line.
        """
        if not 0 <= hold_out < 1:
            raise ValueError(f"hold_out: expected a part from 0 to below 1, found {hold_out}")
        folder, output = Path(folder), Path(output)
        if not folder.is_dir():
            raise ValueError(f"{folder}: expected the folder of {self.provenance.title}, found none; download it first")
        output.mkdir(parents=True, exist_ok=True)
        journal = output / ".prepared.jsonl"
        done = {entry["place"]: entry for entry in journal_entries(journal)}
        entries: list[JsonObject] = []
        places: dict[str, str] = {}
        prepared = Prepared()
        with open_journal(journal) as log:
            for count, row in enumerate(self.rows(folder)):
                if limit is not None and count >= limit:
                    break
                known = done.get(row.place, {})
                try:
                    entry = {"place": row.place, **self._entry(row, output, known)}
                    if entry != known:
                        log.write(json.dumps(entry, ensure_ascii=False) + "\n")
                        log.flush()
                    _claim_names(entry, places)
                except ValueError as error:
                    if not keep_going:
                        raise ValueError(f"{folder / row.place}: {error}") from error
                    prepared.damaged.append({"place": row.place, "reason": str(error)})
                    continue
                entries.append(entry)
        if not entries and not prepared.damaged:
            raise ValueError(f"{folder}: expected {self.provenance.title}, found no item; is it the right folder?")
        if hold_out and all(entry["split"] == "train" for entry in entries):
            entries = hold_out_items(entries, hold_out)
        self._write(entries, output, prepared)
        return prepared

    def validate(self, output: str | Path) -> int:
        """Check that manifests and audio agree. Returns the number of recordings.

        Raises:
            ValueError: a manifest is damaged, or a recording is missing or has another duration.
        """
        path = Path(output) / "utterances.jsonl"
        items = read_utterances(path)
        for item in items:
            found = _duration_s(audio_path(path, item.audio))
            if abs(found - item.duration_s) > 0.01:
                raise ValueError(f"{path}: {item.id}: expected {item.duration_s:g} s of audio, found {found:g} s")
        if (Path(output) / "dialogues.jsonl").exists():
            read_dialogues(Path(output) / "dialogues.jsonl")
        return len(items)

    def _entry(self, row: Row, output: Path, known: JsonObject) -> JsonObject:
        """One journal entry: the item with its audio measured and, where needed, stored.

        Args:
            row: the item as it is now.
            output: folder of the manifests.
            known: the entry of its place before, whose audio is not measured again where it is the same; {}: none.
        """
        if isinstance(row.value, ValueError):
            raise row.value
        found = self.parse(row)
        said, stamps = [], [None if part.audio is None else _audio_stamp(part.audio) for part in found.turns]
        same = known.get("id") == found.id and len(known.get("stamps", ())) == len(stamps)
        for index, part in enumerate(found.turns):
            text = self.fix(part.text) if part.text else None
            audio, duration_s = None, None
            before = known["said"][index] if same and known["stamps"][index] == stamps[index] else None
            if part.audio is not None and before is not None and (output / before["audio"]).is_file():
                audio, duration_s = before["audio"], before["duration_s"]
            elif part.audio is not None:
                path = part.audio if isinstance(part.audio, Path) else self._store(part.audio, output, found.id, index)
                duration_s = round(_duration_s(path), 4)
                audio = os.path.relpath(path.resolve(), output.resolve())
            if not text and not audio:
                raise ValueError("expected text or audio, found neither")
            said.append(
                {
                    "role": part.role,
                    "text": text,
                    "audio": audio,
                    "duration_s": duration_s,
                    "speaker": part.speaker,
                    "units": None if part.units is None else list(part.units),
                }
            )
        return {"id": found.id, "split": found.split, "said": said, "stamps": stamps}

    def _store(self, content: bytes, output: Path, name: str, index: int) -> Path:
        suffix = {b"RIFF": ".wav", b"fLaC": ".flac", b"OggS": ".ogg"}.get(content[:4], ".mp3")
        path = output / "audio" / f"{safe_name(name)}-{index}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        partial.write_bytes(content)
        partial.replace(path)
        return path

    def _write(self, entries: Sequence[JsonObject], output: Path, prepared: Prepared) -> None:
        utterances, dialogues, units = [], [], []
        for entry in entries:
            several = len(entry["said"]) > 1
            prepared.held_out += entry["split"] != "train"
            for part, name in zip(entry["said"], _names(entry), strict=True):
                if part["audio"] and part["text"]:
                    fields = {key: part[key] for key in ("audio", "text", "speaker", "duration_s")}
                    utterances.append(Utterance(id=name, split=entry["split"], **fields))
                    prepared.hours += part["duration_s"] / 3600
                if part["units"] is not None:
                    units.append({"id": name, "text": part["text"], "units": part["units"], "split": entry["split"]})
            if several:
                turns = tuple(Turn(**{k: v for k, v in part.items() if k != "units"}) for part in entry["said"])
                dialogues.append(Dialogue(entry["id"], turns, entry["split"]))
        write_utterances(output / "utterances.jsonl", utterances)
        if dialogues:
            write_dialogues(output / "dialogues.jsonl", dialogues)
        else:
            (output / "dialogues.jsonl").unlink(missing_ok=True)  # of what the corpus was before
        for name, rows in (("units.jsonl", units), ("damaged.jsonl", prepared.damaged)):
            if rows:
                write_lines(output / name, rows)
            else:
                (output / name).unlink(missing_ok=True)
        prepared.utterances, prepared.dialogues = len(utterances), len(dialogues)
        record = {
            "corpus": self.name,
            **asdict(self.provenance),
            "utterances": len(utterances),
            "dialogues": len(dialogues),
            "held_out": prepared.held_out,
            "hours": round(prepared.hours, 3),
            "damaged": len(prepared.damaged),
        }
        write_text(output / "provenance.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def hold_out_items(entries: Sequence[JsonObject], part: float) -> list[JsonObject]:
    """The entries, with about this share of them in split "heldout"; of fewer than 10 none.

    The choice depends on the first spoken text only: a question and its repetitions get the same split, and the split
    does not change when the corpus is read again. At most `MAX_HELD_OUT` entries, as evaluations read no more.
    """
    by_text: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        text = next((said["text"] for said in entry["said"] if said["role"] != "system" and said["text"]), entry["id"])
        by_text.setdefault(" ".join(text.casefold().split()), []).append(index)
    wanted = 0 if len(entries) < 10 else min(max(1, round(part * len(entries))), MAX_HELD_OUT)
    chosen: set[int] = set()
    for text in sorted(by_text, key=lambda text: hashlib.sha256(text.encode()).digest()):
        if len(chosen) >= wanted:
            break
        if len(chosen) + len(by_text[text]) <= wanted:
            chosen.update(by_text[text])
    return [{**entry, "split": "heldout"} if index in chosen else entry for index, entry in enumerate(entries)]


def identifier(value: object, default: str) -> str:
    """An id, name or split of a row as text; the default if it has none. 0 is an id like any other."""
    return default if value is None or value == "" else str(value)


def _audio_stamp(audio: Path | bytes) -> str:
    """Of a file its size and time, of bytes their digest: another one when the sound is another one."""
    return hashlib.sha256(audio).hexdigest() if isinstance(audio, bytes) else stamp(audio)


def _names(entry: JsonObject) -> list[str]:
    """Ids of the utterances of an entry: its own, with a number if there are several."""
    several = len(entry["said"]) > 1
    return [f"{entry['id']}.{index}" if several else entry["id"] for index in range(len(entry["said"]))]


def _claim_names(entry: JsonObject, places: dict[str, str]) -> None:
    """Record the place of an entry's ids. Raises ValueError for an id that another place has already."""
    names = {entry["id"], *_names(entry)}
    taken = next((name for name in sorted(names) if name in places), None)
    if taken is not None:
        raise ValueError(f"id: expected unique ids, found {taken!r} again (first in {places[taken]}); rename one")
    places |= dict.fromkeys(names, entry["place"])


def require(row: Row, key: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field of a JSON row. Raises ValueError if it is missing, empty or of another type."""
    value = row.value.get(key) if isinstance(row.value, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, (str, list)) and not value):
        names = "/".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{key}: expected {names} that is not empty, found {str(value)[:60]!r}")
    return value


def existing(path: Path) -> Path:
    """The path. Raises ValueError if there is no such file."""
    if not path.is_file():
        raise ValueError(f"expected the audio file {path}, found none; is the corpus complete?")
    return path


def safe_name(name: str) -> str:
    """A file name for an id."""
    return re.sub(r"[^\w.+-]", "_", name)


def _duration_s(path: Path) -> float:
    """Seconds of audio, decoded to the end: the header of a truncated file is wrong."""
    return len(load_audio(existing(path), SAMPLING_RATE)) / SAMPLING_RATE
