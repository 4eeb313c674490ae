"""Types of the JSON files of an evaluation: recorded replies, transcripts, ``run.json``."""

from __future__ import annotations

from typing import Any, TypedDict

JsonObject = dict[str, Any]
"""An object of a JSON file whose keys depend on its content: columns of a data set, figures of a task or a study."""


class AskedItem(TypedDict):
    """A line of ``questions.jsonl``: what the data set says of an item now; it may be corrected after it was asked.

    Attributes:
        id: of the item. key: of the model and the question.
        question: its words. answers: accepted ones. columns: what the data set says of the item.
        question_audio: path of the spoken question, if it is one file.
    """

    id: str
    key: str
    question: str
    answers: list[str]
    columns: JsonObject
    question_audio: str | None


class ReplyRecord(AskedItem):
    """A line of ``replies.jsonl``, with the question that it replies to.

    Attributes:
        text: the written reply. heard: transcript of the question by the model's CTC head.
        audio: path of the reply's speech, relative to the task's folder; None: there is none. reply_s: its duration.
        timings: of `echox.Reply`. failures: reasons of segments that could not be spoken.
        stopped: why the reply ended. error: why there is no reply; None: there is one.
    """

    text: str
    heard: str
    audio: str | None
    reply_s: float
    timings: dict[str, float | None]
    failures: list[str]
    stopped: str | None
    error: str | None


class JudgeSpelling(TypedDict):
    """Texts as a judge would write them if it recognised every sound: its transcripts are compared with them."""

    reply: str
    answers: list[str]
    reference: str | None


class _Figures(TypedDict, total=False):
    s2t: bool
    s2s: bool
    t2t: bool
    reply_wer: float
    compression: float


class Row(ReplyRecord, _Figures):
    """A recorded reply with its transcript, and the figures of it that scoring adds (``items.jsonl``).

    Attributes:
        speaks: whether the task asks for speech.
        said: the judge's transcript; None: not judged. as_heard: see `JudgeSpelling`; None: not judged.
        unknown_words: words of the reply that the judge cannot write.
        judge_error: why the judge has no transcript. unjudged: why there is no judge.
        s2t, s2s: right in writing, right aloud. t2t: right in writing, of a question in writing.
        reply_wer: word error rate of the speech against the reply's text.
        compression: unit frames per unit word.
    """

    speaks: bool
    said: str | None
    as_heard: JudgeSpelling | None
    unknown_words: int
    judge_error: str | None
    unjudged: str | None


class TaskEntry(TypedDict):
    """A task in ``run.json``: ids of its items and keys of their replies, in order."""

    name: str
    kind: str
    source: str
    ids: list[str]
    keys: list[str]


class SubjectEntry(TypedDict):
    """The evaluated model in ``run.json``; see `echox.evaluation.subjects.subject.Subject`."""

    name: str
    key: str
    folder: str | None


class _Optional(TypedDict, total=False):
    control: str
    raters: dict[str, str]


class RunFile(_Optional):
    """The content of ``run.json``.

    Attributes:
        judge: has ``name`` (and its own errors), or ``unjudged``: why there is none.
        control: voice that also speaks the replies' texts ("engine/name"), if there is one.
        raters: predictor of each rating (``utmos``), by its name in the records; none: nothing was rated.
    """

    version: int
    echox: str
    subject: SubjectEntry
    judge: JsonObject
    tasks: list[TaskEntry]
