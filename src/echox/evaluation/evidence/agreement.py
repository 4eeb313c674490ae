"""Do judges agree? The same spoken replies, transcribed by several recognisers: word errors and verdicts side by side.

A figure of speech to speech is a figure of its judge too. Where judges of different kinds agree on which replies are
right, the figure is one of the speech; where they do not, it is one of the judge.

Agreement of verdicts is Cohen's kappa (0: as chance would have it, 1: always), agreement of word error rates Spearman's
rank correlation over replies, both with 95 % bootstrap intervals over replies (a thousand draws at once, which is why
they are written out here; the tests hold them to scikit-learn and SciPy).

Sources: Cohen 1960, A coefficient of agreement for nominal scales; Spearman 1904.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from echox.api.card import markdown_table
from echox.data.scoring import edit_counts, normalize_words
from echox.evaluation.judges.asr import Judge
from echox.evaluation.run import ShowProgress, show_nothing, transcribe
from echox.evaluation.run_files import read_run, recorded_replies
from echox.evaluation.scoring.nano import contains_words
from echox.evaluation.scoring.schema import JsonObject
from echox.evaluation.scoring.scores import MAX_UNKNOWN_WORDS, error_rate, not_measured
from echox.evaluation.scoring.statistics import bootstrap, unseen_share
from echox.evaluation.sets.tasks import KINDS

_DRAWS = 1000


@dataclass(frozen=True)
class Hearing:
    """What one judge heard of the replies.

    Attributes:
        name: of the judge.
        references: the replies' own text, as the judge would write it. said: its transcripts.
        right: whether an accepted answer is in the transcript.
        unknown: share of the replies' words that it cannot write.
    """

    name: str
    references: list[str]
    said: list[str]
    right: list[bool]
    unknown: float

    @property
    def rates(self) -> np.ndarray:
        """(replies,) word error rate of each reply."""
        pairs = zip(self.references, self.said, strict=True)
        return np.array([edit_counts(normalize_words(text), normalize_words(said)).rate for text, said in pairs])


def measure_agreement(
    run: Path, judges: Sequence[Judge], limit: int = 200, progress: ShowProgress = show_nothing
) -> JsonObject:
    """Transcripts of the spoken replies of a run by every judge, and how far they agree.

    What is transcribed is kept in the run's ``heard.jsonl``, and not made again.

    Args:
        run: folder of ``echox eval run``.
        judges: two or more.
        limit: replies, of each task.
        progress: shows how many are transcribed.

    Returns:
        For each task that is spoken: ``replies``, ``judges`` (word error rate and share of right answers, with
        intervals) and ``pairs`` (``same_verdict``, ``kappa``, ``wer_correlation``).

    Raises:
        ValueError: fewer than two judges, or a run without spoken replies.
    """
    if len(judges) < 2:
        raise ValueError(f"expected two or more judges to compare, found {len(judges)}; name each with --judge")
    tasks: dict[str, JsonObject] = {}
    described = read_run(run)
    for task in described["tasks"]:
        if not KINDS[task["kind"]].speaks:
            continue
        folder = run / task["name"]
        replies = [one for one in recorded_replies(folder, task["keys"]) if one["audio"]][:limit]
        if not replies:
            continue
        keys = [reply["key"] for reply in replies]
        heard = []
        for judge in judges:
            records = list(progress(transcribe(folder, judge, keys), f"{judge.name}: {task['name']}", len(keys)))
            heard.append(_hearing(judge.name, [reply["text"] for reply in replies], records))
        tasks[task["name"]] = {"replies": len(replies), **compare(heard)}
    if not tasks:
        raise ValueError(f"{run}: expected spoken replies, found none; run a task that speaks")
    return {"subject": described["subject"]["name"], "model": described["subject"]["key"], "tasks": tasks}


def _hearing(name: str, texts: Sequence[str], records: Sequence[JsonObject]) -> Hearing:
    right = [any(contains_words(one["said"], answer) for answer in one["as_heard"]["answers"]) for one in records]
    words = sum(len(normalize_words(text)) for text in texts)
    unknown = sum(one["unknown_words"] for one in records) / max(words, 1)
    return Hearing(
        name, [one["as_heard"]["reply"] for one in records], [one["said"] for one in records], right, unknown
    )


def compare(heard: Sequence[Hearing]) -> JsonObject:
    """Figures of each judge and of each pair of them, over the same replies."""
    usable = [one for one in heard if one.unknown <= MAX_UNKNOWN_WORDS]
    return {
        "judges": {one.name: _alone(one) for one in heard},
        "pairs": [
            {"judges": [one.name, other.name], **_pair(one, other)} for one, other in itertools.combinations(usable, 2)
        ],
    }


def _alone(one: Hearing) -> JsonObject:
    if one.unknown > MAX_UNKNOWN_WORDS:
        reason = not_measured(f"it cannot write {100 * one.unknown:.0f} % of the replies' words")
        return {"unknown_words": one.unknown, "wer": reason, "right": reason}
    return {
        "unknown_words": one.unknown,
        "wer": error_rate(one.references, one.said),
        "right": asdict(bootstrap([float(flag) for flag in one.right])),
    }


def _pair(one: Hearing, other: Hearing) -> JsonObject:
    same = [float(left == right) for left, right in zip(one.right, other.right, strict=True)]
    return {
        "same_verdict": asdict(bootstrap(same)),
        "kappa": _interval(cohen_kappa, np.array(one.right), np.array(other.right)),
        "wer_correlation": _interval(rank_correlation, one.rates, other.rates),
    }


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of values (draws, replies) of two judges: one figure a draw, NaN where it is not defined."""


