"""Tables of others as rows by the names of their columns: JSON lines, CSV, TSV.

No row is lost and no cell gets into another column: a file in which that could happen is refused.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from echox.files import JsonObject, decoded, text_lines

TABLE_ENDINGS = (".jsonl", ".csv", ".tsv")


class _Csv(csv.excel):
    strict = True


class _QuotedTsv(csv.excel_tab):
    """As spreadsheets write it: cells with tabs, line ends or quotation marks are quoted."""

    strict = True


class _PlainTsv(csv.excel_tab):
    """As the format is registered (text/tab-separated-values): quotation marks are letters like any other."""

    quoting = csv.QUOTE_NONE


def read_table(path: str | Path) -> list[JsonObject]:
    """Rows of a file with one of `TABLE_ENDINGS`.

    TSV is read in both of its forms; the one counts in which all rows have as many cells as the first line has names.
    If both do, that of more rows: an open quotation mark swallows the lines that follow.

    Raises:
        ValueError: no such file, another ending, not UTF-8, a line that is no JSON object, a column twice, a row with
            more or fewer cells than columns, or an open quotation mark.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected a table ({', '.join(TABLE_ENDINGS)}), found none; correct its name")
    if path.suffix == ".jsonl":
        return _json_lines(path)
    if path.suffix not in TABLE_ENDINGS:
        found = path.suffix or "no ending"
        raise ValueError(f"{path}: expected {', '.join(TABLE_ENDINGS)}, found {found!r}; convert the table")
    try:
        text = decoded(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return _separated(path, text, (_Csv,) if path.suffix == ".csv" else (_QuotedTsv, _PlainTsv))


def _json_lines(path: Path) -> list[JsonObject]:
    rows = []
    for number, line in text_lines(path):
        try:
            if isinstance(line, ValueError):
                raise line
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: expected one JSON object a line, found {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        rows.append(row)
    return rows


def _separated(path: Path, text: str, forms: Sequence[type[csv.Dialect]]) -> list[JsonObject]:
    """Rows in the form in which they are regular."""
    found: list[list[JsonObject]] = []
    refused: list[ValueError] = []
    for form in forms:
        try:
            found.append(_rows(path, text, form))
        except ValueError as error:
            refused.append(error)
    if not found:
        raise refused[-1]
    return max(found, key=len)


def _rows(path: Path, text: str, form: type[csv.Dialect]) -> list[JsonObject]:
    reader = csv.reader(io.StringIO(text, newline=""), form)
    names: list[str] = []
    rows: list[JsonObject] = []
    try:
        for cells in reader:
            place = f"{path}:{reader.line_num}"
            if not cells:  # an empty line
                continue
            if not names:
                names = cells
                twice = next((name for name in names if name and names.count(name) > 1), None)
                if twice is not None:
                    raise ValueError(f"{place}: expected every column once, found {twice!r} twice; rename one")
                continue
            if len(cells) != len(names):
                raise ValueError(
                    f"{place}: expected {len(names)} cells, as the first line has names, found {len(cells)} "
                    f"({str(cells)[:80]}); quote cells that hold {form.delimiter!r}, or write the table as .jsonl"
                )
            rows.append(dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise ValueError(
            f"{path}:{reader.line_num}: expected each cell with its quotation marks closed and doubled inside, found "
            f"{error}; correct that row, or write the table as .jsonl"
        ) from error
    return rows
