"""A model in this process as the subject of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from echox.api import EchoX
from echox.evaluation.scoring.records import fingerprint
from echox.evaluation.sets.items import ChatMessage
from echox.models.turns.conversation_adapters import kind_of
from echox.streaming.events import Reply


def model_fingerprint(model: EchoX, *details: object, tools: bool = False) -> str:
    """`fingerprint` of a model with what it has beside its weights in conversations with, or without, tools."""
    adapter = model.adapters.get(kind_of(tools))
    if adapter is None:
        return fingerprint(model.model, *details)
    beside = adapter.tensors()
    if not tools and model.talk_head is not None:
        beside |= {f"talk_head.{name}": value for name, value in model.talk_head.state_dict().items()}
    return fingerprint(model.model, adapter.scale, *details, beside=beside)


class LocalSubject:
    """A model in this process, asked one question at a time, as in the paper.

    Args:
        model: the model.
        name: for tables.
        folder: from which it was loaded.
    """

    def __init__(self, model: EchoX, name: str = "model", folder: str | None = None) -> None:
        self.model, self.name, self.folder = model, name, folder
        self.key = model_fingerprint(model, model.model.config.to_json_string(), model.settings)

    def answer(self, messages: Sequence[ChatMessage], speak: bool = True) -> Reply:
        """See :class:`echox.evaluation.subjects.subject.Subject`."""
        if not speak:
            return self.model.generate(list(messages), temperature=0.0, speak=False)
        return self.model.generate(list(messages), temperature=0.0, echo_temperature=0.0)
