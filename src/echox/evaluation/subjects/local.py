"""A model in this process as the subject of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

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


def weights_of_package(folder: str | Path) -> dict[str, str]:
    """Hashes of a packaged model, by which a record says what it was measured of.

    Args:
        folder: of the package, or the name of an embedded one.

    Returns:
        ``conversation`` and ``tools`` (`model_fingerprint`), ``alone`` (the weights without what stands beside them),
        ``subject`` (the key of `LocalSubject`); nothing where the folder holds no model, only its records.
    """
    if Path(folder).is_dir() and not (Path(folder) / "config.json").is_file():
        return {}
    model = EchoX.from_pretrained(str(folder), device="cpu")
    return {
        "conversation": model_fingerprint(model),
        "tools": model_fingerprint(model, tools=True),
        "alone": fingerprint(model.model),
        "subject": LocalSubject(model).key,
    }


def weights_notice(found: str | None, ships: Mapping[str, str], kind: str = "conversation") -> str | None:
    """What is said beside figures that are not of the package; None: they are, or it is not known.

    Args:
        found: hash of what was measured.
        ships: `weights_of_package`.
        kind: which of them it should be.
    """
    if found is None or not ships or found == ships[kind]:
        return None
    if found == ships["alone"]:
        return (
            f"**Not of what ships (`{ships[kind]}`)**: of its weights alone (`{found}`), before adapters stood beside "
            "them."
        )
    return f"**Not of what ships (`{ships[kind]}`)**: of earlier weights (`{found}`)."


class LocalSubject:
    """A model in this process, asked one question at a time, as in the paper.

    Args:
        model: the model.
        name: for tables.
        folder: from which it was loaded.
    """

    def __init__(self, model: EchoX, name: str = "model", folder: str | None = None) -> None:
        self.model, self.name, self.folder = model, name, folder
        self.spoken_language = model.settings.spoken_language or model.model.config.spoken_language
        self.key = model_fingerprint(model, model.model.config.to_json_string(), model.settings)

    def answer(self, messages: Sequence[ChatMessage], speak: bool = True) -> Reply:
        """See :class:`echox.evaluation.subjects.subject.Subject`."""
        if not speak:
            return self.model.generate(list(messages), temperature=0.0, speak=False)
        return self.model.generate(list(messages), temperature=0.0, echo_temperature=0.0)
