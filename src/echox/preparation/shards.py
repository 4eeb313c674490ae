"""Writes shards of clips with their units in workers; and hashes of content, to compare two outputs.

Layout: ``shards/<split>/cuts.000000.jsonl.gz`` and ``recording.000000.tar`` (FLAC), as lhotse reads them with
``CutSet.from_shar(in_dir=...)``. Units and unit words are custom fields of each cut's supervision.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import tarfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from echox.data.corpora.base import safe_name
from echox.data.manifest import Utterance, to_cuts
from echox.files import JsonObject
from echox.preparation.settings import Shards

if TYPE_CHECKING:
    from lhotse import MonoCut

Row = JsonObject
FOLDER = "shards"
_FIELDS = ("units", "durations_frames", "word_of_unit")


@dataclass(frozen=True)
class ShardSettings:
    """Folder of the output, settings of the shards, and folder of the unit language to apply (or None)."""

    output: Path
    shards: Shards
    language: str | None


class WriteShard:
    """Writes one shard per row: ``{"id", "split", "number", "clips"}``."""

    def __init__(self, settings: ShardSettings) -> None:
        self.settings = settings
        self.language = None
        if settings.language is not None:
            from echox.models.unit_language.tokenization_auto import AutoUnitLanguage

            self.language = AutoUnitLanguage.from_pretrained(settings.language)

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """Per shard: its files with the hash of their content, and the unit words of its clips."""
        return [self._write(row) for row in rows]

    def _write(self, row: Row) -> Row:
        words = {clip["id"]: self._unit_words(clip) for clip in row["clips"]}
        cuts = to_cuts([utterance_of(clip) for clip in row["clips"]], self.settings.output / "utterances.jsonl")
        rate = self.settings.shards.sampling_rate
        ready = []
        for cut, clip in zip(cuts, row["clips"], strict=True):
            custom = cut.supervisions[0].custom
            custom |= {name: clip[name] for name in _FIELDS if name in clip}
            if words[clip["id"]] is not None:
                custom["unit_words"] = words[clip["id"]]
            ready.append(cut if cut.sampling_rate == rate else cut.resample(rate))
        files = write_shard(ready, self.settings.output, FOLDER, row["split"], row["number"])
        found = [[name, value] for name, value in words.items() if value is not None]
        return {"id": row["id"], "files": files, "unit_words": found}

    def _unit_words(self, clip: Row) -> list[int] | None:
        if self.language is None:
            return None
        return [int(word) for word in self.language.encode_words(clip["units"], clip["word_of_unit"])[0]]


def shard_folder(output: Path, kind: str, split: str) -> Path:
    """The folder of the shards of a kind and split."""
    return output / kind / safe_name(split)


def write_shard(cuts: Sequence[MonoCut], output: Path, kind: str, split: str, number: int) -> dict[str, str]:
    """Write one shard, complete or not at all; its files, relative to the output, with the hash of their content."""
    from lhotse import CutSet

    folder = shard_folder(output, kind, split)
    partial = folder / f".{number:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    CutSet.from_cuts(cuts).to_shar(partial, fields={"recording": "flac"}, shard_size=len(cuts))
    files = {}
    for name in ("cuts.{}.jsonl.gz", "recording.{}.tar"):
        target = folder / name.format(f"{number:06d}")
        (partial / name.format("000000")).replace(target)
        files[str(target.relative_to(output))] = content_hash(target)
    shutil.rmtree(partial)
    return files


def drop_other_files(folder: Path, files: Collection[str], output: Path) -> None:
    """Remove shards that are not among `files` (relative to the output): of an earlier run with more items."""
    for path in folder.glob("*/*.*"):
        if path.is_file() and str(path.relative_to(output)) not in files:
            path.unlink()


def utterance_of(clip: Row) -> Utterance:
    """The manifest entry of a kept clip."""
    ends = clip["word_ends_s"]
    return Utterance(
        clip["id"],
        clip["audio"],
        clip["text"],
        clip["speaker"],
        clip["duration_s"],
        clip["split"],
        None if ends is None else tuple(ends),
        clip.get("written"),
    )


def shards_hold(output: Path, results: Sequence[Row]) -> bool:
    """Whether the files that journaled results name exist unchanged."""
    for result in results:
        for name, digest in result["files"].items():
            path = output / name
            if not path.is_file() or content_hash(path, default="damaged") != digest:
                return False
    return True


def content_hash(path: Path, default: str | None = None) -> str:
    """SHA-256 of a file's content: of a gzip file the unpacked bytes, of a tar the names and bytes of its members.

    Compressed files and tars also hold times and names of their creation, which are not content.

    Raises:
        OSError, EOFError, tarfile.TarError: the file is damaged, and no ``default`` is given.
    """
    digest = hashlib.sha256()
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as file:
                digest.update(file.read())
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                for member in tar:
                    content = tar.extractfile(member)
                    digest.update(member.name.encode() + b"\0")
                    digest.update(content.read() if content is not None else b"")
        else:
            digest.update(path.read_bytes())
    except (OSError, EOFError, tarfile.TarError):
        if default is None:
            raise
        return default
    return digest.hexdigest()


def output_hash(files: dict[str, str]) -> str:
    """One hash of a whole output: of the names and content hashes of all files, sorted."""
    return hashlib.sha256(json.dumps(sorted(files.items())).encode()).hexdigest()
