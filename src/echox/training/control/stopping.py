"""A run that is asked to stop finishes its step, writes a checkpoint, and ends; the same command continues it.

It is asked by a signal to one of its processes (SIGTERM, as Kubernetes and machines on sale send it, or SIGUSR1), or by
a file that appears where the variable ``ECHOX_STOP_FILE`` says, as `runs/launch/slurm.sh` does it. Its exit status says
that it is not finished. But torchrun starts a process again that ends with an error, so a run under torchrun that a
file has stopped ends without one, and its script has to look for the file.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

STOP_FILE = "ECHOX_STOP_FILE"
"""Environment variable: a path, which must be seen by the first process."""
STOPPED = 75
"""Exit status of a run that was asked to stop: EX_TEMPFAIL, try again (https://man.openbsd.org/sysexits)."""
NO, BY_FILE, BY_SIGNAL = 0, 1, 2
"""How a process was asked; of several, the largest counts."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


def exit_status(asked: int) -> int:
    """Of a run that was asked to stop."""
    return 0 if asked == BY_FILE and "TORCHELASTIC_RUN_ID" in os.environ else STOPPED


class StopRequests:
    """What one process of a run was asked.

    Args:
        rank: of the process; the first looks for the file.
    """

    def __init__(self, rank: int) -> None:
        path = os.environ.get(STOP_FILE)
        self._path = Path(path) if path and rank == 0 else None
        self._signalled = False

    @property
    def asked(self) -> int:
        """Whether and how this process was asked: `NO`, `BY_FILE` or `BY_SIGNAL`."""
        if self._signalled:
            return BY_SIGNAL
        return BY_FILE if self._path is not None and self._path.exists() else NO

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within the ``with`` block signals do not end this process; in a thread beside the main one they still do."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


def ignore_signals() -> None:
    """In a process that works for a run: where all processes get the signal, the run still needs this one."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
