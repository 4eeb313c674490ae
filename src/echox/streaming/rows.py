"""Replies in the rows of a common step: which rows take part, what each of them chooses, and whose time it was."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from echox.models.decoding.lean_llama import LeanSteps
from echox.models.decoding.row_cache import DecoderRows
from echox.models.decoding.sampling import nucleus
from echox.models.t2c.unit_stream import UnitStream
from echox.streaming.task import ReplyTask

Tasks = Sequence[ReplyTask]
T = TypeVar("T")


def choose_outputs(streams: Sequence[UnitStream | None], logits: Tensor, end_id: int) -> list[int]:
    """Outputs of a step, each as its stream wants it; of rows that only ran along, anything."""
    mute = [row for row, stream in enumerate(streams) if stream and not stream.may_end]
    if mute:
        logits[mute, end_id] = -torch.inf
    temperatures = [stream.temperature if stream else 0.0 for stream in streams]
    top_ps = [stream.top_p if stream else 1.0 for stream in streams]
    numbers = [stream.sampling.source.random() if stream and stream.temperature > 0 else 0.0 for stream in streams]
    return sample(logits, temperatures, top_ps, numbers).tolist()


def sample(logits: Tensor, temperatures: list[float], top_ps: list[float], numbers: list[float]) -> Tensor:
    """(B,) one output per row; see `nucleus`. What was asked for is not rounded to the type of the logits."""
    if not any(temperatures):
        return logits.argmax(-1)
    choices = torch.tensor([temperatures, top_ps, numbers], dtype=torch.float64, device=logits.device)
    return nucleus(logits, *choices.unbind(0))


def known(value: T | None) -> T:
    """What must be there by now."""
    assert value is not None
    return value


def first_row(tasks: Tasks) -> int:
    """Of the language model's memory."""
    return known(tasks[0].text_row)


def leave(memory: LeanSteps | DecoderRows, rows: list[ReplyTask], task: ReplyTask, place: str) -> None:
    """Take a reply out of a memory and of the list of its rows; the last one takes its row, as in the memory.

    Args:
        memory: of the language model, or of the echo decoder.
        rows: who is in which row.
        task: that leaves.
        place: its attribute with the row, ``text_row`` or ``echo_row``.
    """
    row = known(getattr(task, place))
    last = rows[memory.leave(row)]
    rows[row] = last
    rows.pop()
    setattr(last, place, row)
    setattr(task, place, None)


def neighbours(tasks: Sequence[ReplyTask]) -> Iterator[Tasks]:
    """Groups of tasks in rows without a gap between them."""
    group: list[ReplyTask] = []
    for task in tasks:
        if group and known(task.text_row) != known(group[-1].text_row) + 1:
            yield group
            group = []
        group.append(task)
    if group:
        yield group


def spans(rows: Sequence[ReplyTask], tasks: Sequence[ReplyTask]) -> Iterator[Tasks]:
    """All rows from the first to the last of some tasks, as one group; nothing without tasks."""
    places = [place for place, task in enumerate(rows) if task in tasks]
    if places:
        yield rows[places[0] : places[-1] + 1]


@contextmanager
def timed(tasks: Tasks, part: str) -> Iterator[None]:
    """Add the time spent inside to one part of the tasks' timings, in equal shares."""
    began_s = time.perf_counter()
    try:
        yield
    finally:
        share_s = (time.perf_counter() - began_s) / max(1, len(tasks))
        for task in tasks:
            setattr(task.timings, part, getattr(task.timings, part) + share_s)
