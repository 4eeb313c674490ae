"""``about.json`` of a model folder: one line about what the model knows, and questions that it can answer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from echox.files import write_text

ABOUT_FILE = "about.json"
MAX_CHARS = 300
MAX_EXAMPLES = 12


@dataclass(frozen=True)
class About:
    """The content of ``about.json`` in a model folder; pages show it before the first question.

    Attributes:
        knows: what users can ask about, in one line; "": not stated.
        examples: questions that the model answers.

    Raises:
        ValueError: values of another type, too long, or too many.
    """

    knows: str = ""
    examples: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        texts = [self.knows, *self.examples] if isinstance(self.examples, list) else [None]
        if not all(isinstance(text, str) and len(text) <= MAX_CHARS for text in texts) or len(texts) > MAX_EXAMPLES + 1:
            raise ValueError(
                f"about: expected knows (a text) and examples (at most {MAX_EXAMPLES} texts), each of at most "
                f"{MAX_CHARS} characters, found something else"
            )

    @classmethod
    def load(cls, folder: Path) -> About:
        """The content of a model folder's file; empty if the folder has no such file.

        Raises:
            ValueError: the file holds something else.
        """
        path = folder / ABOUT_FILE
        if not path.is_file():
            return cls()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict) or not found.keys() <= {"knows", "examples"}:
                raise ValueError('expected {"knows": ..., "examples": [...]}, found other names')
            return cls(**found)
        except (ValueError, RecursionError) as error:  # also: not JSON, not UTF-8
            raise ValueError(f"{path}: {error}; mend the file, or remove it") from error

    def save(self, folder: Path) -> None:
        """Write the file, unless it would be empty."""
        if self != About():
            write_text(folder / ABOUT_FILE, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")
