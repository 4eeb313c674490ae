"""The interface of what is evaluated: it has a name, and answers with a `Reply`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from echox.evaluation.sets.items import ChatMessage
from echox.streaming.events import Reply


class Subject(Protocol):
    """A model under evaluation.

    Attributes:
        name: for tables.
        key: identifies everything that its answers depend on, as far as that is known.
        folder: of its files; None: they are not on this machine.
        spoken_language: ISO 639 code of the language whose rules read its replies.
    """

    name: str
    key: str
    folder: str | None
    spoken_language: str

    def answer(self, messages: Sequence[ChatMessage], speak: bool = True) -> Reply:
        """One reply, decoded greedily.

        Raises:
            ValueError: a question without recognisable speech, or no answer.
        """
        ...
