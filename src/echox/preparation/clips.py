"""Clips, the items of the pipeline: one utterance each, from manifests of recordings or dialogues, or from shards."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from echox.data.corpora.layouts import unpack
from echox.data.manifest import Dialogue, audio_path, read_dialogues, read_utterances
from echox.files import JsonObject
from echox.models.text.word_breaks import split_words
from echox.preparation.settings import Input

# To plan with before anything is spoken; measured on nano's corpus.
_SECONDS_PER_WORD, _SECONDS_AROUND = 0.22, 0.8


@dataclass(frozen=True)
class Clip:
    """One utterance, with audio or still to be spoken.

    Attributes:
        id: Unique over all inputs.
        text: As written.
        audio: Absolute path; None: to be spoken.
        group: Dialogue it belongs to, kept or dropped as a whole; its own id otherwise.
        role: "user" or "assistant"; it decides the voice.
        word_ends_s: End of each whitespace word of ``text``; None: not known.
        written: As in the manifests: ``text`` before its figures became words.
    """

    id: str
    text: str
    audio: str | None
    group: str
    role: str = "user"
    speaker: str = "unknown"
    split: str = "train"
    duration_s: float | None = None
    word_ends_s: tuple[float, ...] | None = None
    written: str | None = None

    @property
    def expected_s(self) -> float:
        """Seconds of audio, measured or from the number of words."""
        return self.duration_s or _SECONDS_AROUND + _SECONDS_PER_WORD * len(split_words(self.text))

    def row(self) -> JsonObject:
        """The clip as a JSON object."""
        return {**asdict(self), "expected_s": self.expected_s}


@dataclass(frozen=True)
class Dropped:
    """A clip that is not kept, with the reason and its duration (0: unknown)."""

    id: str
    reason: str
    detail: str = ""
    duration_s: float = 0.0


@dataclass
class Clips:
    """All inputs: clips in order of their ids, the dialogues they are part of, and the clips that could not be read."""

    clips: list[Clip]
    dialogues: list[Dialogue]
    dropped: list[Dropped]


def read_inputs(inputs: list[Input], output: Path, speaking: Collection[str] = ("user", "assistant")) -> Clips:
    """Read all inputs; audio inside shards is unpacked under ``output``.

    Args:
        inputs: sources to read.
        output: folder of the pipeline.
        speaking: roles whose turns without audio are to be spoken; such turns of other roles stay text.

    Raises:
        ValueError: a manifest is damaged, or an id occurs twice.
    """
    found = Clips([], [], [])
    for source in inputs:
        if source.utterances is not None:
            found.clips += _of_utterances(Path(source.utterances), source)
        elif source.dialogues is not None:
            for clip, dialogue in _of_dialogues(Path(source.dialogues), source.prefix, speaking):
                found.clips += clip
                found.dialogues.append(dialogue)
        else:
            shards = Path(str(source.shards))
            name = hashlib.sha256(str(shards.resolve()).encode()).hexdigest()[:12]
            _of_shards(shards, output / "unpacked" / name, source, found)
    found.clips.sort(key=lambda clip: clip.id)
    for one, two in zip(found.clips, found.clips[1:], strict=False):
        if one.id == two.id:
            raise ValueError(f"inputs: expected unique ids, found {one.id!r} twice; give one input a prefix")
    return found


def _of_utterances(path: Path, source: Input) -> Iterator[Clip]:
    prefix = source.prefix
    for item in read_utterances(path):
        audio = str(audio_path(path, item.audio).resolve())
        yield Clip(
            prefix + item.id,
            item.text,
            audio,
            prefix + item.id,
            source.role,
            item.speaker,
            item.split,
            item.duration_s,
            item.word_ends_s,
            item.written,
        )


def _of_dialogues(path: Path, prefix: str, speaking: Collection[str]) -> Iterator[tuple[list[Clip], Dialogue]]:
    for dialogue in read_dialogues(path):
        name = prefix + dialogue.id
        clips = [
            Clip(
                f"{name}.{index}",
                turn.text or "",
                None if turn.audio is None else str(audio_path(path, turn.audio).resolve()),
                name,
                turn.role,
                turn.speaker or "unknown",
                dialogue.split,
                turn.duration_s,
                None,
                turn.written,
            )
            for index, turn in enumerate(dialogue.turns)
            if turn.role != "system" and (turn.audio is not None or turn.role in speaking)
        ]
        yield clips, replace(dialogue, id=name)


def _of_shards(folder: Path, unpacked: Path, source: Input, found: Clips) -> None:
    """Clips of Shar shards. Clips that a truncated shard has lost are dropped one by one, if their names are known."""
    prefix = source.prefix
    shards = sorted(folder.glob("cuts.*.jsonl.gz"))
    if not shards:
        raise ValueError(f"{folder}: expected shards (cuts.000000.jsonl.gz, recording.000000.tar), found none")
    for path in shards:
        archive = folder / path.name.replace("cuts.", "recording.").replace(".jsonl.gz", ".tar")
        rows, problem = _cuts(path)
        if not archive.is_file():
            found.dropped += [_lost(prefix + row["id"], f"{archive.name} is missing", row) for row in rows]
            continue
        ((_, target, cut),) = unpack([archive], unpacked)
        audio = {
            str(file.relative_to(target).with_suffix("")): file
            for file in target.rglob("*")
            if file.suffix in {".flac", ".wav", ".opus"}
        }
        for row in rows:
            file, supervision = audio.pop(row["id"], None), row["supervisions"][0]
            if file is None:
                found.dropped.append(_lost(prefix + row["id"], cut or f"{archive.name} lacks its audio", row))
                continue
            custom = supervision.get("custom") or {}
            ends = custom.get("word_ends_s")
            found.clips.append(
                Clip(
                    prefix + row["id"],
                    supervision["text"],
                    str(file.resolve()),
                    prefix + row["id"],
                    source.role,
                    supervision.get("speaker") or "unknown",
                    custom.get("split", "train"),
                    row["duration"],
                    tuple(ends) if ends else None,
                    custom.get("written"),
                )
            )
        found.dropped += [_lost(prefix + name, problem or f"{path.name} lacks it", None) for name in sorted(audio)]


def _cuts(path: Path) -> tuple[list[JsonObject], str | None]:
    rows: list[JsonObject] = []
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                rows.append(json.loads(line))
    except (EOFError, OSError, zlib.error, json.JSONDecodeError) as error:
        return rows, f"{path.name} is cut after {len(rows)} items ({error})"
    return rows, None


def _lost(name: str, detail: str, row: JsonObject | None) -> Dropped:
    return Dropped(name, "truncated shard", detail, float(row["duration"]) if row else 0.0)
