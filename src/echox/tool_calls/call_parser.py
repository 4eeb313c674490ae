"""Finds the calls in a reply while it is written: text that is said, then calls, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

from echox.tool_calls.call_format import CallFormat
from echox.tool_calls.tools import ToolCall, ToolCallDelta


@dataclass
class _JsonObjectEnd:
    """Finds the end of a JSON object in a growing text."""

    depth: int = 0
    in_string: bool = False
    escaped: bool = False

    def push(self, character: str) -> bool:
        """Add a character; return whether the object ends with it."""
        if self.in_string:
            if self.escaped:
                self.escaped = False
            elif character == "\\":
                self.escaped = True
            elif character == '"':
                self.in_string = False
            return False
        if character == '"':
            self.in_string = True
        elif character in "{[":
            self.depth += 1
        elif character in "}]":
            self.depth -= 1
            return self.depth == 0
        return False


class CallParser:
    """Separates what is said in a reply from its calls.

    The grammar (`call_grammar`) lets the model write nothing else than text and then calls in the format.

    Args:
        form: how the model writes calls.

    Attributes:
        text_end: characters at the start of the reply that are certainly text.
        calling: a call has begun; no more text follows.
        calls: the calls that are complete.
    """

    def __init__(self, form: CallFormat) -> None:
        self._form, self._marker = form, form.marker
        self.text_end = 0
        self.calling = False
        self.calls: list[ToolCall] = []
        self._num_chars = 0
        self._rest = ""  # not decided yet
        self._plain = False  # without a marker, a reply that begins as text is text to its end
        self._literal = ""  # that must come next, in a call
        self._step = 0  # in a call: 0 before the name, 1 name, 2 arguments, 3 after them
        self._name, self._arguments = "", ""
        self._object = _JsonObjectEnd()

    def push(self, piece: str) -> list[ToolCallDelta]:
        """Add text of the reply; return what it adds to calls.

        Raises:
            ValueError: a call that is not written in the format.
        """
        self._num_chars += len(piece)
        self._rest += piece
        if not self.calling:
            self._find_call()
        return self._read_calls() if self.calling else []

    def finish(self) -> None:
        """The reply has ended: what may have begun a call was text."""
        if not self.calling:
            self.text_end = self._num_chars

    def _find_call(self) -> None:
        start = self._num_chars - len(self._rest)
        at = self._rest.find(self._marker) if self._marker else self._bare_object()
        if at >= 0:
            said = self._rest[:at].rstrip()  # white space before a call belongs to it
            self.calling, self.text_end, self._rest = True, start + len(said), self._rest[at:]
            self._literal = self._form.before
            return
        kept = self._waiting()
        self.text_end = self._num_chars - kept
        self._rest = self._rest[len(self._rest) - kept :]

    def _bare_object(self) -> int:
        """Where a reply that is a bare object begins; -1: it is none, or not known yet."""
        text = self._rest.lstrip()
        if not self._plain and text.startswith("{"):
            return len(self._rest) - len(text)
        self._plain = self._plain or bool(text)
        return -1

    def _waiting(self) -> int:
        """Characters at the end that may still become the start of a call."""
        if not self._marker:
            return 0 if self._plain else len(self._rest)
        longest = min(len(self._marker) - 1, len(self._rest))
        begun = next((n for n in range(longest, 0, -1) if self._marker.startswith(self._rest[-n:])), 0)
        return len(self._rest) - len(self._rest[: len(self._rest) - begun].rstrip())

    def _read_calls(self) -> list[ToolCallDelta]:
        found: list[ToolCallDelta] = []
        while self._rest:
            if self._literal:
                count = min(len(self._literal), len(self._rest))
                if self._rest[:count] != self._literal[:count]:
                    raise ValueError(f"expected a call to go on with {self._literal[:40]!r}, found {self._rest[:40]!r}")
                self._literal, self._rest = self._literal[count:], self._rest[count:]
                continue
            self._step += 1
            if self._step == 1 and not self._read_name(found):
                self._step = 0
                return found
            if self._step == 2 and not self._read_arguments(found):
                self._step = 1
                return found
            if self._step == 3:
                self._step = 0
                self._literal = (self._form.separator or "") + self._form.before
        return found

    def _read_name(self, found: list[ToolCallDelta]) -> bool:
        """Read the name, if all of it is there."""
        end = self._rest.find(self._form.between[0])
        if end < 0:
            return False
        self._name, self._rest, self._literal = self._rest[:end], self._rest[end:], self._form.between
        found.append(ToolCallDelta(len(self.calls), self._name))
        return True

    def _read_arguments(self, found: list[ToolCallDelta]) -> bool:
        """Read what is there of the arguments; return whether they are complete."""
        end = next((n for n, character in enumerate(self._rest, 1) if self._object.push(character)), None)
        piece = self._rest[:end]
        self._arguments, self._rest = self._arguments + piece, self._rest[len(piece) :]
        found.append(ToolCallDelta(len(self.calls), self._name, piece, end is not None))
        if end is None:
            return False
        self.calls.append(ToolCall(self._name, self._arguments))
        self._arguments, self._object, self._literal = "", _JsonObjectEnd(), self._form.after
        return True
