"""Tasks: the test sets that are known by name, where their items come from, how their replies are scored.

Llama Questions, Web Questions and TriviaQA are the spoken sets of UltraEval-Audio (not those of OpenAudioBench, which
are smaller and judged by GPT-4o: figures do not compare).
Source: https://github.com/OpenBMB/UltraEval-Audio, registry/dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from echox.errors import reason
from echox.evaluation.scoring.choices import CATEGORY, score_choices, score_typed_choices
from echox.evaluation.scoring.nano import score_questions, score_spoken, score_typed
from echox.evaluation.scoring.records import balanced_order
from echox.evaluation.scoring.schema import JsonObject, Row
from echox.evaluation.scoring.scores import (
    score_answers,
    score_speech,
    score_transcription,
    score_translation,
    score_typed_answers,
)
from echox.evaluation.scoring.uro import score_uro, score_uro_repeat
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.items import ANSWER_COLUMNS, ChatMessage, EvalItem, read_items
from echox.evaluation.sets.nano import SPOKEN_SETS, TYPED, nano_items, nano_questions
from echox.evaluation.sets.published import check_answers, check_choices, check_recordings, check_texts

TRANSCRIPT_COLUMNS = ("transcript", "transcription", "text", "sentence", *ANSWER_COLUMNS)
TRANSLATION_COLUMNS = ("translation", "tgt_text", "target_text", *ANSWER_COLUMNS)


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        score: figures of its rows.
        answer_columns: names of columns that may hold the reference.
        numbers: whether a reference that is a number stands for its text.
        hub: id of the data set on the Hugging Face hub; None: it is not there.
        hub_files: patterns of its files.
        check: raises ValueError if items are not what ``score`` needs; it is given ``answer_columns`` too.
        group: column over whose values a limited number of items is balanced; None: the first ones are taken.
        typed: kind of the same questions in writing; None: they are not asked so.
        speaks: whether the replies are spoken.
        paper: percentages that arXiv 2509.09174 reports for it, by model.
    """

    score: Callable[[Sequence[Row]], JsonObject]
    answer_columns: Sequence[str] = ANSWER_COLUMNS
    numbers: bool = False
    hub: str | None = None
    hub_files: Sequence[str] = ("*.parquet",)
    check: Callable[[Sequence[EvalItem], Sequence[str]], None] | None = None
    group: str | None = None
    typed: str | None = None
    speaks: bool = True
    paper: tuple[tuple[str, float], ...] = ()


def _no_scores(rows: Sequence[Row]) -> JsonObject:
    """No figures: VoiceBench scores the exported file with its own scripts."""
    return {}


TYPED_ANSWERS, TYPED_CHOICES = "typed-answers", "typed-choices"
_QUESTIONS = Kind(score_answers, check=check_answers, typed=TYPED_ANSWERS)
KINDS = {
    "llama-questions": replace(
        _QUESTIONS, hub="TwinkStart/llama-questions", paper=(("EchoX-3B", 54.0), ("EchoX-8B", 63.3))
    ),
    "web-questions": replace(
        _QUESTIONS, hub="TwinkStart/speech-web-questions", paper=(("EchoX-3B", 31.6), ("EchoX-8B", 40.6))
    ),
    "triviaqa": replace(_QUESTIONS, hub="TwinkStart/speech-triavia-qa", paper=(("EchoX-3B", 25.8), ("EchoX-8B", 35.0))),
    "qa": _QUESTIONS,
    "nano-questions": Kind(score_questions, typed=TYPED_ANSWERS),
    "big-bench-audio": Kind(
        score_choices,
        ("official_answer",),
        hub="ArtificialAnalysis/big_bench_audio",
        hub_files=("metadata.jsonl", "data/*"),
        check=check_choices,
        group=CATEGORY,
        typed=TYPED_CHOICES,
    ),
    "uro-bench": Kind(score_uro, ("target_text",), numbers=True),
    "uro-repeat": Kind(score_uro_repeat, ("target_text",), numbers=True, check=check_texts),
    "consistency": Kind(score_speech),
    "asr": Kind(score_transcription, TRANSCRIPT_COLUMNS, check=check_recordings, speaks=False),
    "translation": Kind(score_translation, TRANSLATION_COLUMNS, check=check_answers),
    "voicebench": Kind(_no_scores, answer_columns=(), hub="hlt-lab/voicebench", speaks=False),
    TYPED_ANSWERS: Kind(score_typed_answers, speaks=False),
    TYPED_CHOICES: Kind(score_typed_choices, speaks=False),
    TYPED: Kind(score_typed, speaks=False),
    **{name: Kind(score_spoken) for name in SPOKEN_SETS},
}
"""Kind of each task, by name."""
NANO = "nano"
"""All of nano's held-out sets."""
NANO_QUESTIONS = "nano-questions"
"""Nano's held-out questions as any model may be asked them: scored by their answers, not by nano's own sentences."""
WRITTEN = (TYPED_ANSWERS, TYPED_CHOICES, TYPED)
"""Kinds whose questions are those of a spoken set, in writing."""
_NOT_BY_NAME = (*WRITTEN, *SPOKEN_SETS)
TYPED_SUFFIX = "-typed"
"""Of the name of a task whose questions are those of another task, in writing."""
AVERAGED = ("llama-questions", "web-questions", "triviaqa")
"""The paper's average is the plain mean of these three percentages."""


