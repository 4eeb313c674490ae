"""Replies in the rows of a common step: which rows take part, which output each one gets, and its share of the time."""

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
    """Outputs of a step, each as its stream samples; rows without a stream get an output that nobody reads."""
    not_ending = [row for row, stream in enumerate(streams) if stream and not stream.may_end]
    if not_ending:
        logits[not_ending, end_id] = -torch.inf
    temperatures = [stream.temperature if stream else 0.0 for stream in streams]
    top_ps = [stream.top_p if stream else 1.0 for stream in streams]
    numbers = [stream.sampling.source.random() if stream and stream.temperature > 0 else 0.0 for stream in streams]
    return sample(logits, temperatures, top_ps, numbers).tolist()


def constrained(logits: Tensor, tasks: Tasks) -> Tensor:
    """The logits (B, V) of the next tokens, -inf where the grammar of a reply does not allow a token.

    Raises:
        ValueError: the grammar of one of them takes more work than is allowed.
    """
    rows = [number for number, task in enumerate(tasks) if task.calling is not None]
    if not rows:
        return logits
    logits = logits.clone()
    for row in rows:
        allowed = torch.from_numpy(required(tasks[row].calling).constraint.allowed())
        logits[row].masked_fill_(~allowed.to(logits.device), -torch.inf)
    return logits


def sample(logits: Tensor, temperatures: list[float], top_ps: list[float], numbers: list[float]) -> Tensor:
    """(B,) one output per row; see `nucleus`. Temperatures and the like are not rounded to the type of the logits."""
    if not any(temperatures):
        return logits.argmax(-1)
    choices = torch.tensor([temperatures, top_ps, numbers], dtype=torch.float64, device=logits.device)
    return nucleus(logits, *choices.unbind(0))


def required(value: T | None) -> T:
    """A value that is never None at this point."""
    assert value is not None
    return value


def first_row(tasks: Tasks) -> int:
    """The first row of these tasks in the language model's memory."""
    return required(tasks[0].text_row)


def remove_row(memory: LeanSteps | DecoderRows, rows: list[ReplyTask], task: ReplyTask, attribute: str) -> None:
    """Remove a reply from a memory and from the list of its rows; the last row moves to the free place.

    Args:
        memory: of the language model, or of the echo decoder.
        rows: the reply of each row.
        task: the reply to remove.
        attribute: of a task that holds its row in this memory: ``text_row`` or ``echo_row``.
    """
    row = required(getattr(task, attribute))
    last = rows[memory.leave(row)]
    rows[row] = last
    rows.pop()
    setattr(last, attribute, row)
    setattr(task, attribute, None)


def adjacent_rows(tasks: Sequence[ReplyTask]) -> Iterator[Tasks]:
    """Groups of tasks in rows without a gap between them."""
    group: list[ReplyTask] = []
    for task in tasks:
        if group and required(task.text_row) != required(group[-1].text_row) + 1:
            yield group
            group = []
        group.append(task)
    if group:
        yield group


def row_range(rows: Sequence[ReplyTask], tasks: Sequence[ReplyTask]) -> Iterator[Tasks]:
    """All rows from the first to the last of some tasks, as one group; no group without tasks."""
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
