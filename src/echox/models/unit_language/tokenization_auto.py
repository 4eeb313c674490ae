"""`AutoUnitLanguage`: loads a unit language of either kind."""

from __future__ import annotations

import json
import os
from pathlib import Path

from transformers.utils import cached_file

from echox.models.unit_language.tokenization_unit_language import UNIT_LANGUAGE_FILE, UnitLanguage
from echox.models.unit_language.tokenization_unit_pieces import UnitPieces


class AutoUnitLanguage:
    """Loads the kind of unit language that ``unit_language.json`` holds."""

    @staticmethod
    def from_pretrained(folder_or_id: str | os.PathLike[str], **options: str | None) -> UnitLanguage:
        """Reads a unit language from a folder or a Hugging Face repository.

        Args:
            folder_or_id: folder that holds ``unit_language.json``, or a repository id.
            **options: ``subfolder``, ``revision``, ``cache_dir`` for a repository or folder, as in transformers.

        Returns:
            `UnitPieces` if unit words are spelled in text tokens, else `UnitLanguage`.

        Raises:
            ValueError: the file is not a unit language. OSError: there is no such file.
        """
        path = cached_file(str(folder_or_id), UNIT_LANGUAGE_FILE, **options)
        if path is None:
            raise OSError(f"expected {UNIT_LANGUAGE_FILE} in {folder_or_id}, found none")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: expected JSON, found an error at line {error.lineno}: {error.msg}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: expected an object, found {type(content).__name__}")
        if "pieces" in content:
            return UnitPieces(content["pieces"], content["num_units"])
        return UnitLanguage.from_dict(content, str(path))
