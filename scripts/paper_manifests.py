"""Manifests between the corpora and the stages of the 3B and 8B models.

    python scripts/paper_manifests.py recognition out/paper/librispeech
    python scripts/paper_manifests.py replies out/paper/replies out/paper/audioqa out/paper/hh-rlhf-speech

`recognition` makes dialogues of recordings ("write down what is said"): dialogues.jsonl beside utterances.jsonl.
`replies` gathers the assistants' recordings of several corpora into one utterances.jsonl; audio stays where it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from echox.data.manifest import Dialogue, Turn, audio_path, read_utterances, write_dialogues, write_utterances

INSTRUCTION = "Write down what the user says, word for word."
"""Ours: the paper trains stage I on recognition too and does not say with which prompt."""


def recognition(folder: Path) -> int:
    """Write dialogues.jsonl of an imported corpus of recordings; return the number of dialogues."""
    dialogues = [
        Dialogue(
            item.id,
            (
                Turn("system", INSTRUCTION),
                Turn("user", item.text, item.audio, item.duration_s, item.speaker),
                Turn("assistant", item.text),
            ),
            item.split,
            topic="recognition",
        )
        for item in read_utterances(folder / "utterances.jsonl")
    ]
    write_dialogues(folder / "dialogues.jsonl", dialogues)
    return len(dialogues)


def replies(output: Path, corpora: Sequence[Path]) -> int:
    """Write utterances.jsonl of all replies of assistants; return the number of utterances.

    Raises:
        ValueError: a corpus has none.
    """
    gathered = []
    for folder in corpora:
        source, before = folder / "utterances.jsonl", len(gathered)
        for item in read_utterances(source):
            if item.speaker.rpartition("/")[2] == "assistant":
                audio = os.path.relpath(audio_path(source, item.audio), output)
                gathered.append(dataclasses.replace(item, id=f"{folder.name}/{item.id}", audio=audio))
        if len(gathered) == before:
            raise ValueError(
                f"{source}: expected recordings of speakers named .../assistant, found none; import the corpus "
                "again, or leave it out if it has no recordings"
            )
    write_utterances(output / "utterances.jsonl", gathered)
    return len(gathered)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("recognition").add_argument("folder", type=Path)
    gather = commands.add_parser("replies")
    gather.add_argument("output", type=Path)
    gather.add_argument("corpora", type=Path, nargs="+")
    options = parser.parse_args(arguments)
    if options.command == "recognition":
        print(f"{options.folder}: {recognition(options.folder)} dialogues")
    else:
        print(f"{options.output}: {replies(options.output, options.corpora)} utterances")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
