"""Parts of a reply that could not be spoken, reported to clients so that they do not mistake silence for the reply."""

from __future__ import annotations

import json
from collections.abc import Sequence

from echox.streaming.events import SpeechFailed

UNSPOKEN_HEADER = "X-EchoX-Unspoken"
"""Header with the list of `unspoken` as JSON, for audio formats without a field for it; absent if all is spoken."""
_MAX_HEADER_CHARS = 4000


def unspoken(failures: Sequence[SpeechFailed]) -> list[dict[str, str]]:
    """Each part that could not be spoken completely: its ``text`` and the ``reason``."""
    return [{"text": failure.text.strip(), "reason": failure.reason} for failure in failures]


def unspoken_header(failures: Sequence[SpeechFailed]) -> dict[str, str]:
    """`UNSPOKEN_HEADER`, if any part could not be spoken; of very many parts only the first."""
    parts = unspoken(failures)
    while parts and len(json.dumps(parts)) > _MAX_HEADER_CHARS:
        parts = parts[: len(parts) // 2] or [{"text": "", "reason": "too long for a header"}]
    return {UNSPOKEN_HEADER: json.dumps(parts)} if parts else {}
