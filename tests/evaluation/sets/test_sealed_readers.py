"""Nobody reads sealed questions without meaning to: both sources of dialogues leave them out, and few ask for them."""

import argparse
import random
import re
import sys

import pytest

from echox.data.corpora.nano.greetings import build_greetings
from echox.data.corpora.nano.world import build_dialogues
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.data.sealed import any_sealed, seals
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.nano import nano_items, nano_questions
from echox.preparation.conversations.questions import Source
from echox.preparation.conversations.tool_lessons import _Questions
from echox.training.stages.hearing import turn_head
from paths import ROOT

WITH_SEALED = {
    "src/echox/data/corpora/nano/speech.py": "writes the corpus, whose draws depend on all of it",
    "src/echox/evaluation/sets/nano.py": "keeps the order of its sets, and opens the seal",
    "src/echox/evaluation/sets/sealed.py": "draws the seal",
    "src/echox/preparation/conversations/questions.py": "keeps what is near one out of training",
}
MAKERS = {
    "load_facts": {"src/echox/data/corpora/nano/world.py", "src/echox/data/corpora/nano/greetings.py"},
    "dialogue_of_row": {
        "src/echox/data/manifest.py",
        "src/echox/data/shards/dialogues.py",  # shards are written from what `read_dialogues` gave
        "src/echox/preparation/dialogue_shards.py",
    },
}
"""What held-out questions could be made of otherwise, and who uses it."""
SOURCES = [path for part in ("src", "benchmarks", "scripts", "examples") for path in (ROOT / part).rglob("*.py")]


@pytest.fixture(scope="module")
def whole():
    return build_dialogues(with_sealed=True)


@pytest.fixture(scope="module")
def given(whole):
    """What `build_dialogues` gives."""
    return build_dialogues()


@pytest.fixture(scope="module")
def manifest(whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text" / "dialogues.jsonl"
    write_dialogues(path, whole)
    return path


def end_of_turn(given, _):
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from end_of_turn import questions

    return [
        Dialogue("x", (Turn("user", text),)) for text in questions(argparse.Namespace(model="nano", dialogues=None))
    ]


def wants_no_tool(given, _):
    asked = [_Questions(given, split, random.Random(0)) for split in ("validation", "heldout")]
    return [Dialogue("x", one.next()) for one in asked for _ in range(2000)]


READERS = {
    "corpus": lambda given, _: given,
    "manifest": lambda _, manifest: read_dialogues(manifest),
    "turn head": lambda *_: turn_head._CORPORA["nano"](),
    "lessons of tools": wants_no_tool,
    "end of a turn": end_of_turn,
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_of_dialogues_gets_a_sealed_question(reader, given, manifest):
    found = READERS[reader](given, manifest)
    assert len(found) > 500
    assert not any(any_sealed(dialogue.questions) for dialogue in found)


def test_the_test_sets_have_none_and_keep_their_order(manifest, whole):
    asked = nano_questions(manifest.parents[1])
    assert len(asked) == sum(one.split != "train" and len(one.turns) == 2 for one in whole) - 300
    assert [item.id for item in asked] == [item.id for item in nano_questions()]
    embedded = [item for items in nano_items(embedded_heldout()).values() for item in items]
    for item in [*asked, *embedded]:
        texts = [message["content"] for message in item.messages if isinstance(message["content"], str)]
        assert not any_sealed([item.question, *texts])


def test_what_asks_one_before_its_end_is_left_out_of_held_out_splits_only(tmp_path, whole):
    question = next(one.questions[0] for one in whole if any_sealed(one.questions))
    turns = (
        Turn("user", question.upper()),
        Turn("assistant", "Yes."),
        Turn("user", "And you?"),
        Turn("assistant", "No."),
    )
    items = [Dialogue(split, turns, split) for split in ("train", "validation", "heldout_new_voices")]
    items.append(Dialogue("other", turns[2:], "heldout"))
    write_dialogues(tmp_path / "d.jsonl", items)
    assert [one.id for one in read_dialogues(tmp_path / "d.jsonl")] == ["train", "other"]
    assert read_dialogues(tmp_path / "d.jsonl", with_sealed=True) == items


def test_greetings_that_hold_one_are_left_out_where_they_are_read(tmp_path):
    written = build_greetings()
    write_dialogues(tmp_path / "greetings.jsonl", written)
    assert any(any_sealed(one.questions) for one in written)
    assert not any(any_sealed(one.questions) for one in read_dialogues(tmp_path / "greetings.jsonl"))


def test_training_keeps_its_distance_from_them(manifest):
    for source in (Source(1, corpus="nano"), Source(1, dialogues=str(manifest))):
        assert sum(any_sealed(one.questions) for one in source.read()) >= len(seals()["nano"].digests)


def test_who_asks_for_sealed_questions_is_listed():
    asking, making = set(), {name: set() for name in MAKERS}
    for path in SOURCES:
        text, place = path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()
        if re.search(r"\bwith_sealed=", text):
            asking.add(place)
        for name, places in making.items():
            if re.search(rf"\b{name}\b", text):
                places.add(place)
    assert asking == set(WITH_SEALED)
    assert making == MAKERS
