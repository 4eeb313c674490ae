"""The inventory of units: phones by name, or the centroids of an extractor; its folder says how many there are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from echox.files import write_text
from echox.units.extract import UnitExtractor

PHONE_UNITS_FILE = "phone_units.json"


def write_phone_units(folder: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Writes the names of phone units: unit 0 is the first of them."""
    write_text(Path(folder) / PHONE_UNITS_FILE, json.dumps({"phones": list(names)}, ensure_ascii=False) + "\n")


def read_num_units(folder: str | os.PathLike[str]) -> int:
    """Number of units of a folder that stage "units" or "phone_units" wrote.

    Raises:
        ValueError: it is neither.
    """
    path = Path(folder) / PHONE_UNITS_FILE
    if not path.is_file():
        return UnitExtractor.read_num_units(folder)
    return len(json.loads(path.read_text(encoding="utf-8"))["phones"])
