"""A lock on an output folder: two runs in one folder would overwrite each other's checkpoints."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks: there the user must keep runs apart
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"


@contextmanager
def output_lock(output_dir: str | Path) -> Iterator[None]:
    """Lock the folder (created if missing) within the ``with`` block. Only the first process of a run takes the lock.

    The lock belongs to the open file: the system releases it when the process ends, in whatever way. The file itself
    stays and has no meaning.

    Raises:
        ValueError: another process holds it.
    """
    if fcntl is None or int(os.environ.get("RANK", 0)) > 0:
        yield
        return
    path = Path(output_dir) / LOCK_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "an unknown process"
            raise ValueError(
                f"{output_dir}: expected a folder that no other run writes to, found one of {holder}; wait for it, "
                "stop it, or choose another training.output_dir"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            # A file system without locks: the user must keep runs apart.
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
