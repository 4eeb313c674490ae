"""The lock of an output folder: two runs in one folder would overwrite each other's checkpoints."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from echox.files import exclusive, write_text

LOCK_NAME = ".lock"
HOLDER_NAME = ".lock_holder"


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
