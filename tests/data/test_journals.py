"""Journals: what was written before an interruption stays, and a line that it cut takes no later entry with it."""

import json

import pytest

from echox.files import journal_entries, open_journal

WHOLE = '{"id": 1}\n'


@pytest.mark.parametrize("cut", ["", '{"id": 2, "te', '{"id": 2, "text": "caf\u00e9'])
def test_new_entries_stand_behind_a_cut_line(tmp_path, cut):
    path = tmp_path / "folder" / ".journal.jsonl"
    path.parent.mkdir()
    path.write_bytes(WHOLE.encode() + cut.encode()[:-1])
    for number in (3, 4):
        with open_journal(path) as entries:
            entries.write(json.dumps({"id": number}) + "\n")
    assert [entry["id"] for entry in journal_entries(path)] == [1, 3, 4]


def test_a_whole_line_without_its_end_is_an_entry(tmp_path):
    path = tmp_path / "new" / ".journal.jsonl"
    with open_journal(path) as entries:
        entries.write('{"id": 1}')
    with open_journal(path) as entries:
        entries.write('{"id": 2}\n')
    assert [entry["id"] for entry in journal_entries(path)] == [1, 2]


def test_opening_adds_nothing(tmp_path):
    path = tmp_path / ".journal.jsonl"
    with open_journal(path):
        pass
    assert path.read_bytes() == b""
    path.write_text(WHOLE)
    with open_journal(path):
        pass
    assert path.read_text() == WHOLE
