"""Errors: their message in one line, as commands print it, and the exceptions that several rooms raise."""

from __future__ import annotations

from collections.abc import Iterable


def reason(error: BaseException, most: int = 200) -> str:
    """What another library says in an error, for a message of ours: one line of at most so many characters."""
    return " ".join(str(error).split())[:most] or type(error).__name__


def one_line(error: BaseException) -> str:
    """The message of an error in one line, without a traceback; an unexpected kind of error is marked as such."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ImportError):
        return f"{text}; install the extra that brings it, for example: pip install 'echox[train,data,eval]'"
    if isinstance(error, ValueError | OSError | FloatingPointError) and text:
        return text
    return f"unexpected {type(error).__name__}: {text or 'no message'} (run again with --debug and report it)"


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
