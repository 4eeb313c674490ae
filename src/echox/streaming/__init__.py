"""Streaming inference: a session takes a question and yields the reply's text and speech while they are made."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echox.streaming.events import (
        AudioChunk,
        ContextDropped,
        Event,
        Finished,
        Heard,
        Judged,
        Mark,
        Reply,
        SpeechFailed,
        TextDelta,
        Timings,
    )
    from echox.streaming.reply_text.settings import GenerationSettings
    from echox.streaming.reply_text.trigger import Segment, Trigger, TriggerState
    from echox.streaming.scheduler import Scheduler
    from echox.streaming.session import Session
    from echox.streaming.task import ReplyTask

# Public name -> module that defines it: events and trigger are imported without torch.
_LAZY = {
    "AudioChunk": "events",
    "ContextDropped": "events",
    "Event": "events",
    "Finished": "events",
    "GenerationSettings": "reply_text.settings",
    "Heard": "events",
    "Judged": "events",
    "Mark": "events",
    "Reply": "events",
    "ReplyTask": "task",
    "Scheduler": "scheduler",
    "Segment": "reply_text.trigger",
    "Session": "session",
    "SpeechFailed": "events",
    "TextDelta": "events",
    "Timings": "events",
    "Trigger": "reply_text.trigger",
    "TriggerState": "reply_text.trigger",
}

__all__ = [
    "AudioChunk",
    "ContextDropped",
    "Event",
    "Finished",
    "GenerationSettings",
    "Heard",
    "Judged",
    "Mark",
    "Reply",
    "ReplyTask",
    "Scheduler",
    "Segment",
    "Session",
    "SpeechFailed",
    "TextDelta",
    "Timings",
    "Trigger",
    "TriggerState",
]


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'echox.streaming' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"echox.streaming.{_LAZY[name]}"), name)
    globals()[name] = value
    return value
