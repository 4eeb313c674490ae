"""Greetings of the nano corpus: held out by wording, one reply each, and a part of their own."""

import random
from collections import Counter, defaultdict

import pytest

from echox.data.corpora.nano import speech
from echox.data.corpora.nano.greetings import OTHERS, TOPIC, build_greetings, spoken_requests
from echox.data.corpora.nano.world import build_dialogues, reply_sentences, spoken_words

SPLITS = ("train", "validation", "heldout")


@pytest.fixture(scope="module")
def greetings():
    return build_greetings(seed=0)


@pytest.fixture(scope="module")
def others():
    return build_dialogues(seed=0)


def requests(dialogues, split):
    return {d.turns[-2].text.lower().rstrip(".?") for d in dialogues if d.split == split and d.topic.startswith(TOPIC)}


def words(texts):
    return {word.lower() for word in spoken_words(sorted(texts))}


def test_held_out_wordings_are_in_no_other_part(greetings, others):
    train, validation, heldout = (requests(greetings, split) for split in SPLITS)
    assert len(heldout) >= 50
    assert not train & validation
    assert not heldout & (train | validation)
    asked = {turn.text.lower().rstrip(".?") for d in others for turn in d.turns if turn.role == "user"}
    assert not heldout & asked


def test_words_of_held_out_requests_occur_in_training(greetings, others):
    known = words({turn.text for d in [*greetings, *others] if d.split == "train" for turn in d.turns})
    alone = {d.turns[-2].text for d in greetings if d.split != "train" and d.topic == TOPIC}
    assert words(alone) <= known


def test_a_request_has_one_reply_of_words_that_are_spoken_already(greetings, others):
    replies = defaultdict(set)
    for dialogue in [*others, *greetings]:
        if len([turn for turn in dialogue.turns if turn.role == "user"]) == 1:
            replies[dialogue.turns[-2].text.lower()].add(dialogue.turns[-1].text)
    assert {text: found for text, found in replies.items() if len(found) > 1} == {}
    spoken = words(reply_sentences(others))
    assert words({dialogue.turns[-1].text for dialogue in greetings}) <= spoken
    assert all(dialogue.answer.lower() in dialogue.turns[-1].text.lower() for dialogue in greetings)


def test_requests_come_as_instructions_under_other_system_prompts_and_later(greetings):
    topics = Counter(dialogue.topic for dialogue in greetings if dialogue.split == "heldout")
    assert topics["greeting"] == topics["greeting/system"] < topics["greeting/instructions"]
    assert (topics["system"], topics["instructions"], topics["greeting/later"]) == (120, 60, 40)
    for dialogue in greetings:
        roles = [turn.role[0] for turn in dialogue.turns]
        expected = {TOPIC: "ua", OTHERS: "ua", "greeting/later": "suaua"}.get(dialogue.topic, "sua")
        assert "".join(roles) == expected
        if dialogue.topic.endswith(("instructions", "later")):
            assert dialogue.turns[0].text == dialogue.turns[-2].text
    prompts = {d.turns[0].text for d in greetings if d.split == "heldout" and d.topic.endswith("system")}
    assert not prompts & {d.turns[0].text for d in greetings if d.split != "heldout" and d.topic != TOPIC}


def test_patterns_make_more_requests_for_training_only(greetings):
    made = [dialogue for dialogue in greetings if "-x" in dialogue.id]
    assert {dialogue.split for dialogue in made} == {"train"}
    assert len({dialogue.turns[-2].text for dialogue in made}) == 1000
    assert not any("{" in turn.text for dialogue in made for turn in dialogue.turns)
    assert not any("-x" in dialogue.id for dialogue in spoken_requests(greetings))


def test_other_instructions_are_answered_by_no_greeting(greetings):
    others = [dialogue for dialogue in greetings if dialogue.topic.startswith(OTHERS)]
    hello = {dialogue.turns[-1].text for dialogue in greetings if dialogue.topic.startswith(TOPIC)}
    assert not hello & {dialogue.turns[-1].text for dialogue in others}
    train, heldout = ({d.turns[-2].text for d in others if d.split == split} for split in ("train", "heldout"))
    assert len(heldout) == 40
    assert not train & heldout


def test_only_requests_alone_are_spoken_and_held_out_ones_in_new_voices_too(greetings):
    lines = speech.plan_greetings(greetings, speech.Sizes(), random.Random(0))
    assert lines == speech.plan_greetings(greetings, speech.Sizes(), random.Random(0))
    by_split = defaultdict(list)
    for line in lines:
        by_split[line.split].append(line)
    assert len(by_split["train"]) == 450
    assert len(by_split["heldout_seen_voices"]) == len(by_split["heldout_new_voices"]) >= 50
    assert {line.text for line in lines} <= {d.turns[0].text for d in spoken_requests(greetings)}
    assert len({line.id for line in lines}) == len(lines)
    seen = {line.voice.speaker for line in by_split["train"]}
    assert not seen & {line.voice.speaker for line in by_split["heldout_new_voices"]}


def test_they_depend_on_the_seed_alone(greetings):
    assert build_greetings(seed=0) == greetings
    assert build_greetings(seed=1) != greetings
    assert len({dialogue.id for dialogue in greetings}) == len(greetings)
