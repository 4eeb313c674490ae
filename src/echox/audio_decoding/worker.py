"""The worker process: reads files from standard input one after the other, writes samples to standard output.

Before the first file it gives up what it does not need: it can open no file and no socket, write none, and dump no
core. Each file has its own bounds of address space and computing time; the parent limits the clock time. On
macOS the bound of the address space has no effect.

Source: https://man7.org/linux/man-pages/man2/getrlimit.2.html
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import struct
from typing import BinaryIO

from echox.audio_decoding.decoders import decode
from echox.audio_decoding.limits import DecodeLimits
from echox.audio_decoding.protocol import ANSWER, FAILED, READY, REFUSED, REQUEST, SAMPLES, TOO_MUCH_MEMORY

_WARM_UP_RATE_HZ = 8_000
_PAGE_BYTES = resource.getpagesize()


def main() -> None:
    """Decode files until the parent closes standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C, and closes our input
    requests, answers = _private_streams()
    _warm_up()
    with contextlib.suppress(FileNotFoundError):  # macOS has no such file
        _Memory.statm = os.open("/proc/self/statm", os.O_RDONLY)
    _give_up_rights()
    _answer(answers, READY, b"")
    while len(head := requests.read(REQUEST.size)) == REQUEST.size:
        size, sampling_rate, max_duration_s = REQUEST.unpack(head)
        content = requests.read(size)
        if len(content) < size:
            return
        _answer(answers, *_serve(content, sampling_rate, max_duration_s))


class _Memory:
    """Bytes of address space in use."""

    statm: int | None = None

    @classmethod
    def used_bytes(cls) -> int | None:
        """None if the system does not report it."""
        return None if cls.statm is None else int(os.pread(cls.statm, 64, 0).split()[0]) * _PAGE_BYTES


def _serve(content: bytes, sampling_rate: int, max_duration_s: float) -> tuple[int, bytes | memoryview]:
    _bound(DecodeLimits.of(len(content), sampling_rate, max_duration_s))
    try:
        return SAMPLES, decode(content, sampling_rate, max_duration_s).data.cast("B")
    except ValueError as error:
        return REFUSED, str(error).encode()
    except MemoryError:
        return TOO_MUCH_MEMORY, b""
    except Exception as error:  # noqa: BLE001 - sent to the parent, which logs it
        return FAILED, f"{type(error).__name__}: {error}".encode()


def _bound(limits: DecodeLimits) -> None:
    """Set the limits for the next file, on top of what was used before."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used_s = int(usage.ru_utime + usage.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used_s + limits.cpu_s, resource.RLIM_INFINITY))
    used_bytes = _Memory.used_bytes()
    if used_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used_bytes + limits.memory_bytes, resource.RLIM_INFINITY))


def _give_up_rights() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))  # open files stay open; no other can be opened


def _private_streams() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes, under file descriptors that no library prints to."""
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=1 << 16), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    return requests, answers


def _answer(stream: BinaryIO, status: int, body: bytes | memoryview) -> None:
    for part in (memoryview(ANSWER.pack(status, len(body))), memoryview(body)):
        while part:
            part = part[stream.write(part) :]


def _warm_up() -> None:
    """Load every library and table that decoding needs, while files can still be opened."""
    import av
    import av.logging

    av.logging.set_level(None)  # FFmpeg's messages about a file are not printed
    from echox.audio_decoding import decoders
    from echox.audio_decoding.containers import WAV

    silence = b"\x00\x00" * (_WARM_UP_RATE_HZ // 10)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _WARM_UP_RATE_HZ, 2 * _WARM_UP_RATE_HZ, 2, 16)
    data = struct.pack("<4sI", b"data", len(silence)) + silence
    content = struct.pack("<4sI4s", b"RIFF", 4 + len(form) + len(data), b"WAVE") + form + data
    decode(content, 2 * _WARM_UP_RATE_HZ, 1.0)
    assert sum(len(block) for block, _ in decoders._ffmpeg_blocks(content, WAV)) == _WARM_UP_RATE_HZ // 10
    for nonsense in (content[:20], content[:40], b"", b"OggS\x00" * 9):
        with contextlib.suppress(ValueError):
            decode(nonsense, _WARM_UP_RATE_HZ, 1.0)
