"""Tasks: the test sets that are known by name, where their items come from, how their replies are scored.

Llama Questions, Web Questions and TriviaQA are the spoken sets of UltraEval-Audio (not those of OpenAudioBench, which
are smaller and judged by GPT-4o: figures do not compare).
Source: https://github.com/OpenBMB/UltraEval-Audio, registry/dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from echox.evaluation.scoring.nano import score_spoken, score_typed
from echox.evaluation.scoring.schema import JsonObject, Row
from echox.evaluation.scoring.scores import score_answers, score_speech, score_transcription, score_translation
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.items import ANSWER_COLUMNS, EvalItem, read_items
from echox.evaluation.sets.nano import SPOKEN_SETS, TYPED, nano_items

TRANSCRIPT_COLUMNS = ("transcript", "transcription", "text", "sentence", *ANSWER_COLUMNS)
TRANSLATION_COLUMNS = ("translation", "target_text", "tgt_text", *ANSWER_COLUMNS)


@dataclass(frozen=True)
class Kind:
    """A kind of task.

    Attributes:
        score: figures of its rows.
        answer_columns: names of columns that may hold the reference.
        hub: id of the data set on the Hugging Face hub; None: it is not there.
        speaks: whether the replies are spoken.
        paper: percentages that arXiv 2509.09174 reports for it, by model.
    """

    score: Callable[[Sequence[Row]], JsonObject]
    answer_columns: Sequence[str] = ANSWER_COLUMNS
    hub: str | None = None
    speaks: bool = True
    paper: tuple[tuple[str, float], ...] = ()


def _no_scores(rows: Sequence[Row]) -> JsonObject:
    """No figures: VoiceBench scores the exported file with its own scripts."""
    return {}


KINDS = {
    "llama-questions": Kind(
        score_answers, hub="TwinkStart/llama-questions", paper=(("EchoX-3B", 54.0), ("EchoX-8B", 63.3))
    ),
    "web-questions": Kind(
        score_answers, hub="TwinkStart/speech-web-questions", paper=(("EchoX-3B", 31.6), ("EchoX-8B", 40.6))
    ),
    "triviaqa": Kind(score_answers, hub="TwinkStart/speech-triavia-qa", paper=(("EchoX-3B", 25.8), ("EchoX-8B", 35.0))),
    "qa": Kind(score_answers),
    "consistency": Kind(score_speech),
    "asr": Kind(score_transcription, TRANSCRIPT_COLUMNS, speaks=False),
    "translation": Kind(score_translation, TRANSLATION_COLUMNS),
    "voicebench": Kind(_no_scores, answer_columns=(), hub="hlt-lab/voicebench", speaks=False),
    TYPED: Kind(score_typed, speaks=False),
    **{name: Kind(score_spoken) for name in SPOKEN_SETS},
}
"""Kind of each task, by name."""
NANO = "nano"
"""All of nano's held-out sets."""
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
        name: in `KINDS`, or "nano".
        data: a file or folder of items, or a folder that holds ``<name>.jsonl`` or ``<name>/``; None: the embedded
            questions for nano, the hub's data set for those that have one.
        limit: items (of each set); None: all.
        seed: of nano's balanced order.
        instruction: text that is sent beside every audio.

    Raises:
        ValueError: no such task, or its data is not there.
    """
    if name == NANO:
        sets = nano_items(data or embedded_heldout(), limit, seed)
        return [Task(part, part, items, str(data or "embedded")) for part, items in sets.items()]
    if name not in KINDS or name in (TYPED, *SPOKEN_SETS):
        known = ", ".join([NANO, *(kind for kind in KINDS if kind not in (TYPED, *SPOKEN_SETS))])
        raise ValueError(f"expected a task of {known}; found {name!r}")
    kind = KINDS[name]
    path = _find(name, data) if data is not None else _from_hub(name, kind)
    items = read_items(path, kind.answer_columns, instruction)
    return [Task(name, name, items[:limit], str(data or kind.hub))]


def _find(name: str, data: Path) -> Path:
    for path in (data / f"{name}.jsonl", data / f"{name}.csv", data / name):
        if path.exists():
            return path
    return data


def _from_hub(name: str, kind: Kind) -> Path:
    if kind.hub is None or name == "voicebench":
        raise ValueError(f"{name}: expected data, found none; name a .jsonl or .csv file or a folder with --data")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(kind.hub, repo_type="dataset", allow_patterns="*.parquet"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name}: expected the data set {kind.hub} of the hub, found none ({reason}); name a copy with --data"
        ) from error
