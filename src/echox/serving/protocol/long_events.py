"""Events of a client in parts (an extension): a data channel takes no long messages, and nothing gets past one that is
on its way over a slow network.
"""

from __future__ import annotations

import sys

from echox.serving.protocol.events import EventError, take
from echox.serving.protocol.json_input import JsonObject


class LongEvent:
    """The event of which parts are coming.

    Args:
        max_bytes: memory that its parts may take.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[str] = []
        self._bytes = 0

    def add(self, part: JsonObject) -> str | None:
        """Add a part: its ``index``, the ``count`` of all and its ``text``. Part 0 begins another event.

        Returns:
            The text of the whole event, after its last part; before, None.

        Raises:
            EventError: it is not the next part, or it is too much. What came before is dropped.
        """
        index = take(part, "index", int, at_least=0)
        count = take(part, "count", int, at_least=index + 1)
        text = take(part, "text", str)
        if index == 0:
            self._drop()
        expected = len(self._parts)
        if index != expected:
            self._drop()
            raise EventError(f"index: expected {expected}, or 0 of another event, found {index}", param="index")
        self._parts.append(text)
        self._bytes += sys.getsizeof(text)
        if self._bytes > self._max_bytes:
            self._drop()
            message = f"text: expected at most {self._max_bytes} bytes in all parts, found more"
            raise EventError(message, "string_too_long", "text")
        if index + 1 < count:
            return None
        whole = "".join(self._parts)
        self._drop()
        return whole

    def _drop(self) -> None:
        self._parts.clear()
        self._bytes = 0
