"""Files of shards by location: a path, or the address of an object store (``s3://bucket/folder``) through fsspec."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, BinaryIO

from echox import files


def joined(folder: str, name: str) -> str:
    """The location of a file or folder in a folder."""
    return f"{folder.rstrip('/')}/{name}"


def is_remote(location: str) -> bool:
    """Whether it is the address of an object store."""
    return "://" in location


def read_bytes(location: str, start: int | None = None, stop: int | None = None) -> bytes:
    """Bytes of a file, all or those from `start` to `stop`; from an object store in one request.

    Raises:
        ValueError: no such file; an address whose library is not installed; a store that sends more than was asked for.
    """
    try:
        if is_remote(location):
            system, path = _system(location)
            content = system.cat_file(path, start=start, end=stop)
            if stop is not None and len(content) > stop - (start or 0):
                raise ValueError(
                    f"{location}: expected {stop - (start or 0)} bytes from {start or 0}, found {len(content)}: the "
                    "store ignores ranges; copy the shards to one that does not, or to a disk"
                )
            return content
        with Path(location).open("rb") as file:
            file.seek(start or 0)
            return file.read(-1 if stop is None else stop - (start or 0))
    except OSError as error:
        raise ValueError(f"{location}: expected a file that can be read, found {error.strerror or error}") from error


def opened(location: str) -> BinaryIO:
    """A file to read and to seek in; one of an object store is in memory.

    Raises:
        OSError: it cannot be read on this disk.
        ValueError: it cannot be read from the object store.
    """
    return io.BytesIO(read_bytes(location)) if is_remote(location) else Path(location).open("rb")


def write_bytes(location: str, content: bytes) -> None:
    """Write a file, complete or not at all.

    Raises:
        OSError: it cannot be written.
        ValueError: an address whose library is not installed.
    """
    if is_remote(location):
        system, path = _system(location)
        system.pipe_file(path, content)
    else:
        files.write_bytes(location, content)


def names_in(folder: str) -> list[str]:
    """Names of the files and folders in a folder, sorted; empty if there is no such folder.

    Raises:
        ValueError: an address whose library is not installed.
    """
    if is_remote(folder):
        system, path = _system(folder)
        found = system.ls(path, detail=False) if system.isdir(path) else []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)
    return sorted(os.listdir(folder)) if Path(folder).is_dir() else []  # noqa: PTH208 - names alone, of very many


def _system(location: str) -> tuple[Any, str]:
    """The file system of an address (fsspec keeps one for each process), and the path in it."""
    import fsspec  # type: ignore[import-untyped]

    try:
        return fsspec.core.url_to_fs(location)
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"{location}: expected an address that fsspec can open here, found: {error}; install its library "
            "(s3fs for s3://, gcsfs for gs://, adlfs for az://), or copy the shards to a disk"
        ) from error
