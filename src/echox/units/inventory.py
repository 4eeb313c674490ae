"""The inventory of units: phones by name, or the centroids of an extractor; its folder says how many there are."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from echox.files import json_object, write_text
from echox.units.extract import UnitExtractor

PHONE_UNITS_FILE = "phone_units.json"


def write_phone_units(folder: str | os.PathLike[str], names: Sequence[str]) -> None:
    """Writes the names of phone units: unit 0 is the first of them."""
    write_text(Path(folder) / PHONE_UNITS_FILE, json.dumps({"phones": list(names)}, ensure_ascii=False) + "\n")


def read_phone_units(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the phone units of a folder that stage "phone_units" wrote, by number.

    Raises:
        ValueError: it wrote none there.
    """
    path = Path(folder) / PHONE_UNITS_FILE
    phones = json_object(path, "name the output folder of stage phone_units").get("phones")
    if not (isinstance(phones, list) and phones and all(isinstance(name, str) for name in phones)):
        raise ValueError(f"{path}: expected a list of names, 'phones', found {str(phones)[:80]}")
    return phones


def read_num_units(folder: str | os.PathLike[str]) -> int:
    """Number of units of a folder that stage "units" or "phone_units" wrote.

    Raises:
        ValueError: it is neither.
    """
    if not (Path(folder) / PHONE_UNITS_FILE).is_file():
        return UnitExtractor.read_num_units(folder)
    return len(read_phone_units(folder))
