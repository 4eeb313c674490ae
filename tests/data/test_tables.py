"""Tables of others: every row is read with its cells in their columns, or the file is refused by name."""

import csv
import io
import json
import random

import pytest

from echox.data.tables import read_table

NAMES = ["id", "question", "answers"]
PIECES = ["Paris", "a, b", 'say "hi"', '"quoted"', "two\nlines", "a\ttab", "", " ", "['x']", "ü", '"', "it's", "\r\n"]


def random_rows(seed, pieces, count=20):
    rng = random.Random(seed)
    return [
        {"id": str(number), **{name: "".join(rng.choices(pieces, k=rng.randint(0, 3))) for name in NAMES[1:]}}
        for number in range(count)
    ]


def written(rows, dialect):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, NAMES, dialect=dialect)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(("name", "dialect"), [("a.csv", csv.excel), ("a.tsv", csv.excel_tab)])
@pytest.mark.parametrize("seed", range(20))
def test_what_a_spreadsheet_writes_is_read_as_it_was(tmp_path, name, dialect, seed):
    rows = random_rows(seed, PIECES)
    assert read_table(table(tmp_path, name, written(rows, dialect))) == rows


@pytest.mark.parametrize("seed", range(20))
def test_quotation_marks_of_plain_tsv_are_letters(tmp_path, seed):
    """As many tools write it: no cell is quoted, so one may begin with a mark that nothing closes."""
    pieces = [piece for piece in PIECES if not set(piece) & set("\t\r\n")]
    rows = random_rows(seed, pieces)
    rows[seed]["answers"] = '"To be" or not'
    lines = ["\t".join(NAMES), *("\t".join(row.values()) for row in rows)]
    assert read_table(table(tmp_path, "a.tsv", "\n".join(lines) + "\n")) == rows


@pytest.mark.parametrize("mark_at", [(1, 3), (2, 2), (1, 9)])
def test_a_quotation_mark_swallows_no_rows_of_tsv(tmp_path, mark_at):
    cells = [[str(number), "Where?", "Paris"] for number in range(10)]
    cells[mark_at[0]][2] = '"Paris'
    cells[mark_at[1]][2] += '"'
    text = "\n".join("\t".join(line) for line in [NAMES, *cells])
    assert [list(row.values()) for row in read_table(table(tmp_path, "a.tsv", text))] == (
        [[cell.strip('"') for cell in line] for line in cells] if mark_at[0] == mark_at[1] else cells
    )


def without_last_cell(cells):
    return cells[:-1]


def with_another_cell(cells):
    return [*cells, "more"]


def with_an_open_mark(cells):
    return ['"' + cells[0], *cells[1:]]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("damage", [without_last_cell, with_another_cell, with_an_open_mark])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_a_damaged_row_is_named_or_read_and_never_lost(tmp_path, name, damage, place):
    cells = [[str(number), "Where?", "Paris"] for number in range(10)]
    cells[place] = damage(cells[place])
    mark = "," if name == "a.csv" else "\t"
    path = table(tmp_path, name, "\n".join(mark.join(line) for line in [NAMES, *cells]) + "\n")
    if name == "a.tsv" and damage is with_an_open_mark:
        assert [list(row.values()) for row in read_table(path)] == cells
        return
    with pytest.raises(ValueError, match=rf"{name}:\d+: expected .*found") as refused:
        read_table(path)
    if damage is not with_an_open_mark:
        assert f"{name}:{place + 2}:" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "id,question,id\n1,a,b\n", "every column once, found 'id' twice"),
        ("a.csv", b"question\n\xe9\n", "a.csv: expected UTF-8"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: expected a JSON object, found list"),
        ("a.jsonl", '{"a": 1}\n{"a"\n', "a.jsonl:2: expected one JSON object a line"),
        ("a.txt", "question\n", "expected .jsonl, .csv, .tsv, found '.txt'"),
    ],
)
def test_what_is_no_table_is_refused_by_name(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message):
        read_table(path)
    with pytest.raises(ValueError, match="found none"):
        read_table(tmp_path / "absent.csv")


def test_empty_lines_and_a_mark_at_the_beginning_are_nothing(tmp_path):
    path = table(tmp_path, "a.csv", "\ufeffid,question\r\n\r\n1,Where?\r\n\r\n")
    assert read_table(path) == [{"id": "1", "question": "Where?"}]
    path = table(tmp_path, "a.jsonl", json.dumps({"id": 1}) + "\n\n")
    assert read_table(path) == [{"id": 1}]
