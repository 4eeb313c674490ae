"""Classes with which other evaluations ask EchoX; each runs in the other tool's environment, with echox installed."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def ultraeval_registry() -> Path:
    """The folder that UltraEval-Audio takes as ``--registry_path``."""
    return Path(str(files("echox") / "evaluation" / "plugins" / "ultraeval" / "registry"))
