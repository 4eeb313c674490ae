"""Sealed questions: no reader gets them, a table of them is refused, an opening is recorded, and happens once."""

import json

import pytest

from echox.data.corpora.nano.world import build_dialogues
from echox.data.sealed import Seal, question_digest, seals
from echox.evaluation.sets import nano, sealed
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.items import read_items
from echox.evaluation.sets.nano import nano_items, nano_questions, open_nano_seal
from echox.evaluation.sets.sealed import draw_nano_seal, read_openings

CLEAN = {"commit": "c" * 40, "dirty": False}
PURPOSE = "Final figures of the shipped nano, for the report."
NOW = "2026-11-29T10:00:00+00:00"


def opened(register, **changes):
    options = {"name": "nano", "purpose": PURPOSE, "state": CLEAN, "now": NOW, "register": register} | changes
    return open_nano_seal(**options)


def test_no_reader_gets_them():
    closed = set(seals()["nano"].digests)
    assert len(closed) == 300
    asked = nano_questions()
    every = [item for item in build_dialogues(with_sealed=True) if item.split != "train" and len(item.turns) == 2]
    assert len(asked) == len(every) - 300
    embedded = [item for items in nano_items(embedded_heldout()).values() for item in items]
    for item in [*asked, *embedded]:
        assert question_digest(item.question) not in closed


def test_the_seal_of_the_package_is_the_drawn_one():
    assert draw_nano_seal(300) == seals()["nano"]


def test_a_table_of_sealed_questions_is_refused_unless_it_was_opened(tmp_path):
    rows = opened(tmp_path / "openings.json")
    assert len(rows) == 300
    table = tmp_path / "items.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    items = read_items(table)
    assert len(items) == 300
    assert all(item.answers and item.columns["topic"] for item in items)
    leaked = [{"question": row["question"].upper(), "answers": row["answers"]} for row in rows[:3]]
    table.write_text("".join(json.dumps(row) + "\n" for row in leaked), encoding="utf-8")
    with pytest.raises(ValueError, match=r"no sealed questions, found 3 of 'nano'.*open-sealed"):
        read_items(table)


def test_an_opening_is_recorded_and_happens_once(tmp_path):
    register = tmp_path / "docs" / "openings.json"
    opened(register)
    (entry,) = read_openings(register)
    assert (entry["at"], entry["commit"], entry["purpose"]) == (NOW, CLEAN["commit"], PURPOSE)
    assert (entry["opening"], entry["questions"]) == (1, 300)
    later = {"name": "another", "at": "2026-12-01", "purpose": "Not this set."}
    register.write_text(json.dumps([entry, later]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"to be sealed, found that it was opened on 2026-11-29.*Final figures"):
        opened(register)
    register.write_text(json.dumps([entry]), encoding="utf-8")
    opened(register, again=True, purpose="The same figures after a mistake in the judge.")
    assert [one["opening"] for one in read_openings(register)] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"purpose": "look"}, "a sentence that says what for, found 'look'"),
        ({"state": {"commit": "c", "dirty": True}}, "a commit without changes"),
        ({"state": {"commit": None, "dirty": None}}, "a git checkout"),
        ({"name": "mini"}, "a sealed set of nano, found 'mini'"),
    ],
)
def test_an_opening_that_says_too_little_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        opened(tmp_path / "openings.json", **changes)
    assert not (tmp_path / "openings.json").exists()


def test_damaged_records_and_changed_corpora_are_refused(tmp_path, monkeypatch):
    register = tmp_path / "openings.json"
    register.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="a JSON list of openings, found dict"):
        opened(register)
    register.unlink()
    wrong = Seal("nano", "a corpus that is no more", 0, 1, ("0" * 16,))
    monkeypatch.setattr(sealed, "seals", lambda: {"nano": wrong})
    with pytest.raises(ValueError, match="the corpus was changed"):
        nano.open_nano_seal("nano", PURPOSE, CLEAN, NOW, register)
