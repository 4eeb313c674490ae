"""Spoken replies of the chat endpoint that clients may name again."""

from __future__ import annotations

import time
from collections import OrderedDict

from echox.serving.protocol.events import EventError, short

_KEPT_S = 3600  # a spoken reply can be named by its id for so long
_KEPT = 1000  # and no more of them


class SpokenReplies:
    """Transcripts of spoken replies by id: clients name them in later requests (``"audio": {"id": ...}``)."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, tuple[float, str]] = OrderedDict()

    def keep(self, audio_id: str, text: str) -> int:
        """Remember one; return when it will be forgotten (Unix time, s)."""
        expires_at = time.time() + _KEPT_S
        self._texts[audio_id] = (expires_at, text)
        while len(self._texts) > _KEPT:
            self._texts.popitem(last=False)
        return int(expires_at)

    def find(self, audio_id: str, where: str) -> str:
        """The transcript.

        Raises:
            EventError: there is none, or none any more.
        """
        expires_at, text = self._texts.get(audio_id, (0.0, ""))
        if expires_at < time.time():
            message = f"{where}: expected the id of a spoken reply, found {short(audio_id)}"
            raise EventError(message, "audio_not_found", where)
        return text
