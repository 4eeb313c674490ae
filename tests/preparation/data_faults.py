"""Stage functions that fail on purpose; in a module of their own, so that worker processes can import them."""

import os
import signal
from pathlib import Path


class KilledOnce:
    """Doubles numbers; the first worker that meets the clip "d" is killed, as by a machine that goes away."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __call__(self, rows):
        if any(row["id"] == "d" for row in rows) and not self.mark.exists():
            self.mark.write_text("killed")
            os.kill(os.getpid(), signal.SIGKILL)
        return [{"id": row["id"], "twice": 2 * row["number"]} for row in rows]


class KilledAlways:
    """The clip "d" kills every worker, as a file that makes a decoder crash."""

    def __call__(self, rows):
        if any(row["id"] == "d" for row in rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return [{"id": row["id"], "twice": 2 * row["number"]} for row in rows]


class Counted:
    """Notes every chunk it works on."""

    def __init__(self, log: Path):
        self.log = log

    def __call__(self, rows):
        with self.log.open("a") as out:
            out.write(" ".join(row["id"] for row in rows) + "\n")
        return [{"id": row["id"], "twice": 2 * row["number"]} for row in rows]
