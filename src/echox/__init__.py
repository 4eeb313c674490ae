"""EchoX: a speech-to-speech language model. This package loads, runs, trains, evaluates and serves it.

Six lines are enough::

    from echox import EchoX, TextDelta

    model = EchoX.from_pretrained("nano")
    reply = model.generate("question.wav")
    for event in model.stream("question.wav"):
        print(event.text if isinstance(event, TextDelta) else f"<{len(event.waveform)} samples>")

The public names are loaded on first use, so that `import echox` costs milliseconds and imports no torch.

Source: Zhang et al. 2025, EchoX, https://arxiv.org/abs/2509.09174.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echox.api import EchoX
    from echox.config import load_recipe
    from echox.streaming import AudioChunk, Reply, TextDelta

    __version__: str

__all__ = ["AudioChunk", "EchoX", "Reply", "TextDelta", "__version__", "load_recipe"]

# Public name -> module that defines it.
_LAZY = {
    "AudioChunk": "echox.streaming",
    "EchoX": "echox.api",
    "Reply": "echox.streaming",
    "TextDelta": "echox.streaming",
    "load_recipe": "echox.config",
}


def __getattr__(name: str) -> object:
    """Import a public name from its module on first use (PEP 562)."""
    if name == "__version__":
        return _version()
    if name not in _LAZY:
        raise AttributeError(f"module 'echox' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("echox")
    except PackageNotFoundError:  # imported from a source tree that was never installed
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
