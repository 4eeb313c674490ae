"""Errors: their message in one line, as commands print it, and the exceptions that several rooms raise."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires

_OTHER_NAMES = {"aioice": "aiortc", "yaml": "pyyaml"}
"""Packages by the modules that they bring, where the names differ by more than a hyphen."""
_NO_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says of a GPU and of the CPU, in lower case."""


def reason(error: BaseException, most: int = 200) -> str:
    """What another library says in an error, for a message of ours: one line of at most so many characters."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def one_line(error: BaseException) -> str:
    """The message of an error in one line, without a traceback; an unexpected kind of error is marked as such."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("echox"):
        return f"{text}; pip install '{what_brings(error.name)}'"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _says_no_memory(text)):
        return (
            f"expected enough memory, found: {'. '.join(text.split('. ')[:3]) or 'none left'}; take less at a time "
            "(batch size, sessions), fewer bits (--dtype, --quantization) or --device cpu; echox estimate-memory says "
            "what is needed"
        )
    if isinstance(error, ValueError | OSError | FloatingPointError | ImportError) and text:
        return text
    return f"unexpected {type(error).__name__}: {text or 'no message'} (run again with --debug and report it)"


def what_brings(module: str) -> str:
    """What pip installs for a module: this package with the extra that has it, else the package of that name."""
    top = module.partition(".")[0]
    package = _OTHER_NAMES.get(top, top).replace("_", "-")
    try:
        declared = requires("echox") or []
    except PackageNotFoundError:  # run from its sources
        declared = []
    for line in declared:  # as in pyproject.toml, so the first extra is the smallest
        if re.split(r"[^\w.-]", line, maxsplit=1)[0].replace("_", "-").lower() == package.lower():
            extra = re.search(r"""extra\s*==\s*["']([\w-]+)""", line)
            return f"echox[{extra[1]}]" if extra else package
    return package


def _says_no_memory(text: str) -> bool:
    return any(words in text.lower() for words in _NO_MEMORY)


class NotHeard(ValueError):
    """No words were recognised in audio.

    Args:
        message: for users.
        digests: of the audios of a conversation that it concerns.
    """

    def __init__(self, message: str, digests: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.digests = frozenset(digests)


class NoSpeech(NotHeard):
    """The audio holds no speech, only silence or noise."""


class QueueFull(RuntimeError):
    """As many replies wait as the scheduler accepts; try again later."""