@dataclass(frozen=True)
class Task:
    """Items of one test set. ``kind`` is a name in `KINDS`; ``source`` is the path or data set of the items."""

    name: str
    kind: str
    items: Sequence[EvalItem]
    source: str

    @property
    def speaks(self) -> bool:
        """Whether its replies are spoken."""
        return KINDS[self.kind].speaks


def open_tasks(
    name: str, data: Path | None, limit: int | None = None, seed: int = 0, instruction: str | None = None
) -> list[Task]:
    """The task of a name; for ``nano``, its four.

    Args:
        name: in `KINDS`, or "nano"; underscores stand for hyphens too.
        data: a file or folder of items, or a folder that holds ``<name>.jsonl`` or ``<name>/``; None: the embedded
            questions for nano, the hub's data set for those that have one.
        limit: items (of each set); None: all.
        seed: of balanced orders.
        instruction: text that is sent beside every audio.

    Raises:
        ValueError: no such task, or its data is not there.
    """
    name = name.replace("_", "-")
    if name == NANO:
        sets = nano_items(data or embedded_heldout(), limit, seed)
        return [Task(part, part, items, str(data or "embedded")) for part, items in sets.items()]
    if name == NANO_QUESTIONS:
        return [Task(name, name, nano_questions(data, limit, seed), str(data or "held out"))]
    if name not in KINDS or name in _NOT_BY_NAME:
        known = ", ".join([NANO, *(kind for kind in KINDS if kind not in _NOT_BY_NAME)])
        raise ValueError(f"expected a task of {known}; found {name!r}")
    kind = KINDS[name]
    path = _find(name, data) if data is not None else _from_hub(name, kind)
    items = read_items(path, kind.answer_columns, instruction, kind.numbers)
    if kind.check is not None:
        try:
            kind.check(items, kind.answer_columns)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if limit is not None and kind.group is not None:
        column = kind.group
        items = balanced_order(items, lambda item: str(item.columns.get(column)), seed)
    return [Task(name, name, items[:limit], str(data or kind.hub))]


def typed_task(task: Task) -> Task:
    """The questions of a task in writing, so that answers to speech can be compared with answers to text.

    Raises:
        ValueError: a task without answers, or a question whose words are not known.
    """
    kind = KINDS[task.kind].typed
    if kind is None:
        raise ValueError(f"{task.name}: expected questions with answers to be asked in writing too, found {task.kind}")
    silent = [item.id for item in task.items if not item.question]
    if silent:
        raise ValueError(
            f"{task.source}: expected the words of every question, found none for {silent[0]!r} and {len(silent) - 1} "
            "more; add a column question"
        )
    items = [replace(item, messages=[{"role": "user", "content": item.question}]) for item in task.items]
    return Task(task.name + TYPED_SUFFIX, kind, items, task.source)


def with_system(task: Task, system: str) -> Task:
    """A task whose conversations begin with a system prompt, if they have none."""
    first: ChatMessage = {"role": "system", "content": system}
    items = [
        item if item.messages[0]["role"] == "system" else replace(item, messages=[first, *item.messages])
        for item in task.items
    ]
    return replace(task, items=items)


def _find(name: str, data: Path) -> Path:
    for path in (data / f"{name}.jsonl", data / f"{name}.csv", data / name):
        if path.exists():
            return path
    return data


def _from_hub(name: str, kind: Kind) -> Path:
    if kind.hub is None or name == "voicebench":
        raise ValueError(f"{name}: expected data, found none; name a .jsonl or .csv file or a folder with --data")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(kind.hub, repo_type="dataset", allow_patterns=list(kind.hub_files)))
    except Exception as error:  # a lost connection and a proxy that refuses have many kinds of exceptions
        raise ValueError(
            f"{name}: expected the data set {kind.hub} of the hub, found none ({reason(error)}); name a copy "
            "with --data"
        ) from error
