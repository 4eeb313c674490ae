"""A pool of worker processes that decode audio: send files to them, wait, kill, replace.

The workers are started by `subprocess` with this interpreter, not by `multiprocessing`: a script that decodes one file
needs no ``if __name__ == "__main__"`` for it, and a worker imports nothing of the parent script.
"""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

from echox.audio_decoding.limits import DecodeLimits
from echox.audio_decoding.protocol import ANSWER, FAILED, READY, REFUSED, REQUEST, SAMPLES, TOO_MUCH_MEMORY
from echox.audio_decoding.waiting import waits

log = logging.getLogger(__name__)

_START_S = 60.0  # for a worker to start from a slow disk on a busy machine
_JOBS = 500  # files of one worker; then it is replaced, with the memory that libraries leaked
_LARGE_BYTES = 32 * 2**20  # a file or result of this size also replaces its worker, so that idle workers stay small
_MAX_MESSAGE_BYTES = 1 << 16
# The environment of a worker: where libraries are, and no secrets.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
_WORKER = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from echox.audio_decoding.worker import main; main()"
)


class DecodingCancelled(Exception):
    """The decoding was cancelled by its job."""


class DecodingJob:
    """A handle to cancel one decoding.

    `cancel` may be called from any thread, before, during and after the decoding; its worker is killed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """End the decoding now."""
        with self._lock:
            self.cancelled = True
            if self._worker is not None:
                self._worker.kill("cancelled")

    def begin(self, worker: _Worker) -> None:
        """The decoding runs in this worker now.

        Raises:
            DecodingCancelled: it was cancelled before.
        """
        with self._lock:
            if self.cancelled:
                raise DecodingCancelled
            self._worker = worker

    def end(self) -> None:
        """The decoding has ended."""
        with self._lock:
            self._worker = None


class DecoderPool:
    """Worker processes that decode audio files, one file each at a time.

    Workers start when they are needed, or earlier by `warm`, and are kept. A worker that crashes, exceeds its limits or
    is killed is replaced at once. A pool can be used from several threads.

    Args:
        size: files decoded at the same time; further calls wait.

    Raises:
        ValueError: `size` is below 1.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"expected at least 1 decoding process, found {size}")
        self.size = size
        self._slots = threading.BoundedSemaphore(size)
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._busy: set[_Worker] = set()
        self._closed = False

    def warm(self) -> None:
        """Start all workers that are not running yet, without waiting for them."""
        with self._lock:
            while not self._closed and len(self._idle) < self.size:
                self._idle.append(_Worker())

    def decode(
        self, content: bytes, sampling_rate: int, max_duration_s: float, job: DecodingJob | None = None
    ) -> np.ndarray:
        """Decode a whole file to mono samples.

        Args:
            content: the file.
            sampling_rate: rate of the result, Hz.
            max_duration_s: longer audio is refused.
            job: allows to cancel the decoding.

        Returns:
            Samples ``(S,)`` float32, S >= 1, all finite.

        Raises:
            ValueError: no supported audio format, too long, beyond the limits of one file; or this is Windows.
            DecodingCancelled: the job was cancelled.
            RuntimeError: no worker can be started, or the pool is closed.
        """
        job = job or DecodingJob()
        with self._slots:
            worker = self._take()
            try:
                with self._lock:
                    self._busy.add(worker)
                job.begin(worker)
                return worker.decode(content, sampling_rate, max_duration_s)
            finally:
                job.end()
                self._give(worker)

    def close(self) -> None:
        """End all workers; their decodings are cancelled."""
        with self._lock:
            self._closed = True
            workers, self._idle = self._idle, []
            busy = list(self._busy)
        for worker in busy:
            worker.kill("cancelled")
        for worker in workers:
            worker.discard("closed")

    @property
    def busy(self) -> int:
        """Number of files that are being decoded."""
        with self._lock:
            return len(self._busy)

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Process ids of the idle workers."""
        with self._lock:
            return tuple(worker.pid for worker in self._idle)

    def _take(self) -> _Worker:
        with self._lock:
            if self._closed:
                raise RuntimeError("expected an open pool of decoders, found a closed one; make a new DecoderPool")
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.discard("died")
        return _Worker()

    def _give(self, worker: _Worker) -> None:
        usable = worker.alive and not worker.worn
        if not usable:
            worker.discard("replaced")
        with self._lock:
            self._busy.discard(worker)
            if self._closed:
                worker.discard("closed")
                return
            try:
                self._idle.append(worker if usable else _Worker())
            except RuntimeError as error:  # this file is decoded; the decoding of the next one raises
                log.warning("no decoder in place of one that ended: %s", error)


class _Worker:
    """One worker process, and the pipes to it."""

    def __init__(self) -> None:
        if sys.platform == "win32":
            raise ValueError(
                "expected Linux or macOS, whose limits hold the process that reads audio, found Windows; run EchoX in "
                "WSL2 (docs/quickstart.md)"
            )
        root = str(Path(__file__).resolve().parents[2])
        folders = [str(Path(folder).resolve()) for folder in sys.path]
        folders += [root] if root not in folders else []
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WORKER, json.dumps(folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                cwd="/",
                env={**kept, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except OSError as error:
            raise RuntimeError(f"expected to start a process that decodes audio, found: {error}") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._ready = False
        self._jobs = 0
        self.worn = False

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self, reason: str) -> None:
        """End the process; of several reasons the first one counts."""
        with self._lock:
            if self._reason is None:
                self._reason = reason
        self._process.kill()
        self._process.wait()

    def discard(self, reason: str) -> None:
        """End the process and close its pipes; no thread may be reading from them."""
        self.kill(reason)
        self._requests.close()
        self._answers.close()

    def decode(self, content: bytes, sampling_rate: int, max_duration_s: float) -> np.ndarray:
        """See `DecoderPool.decode`."""
        limits = DecodeLimits.of(len(content), sampling_rate, max_duration_s)
        try:
            self._wait_until_ready()
            with _Alarm(limits.wall_s, self):
                self._write(REQUEST.pack(len(content), sampling_rate, max_duration_s))
                self._write(content)
                status, body = self._read_answer(4 * (int(np.ceil(max_duration_s * sampling_rate)) + 2))
        except (EOFError, OSError):
            raise self._died(limits) from None
        self._jobs += 1
        self.worn = self._jobs >= _JOBS or len(content) + len(body) >= _LARGE_BYTES
        if status == SAMPLES and len(body) and len(body) % 4 == 0:
            samples = np.frombuffer(body, np.float32)
            if np.isfinite(samples).all():
                return samples
            status = FAILED
        if status == REFUSED:
            raise ValueError(body.decode("utf-8", "replace"))
        self.worn = True
        if status == TOO_MUCH_MEMORY:
            raise _too_costly(limits)
        log.warning("the audio decoder failed: %.500r", bytes(body[:500]))
        raise ValueError("expected audio, found a file that the decoder fails on; convert it to WAV")

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        try:
            with _Alarm(_START_S, self):
                status, _ = self._read_answer(0)
        except (EOFError, OSError):
            status = FAILED
        if status != READY:
            if self._reason == "cancelled":
                raise DecodingCancelled
            self.kill("failed to start")
            raise RuntimeError(
                f"expected a process that decodes audio, found one that does not start (exit status "
                f"{self._process.returncode}); try: {sys.executable} -c 'import av, soundfile, soxr'"
            )
        self._ready = True

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._requests.write(rest) :]

    def _read_answer(self, most_bytes: int) -> tuple[int, bytearray]:
        status, size = ANSWER.unpack(self._read(ANSWER.size))
        if size > (most_bytes if status == SAMPLES else _MAX_MESSAGE_BYTES):
            self.kill("nonsense")
            raise EOFError
        return status, self._read(size)

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            count = self._answers.readinto(rest)  # type: ignore[attr-defined]
            if not count:
                raise EOFError
            rest = rest[count:]
        return data

    def _died(self, limits: DecodeLimits) -> Exception:
        """The error for the caller of a decoding during which the process ended."""
        self.kill("crashed")
        if self._reason == "cancelled":
            return DecodingCancelled()
        status = self._process.returncode
        if status == -signal.SIGXCPU:
            return _too_costly(limits)
        if self._reason == "time":
            found = "found a file that takes longer; convert it to WAV"
            return ValueError(f"expected audio that decodes within {limits.wall_s:g} s, {found}")
        log.warning("the audio decoder ended (%s, exit status %s) on a file", self._reason, status)
        return ValueError("expected audio, found a file that the decoder crashes on; convert it to WAV")


class _Alarm:
    """Kills a worker after some seconds in which this process runs, unless it is left before."""

    def __init__(self, seconds: float, worker: _Worker) -> None:
        self._seconds, self._worker = seconds, worker
        self._left = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._wait, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._left.set()

    def _wait(self) -> None:
        if not any(self._left.wait(wait_s) for wait_s in waits(self._seconds)):
            self._worker.kill("time")


def _too_costly(limits: DecodeLimits) -> ValueError:
    return ValueError(
        f"expected audio that decodes within {limits.cpu_s} s of computing and {limits.memory_bytes >> 20} MiB, found "
        "a file that needs more; convert it to WAV"
    )


def shared_pool() -> DecoderPool:
    """The pool that callers without one of their own share; made on first use, also after a fork."""
    return _pool_of(os.getpid())


@functools.lru_cache(maxsize=1)
def _pool_of(process_id: int) -> DecoderPool:
    # A forked child inherits its parent's pool, whose pipes are not its own: another process id, another pool.
    pool = DecoderPool(max(2, min(4, os.cpu_count() or 1)))
    atexit.register(pool.close)
    return pool
