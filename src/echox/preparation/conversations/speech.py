"""Stages "spoken_replies" and "spoken_questions": dialogues get their sound.

Replies are spoken in one voice, clean, with the end of each word: for units, vocoder and T2C. Questions are spoken by
many voices in many surroundings: for stage I. Some voices are kept for evaluation.
"""

from __future__ import annotations

import logging
import random
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from echox.config import dump_recipe, recipe
from echox.data.engines.engine import Voice
from echox.data.manifest import Dialogue, Turn, Utterance, read_dialogues, write_dialogues, write_utterances
from echox.data.surroundings import SurroundingsConfig, draw_surroundings
from echox.data.synthesis import SpeechJob, SpokenJob, speak_all
from echox.models.text.word_breaks import split_words

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
        voice = Voice.of_speaker(self.voice)
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
                if turn.role != "assistant" or text in lines or len(split_words(text)) < self.min_words:
                    continue
                left_s -= _SECONDS_AROUND + _SECONDS_PER_WORD * len(split_words(text))
                if left_s < 0:
                    return list(lines.values())
                lines[text] = (f"{dialogue.id}.{place}", turn, dialogue.split)
        return list(lines.values())


@recipe("spoken_questions")
@dataclass
class SpokenQuestionsRecipe:
    """Recipe of stage "spoken_questions" (it has `run`, not `build`).

    Attributes:
        dialogues: manifest with replies (stage "replies").
        output: manifest of dialogues to write, whose user turns have audio; the recordings go into a folder of its name
            beside it, and as utterances into ``<name>_utterances.jsonl``.
        voices: "engine/name" and its weight, of dialogues of split "train" and of half of the others.
        new_voices: the same, for the other half of the dialogues that are not of split "train".
        speed, pitch: ranges that a dialogue's tempo and pitch are drawn from, relative to the voice's own.
        surroundings: see :class:`SurroundingsConfig`; one draw for each recording.
        hours: of the recordings of split "train", as far as the dialogues go; null: all dialogues.
        heldout_dialogues: of split "heldout", at most.
        seed: decides voices and surroundings.
        workers: processes; null: one per CPU.
    """

    stage: str
    dialogues: str
    output: str
    voices: dict[str, float]
    new_voices: dict[str, float] = field(default_factory=dict)
    speed: tuple[float, float] = (0.85, 1.2)
    pitch: tuple[float, float] = (0.88, 1.13)
    surroundings: SurroundingsConfig = field(default_factory=SurroundingsConfig)
    hours: float | None = None
    heldout_dialogues: int = 300
    seed: int = 0
    workers: int | None = None

    def __post_init__(self) -> None:
        """Raises: ValueError if there is no voice, or one in both lists."""
        both = sorted(set(self.voices) & set(self.new_voices))
        if not self.voices or both:
            raise ValueError(f"voices: expected voices that are not in new_voices, found {both or 'none'}")

    def run(self) -> dict[str, float]:
        """Writes the manifests; returns hours, counts and cost. Finished recordings are not made again.

        Raises:
            ValueError: the dialogues cannot be read, or a voice cannot speak one of them.
        """
        began_s = time.monotonic()
        output = Path(self.output)
        chosen = self._chosen()
        jobs = [job for dialogue in chosen for job in self._jobs(dialogue, output)]
        journal = output.with_name(f".{output.stem}_journal.jsonl")
        found = dict(zip((job.path for job in jobs), speak_all(jobs, journal, self.workers), strict=True))
        spoken = {job.id: (job, found[job.path]) for job in jobs}
        write_dialogues(output, [_with_audio(dialogue, spoken, output) for dialogue in chosen])
        splits = {dialogue.id: dialogue.split for dialogue in chosen}
        utterances = [
            Utterance(
                job.id,
                f"{output.stem}/{Path(job.path).name}",
                job.text,
                job.voice.speaker,
                result.duration_s,
                splits[job.id.rpartition(".")[0]],
                result.word_ends_s,
            )
            for job, result in spoken.values()
        ]
        write_utterances(output.with_name(f"{output.stem}_utterances.jsonl"), utterances)
        dump_recipe(self, output.with_suffix(".yaml"))
        figures = {
            "dialogues": float(len(chosen)),
            "recordings": float(len(jobs)),
            "hours": sum(item.duration_s for item in utterances) / 3600,
            "wall_s": time.monotonic() - began_s,
        }
        log.info("%s: %s", output, figures)
        return figures

    def _chosen(self) -> list[Dialogue]:
        """The dialogues that are spoken; those held out are in split "heldout_seen_voices" or "heldout_new_voices"."""
        train: list[Dialogue] = []
        held_out: list[Dialogue] = []
        around_s = _SECONDS_AROUND + sum(self.surroundings.lead_s) / 2 + sum(self.surroundings.tail_s) / 2
        left_s = float("inf") if self.hours is None else self.hours * 3600
        for dialogue in read_dialogues(self.dialogues):
            if dialogue.split != "train":
                new = bool(self.new_voices) and len(held_out) % 2 == 1
                split = "heldout_new_voices" if new else "heldout_seen_voices"
                held_out += [replace(dialogue, split=split)] if len(held_out) < self.heldout_dialogues else []
                continue
            texts = [turn.text or "" for turn in dialogue.turns if turn.role == "user"]
            left_s -= sum(around_s + _SECONDS_PER_WORD * len(split_words(text)) for text in texts)
            if left_s >= 0:
                train.append(dialogue)
        return train + held_out

    def _jobs(self, dialogue: Dialogue, output: Path) -> list[SpeechJob]:
        """One for each user turn; all turns of a dialogue have one voice, and each its own surroundings."""
        rng = random.Random(f"{self.seed} {dialogue.id}")
        voices = self.new_voices if dialogue.split == "heldout_new_voices" else self.voices
        (name,) = rng.choices(list(voices), weights=list(voices.values()))
        voice = Voice.of_speaker(name, round(rng.uniform(*self.speed), 3), round(rng.uniform(*self.pitch), 3))
        jobs = []
        for place, turn in enumerate(dialogue.turns):
            if turn.role == "user":
                name = f"{dialogue.id}.{place}"
                path = output.with_suffix("") / f"{name}.wav"
                around = draw_surroundings(rng, self.surroundings)
                jobs.append(SpeechJob(name, turn.text or "", voice, str(path), around))
        return jobs


def _with_audio(dialogue: Dialogue, spoken: dict[str, tuple[SpeechJob, SpokenJob]], output: Path) -> Dialogue:
    turns = []
    for place, turn in enumerate(dialogue.turns):
        if turn.role == "user":
            job, result = spoken[f"{dialogue.id}.{place}"]
            audio = f"{output.stem}/{Path(job.path).name}"
            turn = replace(turn, audio=audio, duration_s=result.duration_s, speaker=job.voice.speaker)
        turns.append(turn)
    return replace(dialogue, turns=tuple(turns))
