"""Progress bars of commands that go through many items."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from echox.evaluation.run import ShowProgress

T = TypeVar("T")


@contextmanager
def progress_bars() -> "Iterator[ShowProgress]":
    """Progress bars on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def show(items: Iterable[T], title: str, total: int) -> Iterable[T]:
            return bars.track(items, total=total, description=title)

        yield show
