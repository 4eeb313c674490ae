"""Files: written completely or not at all, weights, locks, JSON and lines of other programs, journals, checksums."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

JsonObject = dict[str, Any]
"""A JSON object. Its values are of any type until the code that reads them has checked them."""

_BLOCK_BYTES = 1 << 20


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file under another name, then rename it: a full disk or a kill never leaves a part of it.

    Raises:
        OSError: it cannot be written; an older file with this name stays.
    """
    with _written_aside(Path(path)) as partial:
        partial.write_text(text, encoding="utf-8")


def write_bytes(path: str | Path, content: bytes) -> None:
    """`write_text` for bytes."""
    with _written_aside(Path(path)) as partial:
        partial.write_bytes(content)


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """`write_text` for tensors, in the format of safetensors; whoever can read new files here can read them.

    Raises:
        OSError, SafetensorError: it cannot be written; an older file with this name stays.
    """
    from safetensors.torch import save_file

    with _written_aside(Path(path)) as partial:
        save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, partial, metadata)
        give_usual_mode([partial])


def save_model(model: PreTrainedModel, folder: str | Path, state_dict: dict[str, Tensor] | None = None) -> None:
    """The ``save_pretrained`` of transformers, and whoever can read new files here can read the weights.

    Raises:
        OSError, SafetensorError: it cannot be written.
    """
    model.save_pretrained(folder, state_dict=state_dict)
    give_usual_mode(Path(folder).glob("*.safetensors"))


def give_usual_mode(paths: Iterable[Path]) -> None:
    """Give files the mode of a new one: safetensors lets nobody but the owner read what it writes."""
    for path in paths:
        new = path.with_name(f".{path.name}.{os.getpid()}.mode")  # the umask is read by changing it, for all threads
        new.touch()
        shutil.copymode(new, path)
        new.unlink()


@contextmanager
def _written_aside(path: Path) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(path: str | Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock file: only one process at a time is inside.

    The system releases the lock when the process ends, however it ends. The file itself stays, and means nothing
    without a process that holds it. On a file system without locks, processes are not kept apart.

    Args:
        path: of the lock file, which is created in an existing folder.
        wait: until another process leaves.

    Raises:
        BlockingIOError: another process is inside, and `wait` is False.
        OSError: the file cannot be created.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "held by another process", str(path)) from error
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise
    try:
        yield
    finally:
        lock.release()


def folder_bytes(folder: str | Path) -> int:
    """Size of all files of a folder, those of its folders too."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def folder_name(folder: str | Path) -> str:
    """The name of a folder, also where it is named "." or ends with ".."; "": the root of all."""
    path = Path(folder)
    return path.name if path.name not in ("", "..") else path.resolve().name


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def stamp(path: str | Path) -> str:
    """Names, sizes and times of the files of a folder (or of one file): it changes when they are written again.

    A path that does not exist (the id of a repository) is returned unchanged.
    """
    path = Path(path)
    if not path.exists():
        return str(path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return " ".join(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}" for file in files)


def content_digest(path: str | Path) -> str:
    """Twelve hexadecimal digits of the names and contents of the files of a folder (or of one file), wherever it lies.

    Notes (Markdown) do not count. A path that does not exist (a name, the id of a repository) is returned unchanged.
    """
    path = Path(path)
    if not path.exists():
        return str(path)
    digest = hashlib.sha256()
    found = [file for file in path.rglob("*") if file.is_file() and file.suffix != ".md"] if path.is_dir() else [path]
    for file in sorted(found):
        digest.update(f"{file.relative_to(path)} {file_sha256(file)}\n".encode())
    return digest.hexdigest()[:12]


def decoded(content: bytes) -> str:
    """UTF-8 text without the byte order mark that some editors put first.

    Raises:
        ValueError: another encoding; the message says where it was found, and how to convert the file.
    """
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected UTF-8 text, found byte 0x{content[error.start]:02x} after {error.start} bytes; "
            "convert the file, for example: iconv -f latin1 -t utf-8"
        ) from error


def json_object(path: Path, remedy: str) -> JsonObject:
    """The object in a JSON file of another program.

    Args:
        path: of the file.
        remedy: the end of the error's message: what to do if the file holds something else.

    Raises:
        ValueError: it cannot be read, is not JSON, or holds another value.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = "something nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path}: expected JSON, found {reason}; {remedy}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}; {remedy}")
    return content


def packaged_yaml(package: str, name: str) -> JsonObject:
    """The object in a YAML file that comes with this package, beside its modules.

    Args:
        package: dotted name of the folder.
        name: of the file.
    """
    import yaml

    content: JsonObject = yaml.safe_load((resources.files(package) / name).read_text(encoding="utf-8"))
    return content


def write_lines(path: str | Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Write a JSON object a line; an older file is replaced whole."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def text_lines(path: str | Path) -> Iterator[tuple[int, str | ValueError]]:
    """Lines of a UTF-8 file that are not empty, with their numbers from 1; an error in place of one that is not UTF-8.

    Only a line feed ends a line: other separators of Unicode may occur inside JSON strings.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        for number, content in enumerate(file, start=1):
            try:
                line = decoded(content)
            except ValueError as error:
                yield number, error
                continue
            if line.strip():
                yield number, line.rstrip("\r\n")


def journal_entries(path: str | Path) -> Iterator[Any]:
    """Values of a journal, one JSON text a line; a line that was cut by an interruption is left out.

    A file that does not exist has no entries.
    """
    if not Path(path).exists():
        return
    for _, line in text_lines(path):
        if isinstance(line, ValueError):  # cut inside a character
            continue
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


@contextmanager
def open_journal(path: str | Path) -> Iterator[TextIO]:
    """Open a journal to add entries, and make its folder. A line that was cut takes no new entry with it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            file.write(b"\n")
    with path.open("a", encoding="utf-8") as entries:
        yield entries
