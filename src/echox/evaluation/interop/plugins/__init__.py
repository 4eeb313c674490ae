"""Classes through which other evaluation tools ask EchoX; they run in the environment of the other tool."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def ultraeval_registry() -> Path:
    """The folder that UltraEval-Audio takes as ``--registry_path``."""
    return Path(str(files(__name__) / "ultraeval" / "registry"))
