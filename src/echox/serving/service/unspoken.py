"""What of a reply could not be spoken, as clients are told: nobody takes silence for the whole reply."""

from __future__ import annotations

import json
from collections.abc import Sequence

from echox.streaming.events import SpeechFailed

UNSPOKEN_HEADER = "X-EchoX-Unspoken"
"""JSON list, as in `unspoken`, of audio that has no place for it; absent where all was spoken."""
_LONGEST_HEADER_CHARACTERS = 4000


def unspoken(failures: Sequence[SpeechFailed]) -> list[dict[str, str]]:
    """Each part that could not be spoken, or not to its end: ``text`` as written, and ``reason``."""
    return [{"text": failure.text.strip(), "reason": failure.reason} for failure in failures]


def unspoken_header(failures: Sequence[SpeechFailed]) -> dict[str, str]:
    """`UNSPOKEN_HEADER`, if there is anything to tell; of very many parts the first."""
    shown = unspoken(failures)
    while shown and len(json.dumps(shown)) > _LONGEST_HEADER_CHARACTERS:
        shown = shown[: len(shown) // 2] or [{"text": "", "reason": "too long for a header"}]
    return {UNSPOKEN_HEADER: json.dumps(shown)} if shown else {}
