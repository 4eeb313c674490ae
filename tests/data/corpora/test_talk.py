"""Conversations that mini learns from: what is held out stays out, and what is asked for was told before."""

import itertools

import pytest

from echox.config import load_recipe
from echox.data.corpora.talk.conversations import KINDS, Exchange, conversations, gaps
from echox.data.manifest import Dialogue, Turn, read_dialogues, write_dialogues
from echox.data.scoring import normalize_words
from echox.data.splits import SPLITS
from echox.files import packaged_yaml

CONTENT = packaged_yaml("echox.data.corpora.talk", "talk.yaml")
KNOWLEDGE = [Exchange("Who wrote Hamlet?", "Shakespeare wrote Hamlet.", "knowledge", "books")]
PLAYED = {split: list(conversations(split, 400, KNOWLEDGE)) for split in SPLITS}


def words(text):
    return " ".join(normalize_words(text))


def test_every_gap_has_values_and_every_text_can_be_said():
    slots = CONTENT["slots"]
    for one in [*CONTENT["talk"], *CONTENT["told"]]:
        texts = [text for value in one.values() if isinstance(value, list) for text in value]
        assert {gap for text in texts for gap in gaps(text)} <= set(slots), one["topic"]
        assert all(text.isascii() and text == text.strip() for text in texts), one["topic"]
    for topic in CONTENT["talk"]:
        asked = [*topic["asked"], *topic["held_out"]]
        assert all(set(gaps(reply)) <= set(gaps(text)) for reply in topic["replies"] for text in asked), topic["topic"]
        assert not any(character.isdigit() for reply in topic["replies"] for character in reply), topic["topic"]
        assert all(reply[-1] in ".?!" and len(reply.split()) <= 50 for reply in topic["replies"]), topic["topic"]
    for fact in CONTENT["told"]:
        said = [set(gaps(text)) for text in fact["said"]]
        for text in [*fact["replies"], *fact["asked"], *fact["answers"]]:
            assert all(set(gaps(text)) <= one for one in said), (fact["topic"], text)
        assert all(set(gaps(text)) <= set(gaps(asked)) for text in fact["unknown"] for asked in fact["asked"])
    for kind in ("talk", "told"):
        topics = [one["topic"] for one in CONTENT[kind]]
        assert len(set(topics)) == len(topics)


def test_a_wording_means_one_thing_and_is_of_one_split():
    seen = {}
    for topic in CONTENT["talk"]:
        for split, text in itertools.chain(
            *([(split, text) for text in topic[split]] for split in ("asked", "held_out"))
        ):
            assert words(text) not in seen, (text, topic["topic"], seen[words(text)])
            seen[words(text)] = topic["topic"], split
        assert len(topic["held_out"]) >= 2, "one for each of the other splits"
    for choices in CONTENT["slots"].values():
        assert not {words(str(one)) for one in choices["train"]} & {words(str(one)) for one in choices["held_out"]}


def test_splits_share_no_wording_and_no_sum():
    small_talk = {one["topic"] for one in CONTENT["talk"]}
    said = {
        split: {words(one.said) for played in PLAYED[split] for one in played if one.topic in small_talk}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not said[one] & said[other]
    sums = {split: {one.reply for played in PLAYED[split] for one in played if one.kind == "sums"} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert not sums[one] & sums[other]
        assert sums[one]


def test_beside_tools_nothing_is_said_that_a_tool_could_do():
    refused = [one for one in CONTENT["talk"] if one.get("tool")]
    assert {"weather", "alarm_timer", "lights", "search_internet"} <= {one["topic"] for one in refused}
    kept = {one.topic for played in conversations("train", 400, [], beside_tools=True) for one in played}
    assert {"joke", "told_pet"} <= kept
    assert not kept & {*(one["topic"] for one in refused), "plus", "minus", "times", "say_again_nothing"}


def test_what_is_asked_for_was_told_before_and_what_was_not_is_unknown():
    kinds = set()
    for played in itertools.chain(*PLAYED.values()):
        told = []
        for one in played:
            kinds.add(one.kind)
            assert "{" not in one.said + one.reply
            if one.kind == "told":
                assert one.topic in told
                assert words(one.key) in words(one.reply)
                assert words(one.key) not in words(one.said)
            elif one.kind == "unknown":
                assert one.topic not in told
            elif one.topic.startswith("told_"):
                told.append(one.topic.removeprefix("told_"))
    assert kinds == set(KINDS)


def test_sums_are_right():
    operations = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    from num2words import num2words

    numbers = {num2words(number).replace("-", " "): number for number in range(-20, 101)}
    for one in (one for played in PLAYED["train"] for one in played if one.kind == "sums"):
        question, result = one.reply.rstrip(".").lower().split(" is ")
        first, second = question.split(f" {one.topic} ")
        assert operations[one.topic](numbers[first], numbers[second]) == numbers[result]


def test_the_stage_writes_conversations_and_cuts_its_own_replies(tmp_path):
    questions = [
        ("train", "What is a lake?", "A lake is water. It is large. It has zebras."),
        ("train", "Why?", "Because " + " ".join(["very"] * 40) + " long."),
        ("heldout", "What is a hill?", "A hill is a small mountain."),
        ("heldout", "What is a bee?", "A bee is an insect."),
    ]
    write_dialogues(
        tmp_path / "others.jsonl",
        [
            Dialogue(str(place), (Turn("user", asked), Turn("assistant", reply)), split)
            for place, (split, asked, reply) in enumerate(questions)
        ],
    )
    recipe, output = tmp_path / "recipe.yaml", tmp_path / "lessons.jsonl"
    others = tmp_path / "others.jsonl"
    lines = ["stage: talk_lessons", f"output: {output}", f"others: [{others}]", "count: 200", "system: Be brief."]
    recipe.write_text("\n".join(lines), encoding="utf-8")
    counts = load_recipe(recipe).run()
    assert counts == {"train": 200, "validation": 10, "heldout": 10}
    lessons = read_dialogues(output)
    text = {split: [turn.text for one in lessons if one.split == split for turn in one.turns] for split in SPLITS}
    assert "A lake is water. It is large." in text["train"]
    assert not any("very very" in one or "zebras" in one for one in text["train"])
    assert all(one.turns[0] == Turn("system", "Be brief.") for one in lessons if one.split != "train")
    assert 100 < sum(one.turns[0].text == "Be brief." for one in lessons if one.split == "train") < 190
    before = output.read_bytes()
    load_recipe(recipe).run()
    assert output.read_bytes() == before


def test_another_split_is_refused():
    with pytest.raises(ValueError, match="expected one of train, validation, heldout, found 'test'"):
        next(conversations("test", 1, []))
