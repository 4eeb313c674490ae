"""The Python API: `EchoX` is loaded from a folder or the hub, answers questions, takes adapters and is saved."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from echox.api.model import EchoX, ReplyStream

__all__ = ["EchoX", "ReplyStream"]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), so that light modules of this room import no torch."""
    if name not in __all__:
        raise AttributeError(f"module 'echox.api' has no attribute {name!r}; public names: {', '.join(__all__)}")
    value = getattr(importlib.import_module("echox.api.model"), name)
    globals()[name] = value
    return value
