"""A reply that ends before certain strings of its text, which are never shown, not even in part."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from echox.serving.protocol.events import EventError, short
from echox.serving.service.replies import ReplyFeed
from echox.streaming.events import Event, Finished, TextDelta, Timings

MAX_STOP_STRINGS = 4
_MAX_CHARS = 256


def read_stop(value: Any) -> tuple[str, ...]:
    """The ``stop`` of a request: a string, or up to four; null: none.

    Raises:
        EventError: anything else.
    """
    found = [value] if isinstance(value, str) else [] if value is None else value
    short_texts = isinstance(found, list) and all(isinstance(one, str) and 0 < len(one) <= _MAX_CHARS for one in found)
    if not short_texts or len(found) > MAX_STOP_STRINGS:
        message = (
            f"stop: expected a string or up to {MAX_STOP_STRINGS}, of 1 to {_MAX_CHARS} characters, found "
            f"{short(value)}"
        )
        raise EventError(message, "invalid_value", "stop")
    return tuple(found)


class StoppingFeed:
    """A `ReplyFeed` whose text ends before the first stop string; the model then stops too.

    Args:
        feed: of a reply that is only written. stops: the strings; none: everything passes.
    """

    def __init__(self, feed: ReplyFeed, stops: Sequence[str]) -> None:
        self._feed, self._stops = feed, tuple(stops)

    @property
    def timings(self) -> Timings:
        """As `ReplyFeed`."""
        return self._feed.timings

    def cancel(self) -> None:
        """As `ReplyFeed`."""
        self._feed.cancel()

    async def events(self) -> AsyncIterator[Event]:
        """Events as they come; text that may become a stop string waits until it is known not to be one.

        Raises:
            ValueError: what the model refused. Exception: what else failed in it.
        """
        shown, waiting = "", ""
        async for event in self._feed.events():
            if isinstance(event, TextDelta) and self._stops:
                waiting += event.text
                end = first_stop(waiting, self._stops)
                if end is not None:
                    self._feed.cancel()
                    if end:
                        yield TextDelta(waiting[:end])
                    yield Finished(shown + waiting[:end], "end", self.timings)
                    return
                ready = len(waiting) - may_begin(waiting, self._stops)
                if ready:
                    yield TextDelta(waiting[:ready])
                shown, waiting = shown + waiting[:ready], waiting[ready:]
                continue
            if isinstance(event, Finished) and waiting:
                yield TextDelta(waiting)
            yield event


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the strings begins in a text; None: nowhere."""
    places = [place for place in (text.find(stop) for stop in stops) if place >= 0]
    return min(places) if places else None


def may_begin(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of one of the strings."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for count in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-count:]) for stop in stops):
            return count
    return 0
