"""Writes shards of dialogues in workers, as stages "s2t" and "echo" read them; see `echox.data.shards.dialogues`.

Layout: ``dialogue_shards/<split>/cuts.000000.jsonl.gz``, ``recording.000000.tar`` (FLAC), and beside the folder of each
split its index.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

from echox.audio import load_audio
from echox.data.manifest import Dialogue, dialogue_of_row, row_of
from echox.data.sampling import in_chunks
from echox.data.shards.dialogues import dialogue_cut, index_dialogues
from echox.data.shards.index import INDEX_SUFFIX
from echox.files import JsonObject, stamp
from echox.preparation.execute import Workers, stage_results
from echox.preparation.settings import Shards
from echox.preparation.shards import drop_other_files, shard_folder, shards_hold, write_shard

Row = JsonObject
FOLDER = "dialogue_shards"


class WriteDialogueShard:
    """Writes one shard per row: ``{"id", "split", "number", "dialogues"}``, in a folder of the output."""

    def __init__(self, output: Path, shards: Shards) -> None:
        self.output, self.shards = output, shards

    def __call__(self, rows: Sequence[Row]) -> list[Row]:
        """Per shard: its files with the hash of their content."""
        return [self._write(row) for row in rows]

    def _write(self, row: Row) -> Row:
        rate = self.shards.sampling_rate
        cuts = []
        for dialogue in map(dialogue_of_row, row["dialogues"]):
            heard = {turn: str(dialogue.turns[turn].audio) for turn in dialogue.heard_turns}
            waveforms = {turn: load_audio(self.output / audio, rate) for turn, audio in heard.items()}
            cuts.append(dialogue_cut(dialogue, waveforms, rate))
        return {"id": row["id"], "files": write_shard(cuts, self.output, FOLDER, row["split"], row["number"])}


def write_dialogue_shards(
    dialogues: Sequence[Dialogue], shards: Shards, workers: Workers, output: Path
) -> dict[str, str]:
    """Shards and index of each split; the order of dialogues depends on their ids only. Hashes of the files, by name.

    Args:
        dialogues: whose audio is named relative to `output`.
        shards: their size and rate.
        workers: which write them.
        output: folder of the pipeline.
    """
    splits: dict[str, list[Row]] = {}
    for dialogue in sorted(dialogues, key=lambda item: hashlib.sha256(item.id.encode()).digest()):
        splits.setdefault(dialogue.split, []).append(row_of(dialogue))
    chunks = [
        [
            {
                "id": f"{split}/{number:06d}",
                "split": split,
                "number": number,
                "dialogues": part,
                "recordings": [
                    stamp(output / turn["audio"]) for row in part for turn in row["turns"] if "audio" in turn
                ],
                "expected_s": sum(turn.get("duration_s", 0.0) for row in part for turn in row["turns"]),
            }
        ]
        for split, items in sorted(splits.items())
        for number, part in enumerate(in_chunks(items, shards.size))
    ]
    results = stage_results(
        FOLDER,
        functools.partial(WriteDialogueShard, output, shards),
        shards,
        chunks,
        workers,
        output / ".work" / f"{FOLDER}.jsonl",
        functools.partial(shards_hold, output),
    )
    files = {name: digest for result in results for name, digest in result["files"].items()}
    drop_other_files(output / FOLDER, files, output)
    for path in (output / FOLDER).glob(f"*{INDEX_SUFFIX}"):
        path.unlink()
    for split in splits:
        index_dialogues(str(shard_folder(output, FOLDER, split)))
    return files
