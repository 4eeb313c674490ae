"""Questions of any test set, asked in a synthetic voice: sets without recordings, or a voice new to a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from echox.data.engines.engine import Voice
from echox.data.synthesis import SpeechJob, speak_all
from echox.evaluation.sets.items import EvalItem
from echox.evaluation.sets.tasks import Task


def read_voice(name: str) -> Voice:
    """The voice of a name such as "piper/en_US-joe-medium".

    Raises:
        ValueError: it names no engine.
    """
    voice = Voice.of_speaker(name)
    if not voice.engine or not voice.name:
        raise ValueError(f"expected a voice as engine/name, like piper/en_US-joe-medium, found {name!r}")
    return voice


def ask_aloud(task: Task, voice: Voice, folder: Path, workers: int = 1) -> Task:
    """The task with its last questions as speech of that voice; speech of an earlier call is used again.

    Args:
        task: whose questions are known in words.
        voice: of the questions.
        folder: for WAV files; its journal says which are finished.
        workers: processes.

    Raises:
        ValueError: a question without words, or one that the voice cannot speak.
    """
    silent = next((item for item in task.items if not item.question), None)
    if silent is not None:
        raise ValueError(f"{task.source}: expected the words of question {silent.id!r} to speak them, found none")
    jobs = [SpeechJob(item.id, item.question, voice, str(folder / f"{item.id}.wav")) for item in task.items]
    for _ in speak_all(jobs, folder / ".journal.jsonl", workers):
        pass
    return replace(
        task, items=[_aloud(item, Path(job.path), voice) for item, job in zip(task.items, jobs, strict=True)]
    )


def _aloud(item: EvalItem, audio: Path, voice: Voice) -> EvalItem:
    before = list(item.messages[:-1])
    columns = {**item.columns, "question_voice": voice.speaker}
    return replace(
        item, messages=[*before, {"role": "user", "content": [{"type": "audio", "audio": audio}]}], columns=columns
    )
