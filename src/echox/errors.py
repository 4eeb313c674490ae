"""Exceptions as users read them: one line. The outermost boundary of every command uses it."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    """What went wrong in one line, without a traceback; an exception that nobody foresaw says so."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ImportError):
        return f"{text}; install the extra that brings it, for example: pip install 'echox[train,data,eval]'"
    if isinstance(error, ValueError | OSError | FloatingPointError) and text:
        return text
    return f"unexpected {type(error).__name__}: {text or 'no message'} (run again with --debug and report it)"


class NoSpeech(ValueError):
    """Audio without speech: silence or noise. Nothing is wrong with the model."""


class QueueFull(RuntimeError):
    """More replies are waiting than the scheduler takes; try again later."""
