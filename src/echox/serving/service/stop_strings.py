"""Stop strings: the text of a reply ends before the first of them, and no part of it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from echox.serving.protocol.events import EventError, shorten
from echox.serving.service.replies import ReplyFeed
from echox.streaming.events import Event, Finished, TextDelta, Timings
from echox.tool_calls.tools import ToolCallDelta

MAX_STOP_STRINGS = 4
_MAX_CHARS = 256


def read_stop(value: object) -> tuple[str, ...]:
    """Read ``stop`` of a request: a string, a list of up to four strings, or null.

    Raises:
        EventError: anything else.
    """
    wanted = value if isinstance(value, list) else [] if value is None else [value]
    found = [one for one in wanted if isinstance(one, str) and 0 < len(one) <= _MAX_CHARS]
    if len(found) < len(wanted) or len(found) > MAX_STOP_STRINGS:
        message = (
            f"stop: expected a string or up to {MAX_STOP_STRINGS}, of 1 to {_MAX_CHARS} characters, found "
            f"{shorten(value)}"
        )
        raise EventError(message, "invalid_value", "stop")
    return tuple(found)


class StopStringFeed:
    """A `ReplyFeed` whose text ends before the first stop string. The model stops there too.

    Args:
        feed: feed of a reply without speech.
        stops: the stop strings; none: all events are passed on.
    """

    def __init__(self, feed: ReplyFeed, stops: Sequence[str]) -> None:
        self._feed, self._stops = feed, tuple(stops)

    @property
    def timings(self) -> Timings:
        """As in `ReplyFeed`."""
        return self._feed.timings

    def cancel(self) -> None:
        """As in `ReplyFeed`."""
        self._feed.cancel()

    async def events(self) -> AsyncIterator[Event]:
        """The events of the reply. Text that may become a stop string is held back until that is decided.

        Raises:
            ValueError: the model refused the question.
            Exception: any other error of the model.
        """
        sent, waiting = "", ""
        async for event in self._feed.events():
            if isinstance(event, TextDelta) and self._stops:
                waiting += event.text
                end = first_stop(waiting, self._stops)
                if end is not None:
                    self._feed.cancel()
                    if end:
                        yield TextDelta(waiting[:end])
                    yield Finished(sent + waiting[:end], "end", self.timings)
                    return
                ready = len(waiting) - may_begin(waiting, self._stops)
                if ready:
                    yield TextDelta(waiting[:ready])
                sent, waiting = sent + waiting[:ready], waiting[ready:]
                continue
            if isinstance(event, Finished | ToolCallDelta) and waiting:
                yield TextDelta(waiting)
                sent, waiting = sent + waiting, ""
            yield event


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """The position of the first stop string in a text; None: there is none."""
    return min((start for start in (text.find(stop) for stop in stops) if start >= 0), default=None)


def may_begin(text: str, stops: Sequence[str]) -> int:
    """The number of characters at the end of a text that may be the start of a stop string."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for count in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-count:]) for stop in stops):
            return count
    return 0
