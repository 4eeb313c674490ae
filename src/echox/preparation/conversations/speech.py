"""Stage "spoken_replies": the replies of dialogues in one voice, with the end of each word: what units and T2C need."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from echox.config import dump_recipe, recipe
from echox.data.engines.engine import Voice
from echox.data.manifest import Turn, Utterance, read_dialogues, write_utterances
from echox.data.synthesis import SpeechJob, speak_all

log = logging.getLogger(__name__)

# Used to plan sizes before anything is spoken; measured on Piper's joe.
_SECONDS_PER_WORD = 0.36
_SECONDS_AROUND = 0.4


@recipe("spoken_replies")
@dataclass
class SpokenRepliesRecipe:
    """Recipe of stage "spoken_replies" (it has `run`, not `build`).

    Attributes:
        dialogues: manifest with replies (stage "replies").
        output: manifest of utterances to write; the audio goes into a folder of its name beside it.
        voice: "engine/name".
        hours: as many of the first replies as will last about so long; null: all.
        min_words: of a reply that is spoken.
        workers: processes; null: one per CPU.
    """

    stage: str
    dialogues: str
    output: str
    voice: str
    hours: float | None = None
    min_words: int = 1
    workers: int | None = None

    def run(self) -> dict[str, float]:
        """Writes the manifest; returns hours, count and cost. Finished replies are not spoken again.

        Raises:
            ValueError: the dialogues cannot be read, or the voice cannot speak one of them.
        """
        began_s = time.monotonic()
        engine, _, name = self.voice.partition("/")
        voice = Voice(engine, name)
        output = Path(self.output)
        lines = self._lines()
        jobs = [
            SpeechJob(line_id, turn.text or "", voice, str(output.with_suffix("") / f"{line_id}.wav"))
            for line_id, turn, _ in lines
        ]
        journal = output.with_name(f".{output.stem}_journal.jsonl")
        utterances = [
            Utterance(
                line_id,
                f"{output.stem}/{line_id}.wav",
                turn.text or "",
                voice.speaker,
                spoken.duration_s,
                split,
                spoken.word_ends_s,
                turn.written,
            )
            for (line_id, turn, split), spoken in zip(lines, speak_all(jobs, journal, self.workers), strict=True)
        ]
        write_utterances(output, utterances)
        dump_recipe(self, output.with_suffix(".yaml"))
        hours = sum(item.duration_s for item in utterances) / 3600
        figures = {"utterances": float(len(utterances)), "hours": hours, "wall_s": time.monotonic() - began_s}
        log.info("%s: %s", output, figures)
        return figures

    def _lines(self) -> list[tuple[str, Turn, str]]:
        """(id, reply, split) of each different text, in the order of the dialogues."""
        lines: dict[str, tuple[str, Turn, str]] = {}
        left_s = float("inf") if self.hours is None else self.hours * 3600
        for dialogue in read_dialogues(self.dialogues):
            for place, turn in enumerate(dialogue.turns):
                text = turn.text or ""
                if turn.role != "assistant" or text in lines or len(text.split()) < self.min_words:
                    continue
                left_s -= _SECONDS_AROUND + _SECONDS_PER_WORD * len(text.split())
                if left_s < 0:
                    return list(lines.values())
                lines[text] = (f"{dialogue.id}.{place}", turn, dialogue.split)
        return list(lines.values())
