"""The lock of an output folder: two runs in one folder would overwrite each other's checkpoints."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from echox.files import exclusive, write_text

LOCK_NAME = ".lock"
HOLDER_NAME = ".lock_holder"
CLOCK_S = 2.0
"""Between the clocks of a file system and of the process table, whose zero is a whole second."""
_HOLDER = re.compile(r"process (\d+) on (.+)")


@contextmanager
def output_lock(output_dir: str | Path) -> Iterator[None]:
    """Hold the lock of a folder, which is created if it does not exist; see `exclusive`.

    Of several processes of one run only the first takes the lock.

    Raises:
        ValueError: another process holds it.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        yield
        return
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / HOLDER_NAME  # not in the lock file, which cannot be read on Windows while it is held
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder / LOCK_NAME, wait=False))
        except BlockingIOError as error:
            holder = note.read_text(encoding="utf-8").strip() if note.is_file() else "an unknown process"
            raise ValueError(
                f"{output_dir}: expected a folder that no other run writes to, found one of {holder}; wait for it, "
                "stop it, or choose another training.output_dir"
            ) from error
        write_text(note, f"process {os.getpid()} on {platform.node()}\n")
        stack.callback(note.unlink, missing_ok=True)  # before the lock is released
        yield


def holder_of(folder: Path) -> tuple[str, int | None, str | None]:
    """Who holds the lock of a folder: (state, process, machine).

    The state is "running", "elsewhere" (on another machine, unseen from here) or "stopped" (nobody: the others None).
    Where the system tells when a process began, the lock is not asked: taking it could refuse a run that starts in that
    moment.
    """
    path = folder / HOLDER_NAME
    try:
        noted = _HOLDER.match(path.read_text(encoding="utf-8"))
        written_s = path.stat().st_mtime
    except FileNotFoundError:
        return "stopped", None, None
    if noted is None:
        return "stopped", None, None
    process, machine = int(noted[1]), noted[2].strip()
    if machine != platform.node():
        return "elsewhere", process, machine
    return ("running", process, machine) if _lives(process, written_s, folder) else ("stopped", None, None)


def _lives(process: int, since_s: float, folder: Path) -> bool:
    """Whether the process that wrote the note still runs: killed, it left the note, and another may have its number."""
    clock = Path("/proc/stat")
    if clock.is_file():  # Linux
        try:
            fields = (
                Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            )
        except OSError:
            return False
        started = next(line for line in clock.read_text(encoding="utf-8").splitlines() if line.startswith("btime"))
        began_s = int(started.split()[1]) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return fields[0] != "Z" and began_s <= since_s + CLOCK_S
    try:
        with exclusive(folder / LOCK_NAME, wait=False):
            return False
    except BlockingIOError:
        return True
