"""Processes forked from one that has imported the libraries: ready in a moment, not after six seconds of one core.

They are what their tests need, a process with a folder, variables, threads and an end of its own; what they skip is the
start of Python and the imports. Tests of those start `sys.executable`.
"""

from __future__ import annotations

import atexit
import importlib
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import torch


def context() -> ForkServerContext:
    """Of processes forked from the one that has imported `preloaded`, once for all tests of a file or worker."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(["preloaded"])
    return found


def two(function: Callable[..., None], *arguments: Any) -> None:
    """Call `function` in two processes, the ranks of one training; a failure of either is raised here."""
    several((2,), function, *arguments)


def several(machines: Sequence[int], function: Callable[..., None], *arguments: Any) -> None:
    """As `two`, for the ranks of several machines, by the number of processes on each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context()
    torch.multiprocessing.start_processes(
        _rank, (port, machines, function, arguments), nprocs=sum(machines), start_method="forkserver"
    )


def _rank(
    rank: int, port: int, machines: Sequence[int], function: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    local = [count for count in machines for _ in range(count)]
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(len(local)), LOCAL_WORLD_SIZE=str(local[rank]))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    function(*arguments)


def run(words: Sequence[object], folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """A command to its end: ``["echox", "reply", ...]`` or ``["some/script.py", ...]``; what it wrote comes back.

    Args:
        words: the program and its arguments.
        folder: where it runs.
        variables: environment variables besides those of the test.
    """
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place, "out"), Path(place, "err")
        process = start(words, folder, out, err, **variables)
        process.join()
        code = process.exitcode
        assert code is not None
        process.close()
        return subprocess.CompletedProcess([*map(str, words)], code, out.read_bytes(), err.read_bytes())


def start(
    words: Sequence[object], folder: Path, out: Path, err: Path | None = None, **variables: str
) -> ForkServerProcess:
    """As `run`, without waiting: the process, whose output goes to the files `out` and `err` (or all to `out`)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = context().Process(target=_program, args=([*map(str, words)], folder, out, err or out, environment))
    process.start()
    return process


def _program(words: list[str], folder: Path, out: Path, err: Path, environment: dict[str, str]) -> None:
    for stream, path in ((1, out), (2, err)):
        written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(written, stream)
        os.close(written)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.argv = words
    try:
        if words[0] == "echox":
            importlib.import_module("echox.cli.main").main()
        else:
            sys.path.insert(0, str(Path(words[0]).parent))
            runpy.run_path(words[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # as at the end of a program; a forked process ends without