def cohen_kappa(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cohen's kappa of right and wrong (draws, replies), of each draw."""
    by_chance = one.mean(1) * other.mean(1) + (1 - one.mean(1)) * (1 - other.mean(1))
    with np.errstate(invalid="ignore"):  # both judges say the same of every reply
        return ((one == other).mean(1) - by_chance) / (1 - by_chance)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of (draws, replies), of each draw; ties share their mean rank."""
    first, second = (np.stack([_ranks(row) for row in values]) for values in (one, other))
    first, second = (ranks - ranks.mean(1, keepdims=True) for ranks in (first, second))
    with np.errstate(invalid="ignore"):  # a judge with the same rate for every reply
        return (first * second).sum(1) / np.sqrt((first**2).sum(1) * (second**2).sum(1))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _interval(statistic: Statistic, one: np.ndarray, other: np.ndarray) -> JsonObject:
    found = float(statistic(one[None], other[None])[0])
    if np.isnan(found):
        return not_measured("one of the judges says the same of every reply")
    places = np.random.default_rng(0).integers(len(one), size=(_DRAWS, len(one)))
    low, high = np.nanpercentile(statistic(one[places], other[places]), [2.5, 97.5])
    if low == high:  # they say the same of every reply
        low = min(low, float(statistic(one[None], _with_unseen(other)[None])[0]))
    return {"mean": found, "low": float(low), "high": float(high), "count": len(one)}


def _with_unseen(values: np.ndarray) -> np.ndarray:
    """What a judge would have said at worst: as many of its verdicts or rates turned round as may do so unseen.

    Those farthest from the mean are turned, which lowers an agreement most.
    """
    count = int(np.ceil(unseen_share(len(values)) * len(values)))
    turned = values.astype(float)
    farthest = np.argsort(-abs(turned - turned.mean()), kind="stable")[:count]
    turned[farthest] = turned.max() + turned.min() - turned[farthest]
    return turned.astype(values.dtype)


def agreement_markdown(found: JsonObject) -> str:
    """Two tables: the judges, and their pairs."""
    judges, pairs = [], []
    for task, figures in found["tasks"].items():
        for name, one in figures["judges"].items():
            judges.append([task, name, _share(one["wer"]), _share(one["right"]), f"{100 * one['unknown_words']:.1f} %"])
        for pair in figures["pairs"]:
            names = " / ".join(pair["judges"])
            pairs.append(
                [
                    task,
                    names,
                    _share(pair["same_verdict"]),
                    *(_number(pair[key]) for key in ("kappa", "wer_correlation")),
                ]
            )
    lines = markdown_table(["task", "judge", "WER of the speech", "answers right", "words it cannot write"], judges)
    if pairs:
        heads = ["task", "judges", "same verdict", "Cohen's kappa", "Spearman of WER"]
        lines += ["", *markdown_table(heads, pairs)]
    return "\n".join(lines) + "\n"


def _share(value: JsonObject) -> str:
    if "not_measured" in value:
        return f"not measured: {value['not_measured']}"
    return f"{100 * value['mean']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _number(value: JsonObject) -> str:
    if "not_measured" in value:
        return f"not measured: {value['not_measured']}"
    return f"{value['mean']:.2f} ({value['low']:.2f} to {value['high']:.2f})"
