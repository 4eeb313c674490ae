"""One training at a time in an output folder: two would overwrite each other's checkpoints."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no such locks, so runs are not kept apart there
    fcntl = None  # type: ignore[assignment]

LOCK_NAME = ".lock"


@contextmanager
def output_lock(output_dir: str | Path) -> Iterator[None]:
    """Hold the folder while inside; made if missing. Of several processes of one run only the first takes the lock.

    The lock belongs to the open file: the system gives it up when the process ends, however it ends. The file itself
    stays and means nothing.

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
            # A file system without locks: as before, the user keeps runs apart.
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield
