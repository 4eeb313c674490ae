"""Readers of the files of corpora, as `Row`s: lines of text, JSON lines, JSON arrays, Parquet, tar archives.

An item that cannot be read becomes a `Row` whose value is the ValueError, so the damage has a place and reading
continues.
"""

from __future__ import annotations

import json
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from echox.data.corpora.base import Row, safe_name
from echox.files import decoded, stamp, text_lines

_DONE = ".unpacked"


def lines(path: Path, root: Path, folder: Path | None = None) -> Iterator[Row]:
    """Lines of a text file that are not empty; place "file:line"."""
    for number, line in text_lines(path):
        yield Row(f"{path.relative_to(root)}:{number}", line, folder or path.parent)


def json_lines(path: Path, root: Path, folder: Path | None = None) -> Iterator[Row]:
    """One JSON object a line; place "file:line"."""
    for row in lines(path, root, folder):
        value = row.value
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                value = ValueError(f"expected one JSON object a line, found {error}")
        yield Row(row.place, value, row.folder)


def json_array(path: Path, root: Path, folder: Path | None = None) -> Iterator[Row]:
    """Items of one JSON array; place "file:number" (the first is 1)."""
    place, base = str(path.relative_to(root)), folder or path.parent
    try:
        values = json.loads(decoded(path.read_bytes()))
    except json.JSONDecodeError as error:
        yield Row(f"{place}:{error.lineno}", ValueError(f"expected a JSON array, found {error}"), base)
        return
    except ValueError as error:
        yield Row(f"{place}:1", error, base)
        return
    if not isinstance(values, list):
        yield Row(f"{place}:1", ValueError(f"expected a JSON array, found {type(values).__name__}"), base)
        return
    for number, value in enumerate(values, start=1):
        yield Row(f"{place}:{number}", value, base)


def parquet(path: Path, root: Path) -> Iterator[Row]:
    """Rows of a Parquet file as dicts; place "file:number" (the first is 1)."""
    import pyarrow.parquet  # type: ignore[import-untyped]
    from pyarrow import ArrowException

    place = str(path.relative_to(root))
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=64):
            for value in batch.to_pylist():
                number += 1
                yield Row(f"{place}:{number}", value, path.parent)
    except (ArrowException, OSError) as error:
        yield Row(f"{place}:{number + 1}", ValueError(f"expected Parquet, found {error}"), path.parent)


def any_table(path: Path, root: Path) -> Iterator[Row]:
    """Rows of a ``.jsonl``, ``.json`` or ``.parquet`` file."""
    readers: dict[str, Callable[[Path, Path], Iterator[Row]]] = {
        ".jsonl": json_lines,
        ".json": json_array,
        ".parquet": parquet,
    }
    return readers[path.suffix](path, root)


def unpack(archives: Iterable[Path], folder: Path) -> Iterator[tuple[Path, Path, str | None]]:
    """Unpack tar archives, each into its own folder; yields (archive, its folder, the problem or None).

    What was unpacked before is kept, unless the archive has been written again since. Of a truncated archive the
    members before the cut are unpacked. Only plain files without holes, inside the folder, are written.
    """
    for archive in archives:
        target = folder / safe_name(archive.name).removesuffix(".gz").removesuffix(".tar")
        note = target / _DONE
        now = stamp(archive)
        before, _, problem = note.read_text(encoding="utf-8").partition("\n") if note.exists() else ("", "", "")
        if before != now:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            problem = _unpack(archive, target) or ""
            note.write_text(f"{now}\n{problem}", encoding="utf-8")
        yield archive, target, problem or None


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Write a plain file, whole or not at all, in blocks: it may be larger than memory.

    Raises:
        EOFError, OSError, tarfile.TarError: the archive ends before it.
    """
    content = tar.extractfile(member)
    assert content is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("wb") as out:
            shutil.copyfileobj(content, out)
        if path.stat().st_size != member.size:
            raise EOFError(f"{member.name} ends after {path.stat().st_size} of {member.size} bytes")
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _unpack(archive: Path, target: Path) -> str | None:
    count = 0
    try:
        with tarfile.open(archive, "r:*") as tar:  # not "r|*", which unpacks 10 kB at once, whatever comes of them
            for member in tar:
                name = PurePosixPath(member.name)
                if not member.isfile() or member.issparse() or name.is_absolute() or ".." in name.parts:
                    continue
                _write_member(tar, member, target / name)
                count += 1
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        return f"expected a whole archive, found one cut after {count} files ({error}); download it again"
    return None
