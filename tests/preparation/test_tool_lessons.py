"""Stage "tool_lessons": conversations with calls, errors, tools that are not there, and requests as they were heard."""

import json
import random
import re
from collections import Counter
from dataclasses import replace

import pytest

from echox.config import load_recipe
from echox.data.corpora.nano.world import build_dialogues
from echox.data.corpora.tools.names import other_names
from echox.data.corpora.tools.others import other_requests, other_tools
from echox.data.corpora.tools.requests import tool_requests
from echox.data.manifest import read_dialogues
from echox.data.splits import SPLITS
from echox.data.templates.tool_templates import has_call
from echox.files import packaged_yaml
from echox.preparation.conversations import heard_requests as hearing
from echox.preparation.conversations.heard_requests import HearingConfig, heard_requests, still_told
from echox.preparation.conversations.tool_lessons import _Questions


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The recipe, its output, its counts, and the lessons."""
    folder = tmp_path_factory.mktemp("lessons")
    output, recipe = folder / "lessons.jsonl", folder / "recipe.yaml"
    recipe.write_text(f"stage: tool_lessons\noutput: {output}\nper_wording: 10\n", encoding="utf-8")
    counts = load_recipe(recipe).run()
    return recipe, output, counts, read_dialogues(output)


def topic_of(one):
    return (one.topic or "").split("/")[0]


@pytest.mark.slow
def test_calls_are_of_declared_tools_and_fit_their_signatures(made):
    _, _, counts, lessons = made
    assert {split: sum(one.split == split for one in lessons) for split in counts} == counts
    assert len({one.id for one in lessons}) == len(lessons)
    for one in lessons:
        system, *rest = one.turns
        assert "Tools:\n" in system.text
        for call in (turn.text for turn in rest if turn.role == "assistant" and has_call(turn.text)):
            written = json.loads(call.partition("<tool>")[2])
            declared = next(line for line in system.text.splitlines() if line.startswith(f"{written['name']}("))
            assert re.findall(r"(\w+): ", declared.partition(")")[0]) == list(written["arguments"])
        last = rest[-1].text
        assert has_call(last) == (topic_of(one) in ("call", "renamed", "late", "late_renamed", "heard", "foreign")) or (
            one.split == "train"
        )


@pytest.mark.slow
def test_no_lesson_refuses_a_tool_that_it_declares(made):
    refusals = {one.call.name: one.without for one in tool_requests("train", 1)}
    assert len(set(refusals.values())) == len(refusals)
    for one in made[3]:
        replies = [turn.text for turn in one.turns if turn.role == "assistant"]
        for name, refusal in refusals.items():
            assert not (f"\n{name}(" in one.turns[0].text and refusal in replies), one.id


@pytest.mark.slow
def test_lessons_have_several_exchanges_with_errors_and_tools_that_are_not_there(made):
    lessons = [one for one in made[3] if one.split == "train"]
    outputs = [turn.text for one in lessons for turn in one.turns if turn.text.startswith("Result: ")]
    assert 0.05 < sum("error" in text or "failed" in text for text in outputs) / len(outputs) < 0.2
    replies = [turn.text for one in lessons for turn in one.turns if turn.role == "assistant"]
    assert any(text.startswith("Sorry, that did not work: ") for text in replies)
    assert "I have no timer here." in replies
    asked = [sum(turn.role == "user" and "Result: " not in turn.text for turn in one.turns) for one in lessons]
    assert set(Counter(asked)) == {1, 2, 3, 4, 5, 6}
    followed = {  # what comes after a call is no matter of what was called
        (before, after)
        for one in lessons
        for before, after in zip(replies_by_kind(one), replies_by_kind(one)[1:], strict=False)
    }
    assert followed == {(True, True), (True, False), (False, True), (False, False)}


def replies_by_kind(one):
    """Of each exchange: whether a tool was called."""
    kinds = []
    for before, turn in zip(one.turns, one.turns[1:], strict=False):
        if turn.role == "assistant" and not before.text.startswith("Result: "):
            kinds.append(has_call(turn.text))
    return kinds


@pytest.mark.slow
def test_small_talk_is_among_the_calls_and_says_nothing_that_a_tool_could_do(made):
    topics = {one["topic"]: one for one in packaged_yaml("echox.data.corpora.talk", "talk.yaml")["talk"]}
    lessons = [one for one in made[3] if one.split == "train"]
    said = {turn.text for one in lessons for turn in one.turns if turn.role == "user"}
    assert said & {*topics["joke"]["asked"], *topics["thanks"]["asked"], *topics["name"]["asked"]}
    replies = {turn.text for one in lessons for turn in one.turns if turn.role == "assistant"}
    assert not replies & {
        *topics["alarm_timer"]["replies"],
        *topics["date"]["replies"],
        *topics["play_music"]["replies"],
    }
    assert not said & set(topics["say_again_nothing"]["asked"])  # fits the beginning of a conversation only
    asked = [turns for one in lessons for turns in zip(one.turns, one.turns[1:], strict=False)]
    assert not any(
        has_call(reply.text)
        for turn, reply in asked
        if turn.text in topics["joke"]["asked"] + topics["thanks"]["asked"]
    )
    held_out = {one.split for one in made[3] if topic_of(one) in ("small_talk", "late_small_talk")}
    assert held_out == {"validation", "heldout"}


@pytest.mark.slow
def test_new_names_are_in_no_lesson_of_training(made):
    lessons = made[3]
    text = {split: "\n".join(one.turns[0].text for one in lessons if one.split == split) for split in made[2]}
    assert "\ncurrent_time(" in text["train"] or "\nclock(" in text["train"]  # as clients with other names declare them
    new = {one.tool.name for seed in range(30) for one in other_names("new", random.Random(seed)).values()}
    assert not any(f"\n{name}(" in text["train"] for name in new)
    assert any(f"\n{name}(" in text["heldout"] for name in new)
    assert {one.split for one in lessons if topic_of(one) == "renamed"} == {"validation", "heldout"}


@pytest.mark.slow
def test_tools_of_other_clients_are_called_and_some_are_met_in_figures_only(made):
    called = {split: set() for split in made[2]}
    for one in made[3]:
        for turn in one.turns:
            if turn.role == "assistant" and has_call(turn.text):
                called[one.split].add(json.loads(turn.text.partition("<tool>")[2])["name"])
    known = {one.tool.name for seed in range(30) for one in other_tools("train", random.Random(seed)).values()}
    assert len(known & called["train"]) > 100
    for split in ("validation", "heldout"):
        held_out = {one.tool.name for seed in range(30) for one in other_tools(split, random.Random(seed)).values()}
        assert held_out & called[split]
        assert not held_out & (called["train"] | known)


@pytest.mark.slow
def test_the_same_recipe_writes_the_same_lessons(made):
    recipe, output, *_ = made
    before = output.read_bytes()
    load_recipe(recipe).run()
    assert output.read_bytes() == before


def test_tools_of_one_client_have_different_names():
    for seed in range(300):
        for kind in ("known", "new"):
            names = [one.tool.name for one in other_names(kind, random.Random(seed)).values()]
            assert len(set(names)) == len(names)
            for one in other_names(kind, random.Random(seed)).values():
                assert len(set(one.parameters.values())) == len(one.parameters)


@pytest.mark.parametrize("split", SPLITS)
def test_requests_for_other_tools_fit_what_they_declare(split):
    tools = other_tools(split, random.Random(0))
    requests = other_requests(split, 2)
    assert {one.call.name for one in requests} == set(tools)
    for one in requests:
        schema = json.loads(tools[one.call.name].tool.parameters)
        arguments = json.loads(one.call.arguments)
        assert list(arguments) == schema["required"] == list(schema["properties"])
        for name, value in arguments.items():
            kind = schema["properties"][name]
            assert isinstance(value, int if kind["type"] == "integer" else str)
            assert value in kind.get("enum", [value])
        assert one.text[0].isupper() or one.text[0].isdigit()
        assert "{" not in one.text + one.reply
    assert other_requests(split, 2) == requests != other_requests(split, 2, seed=1)


def test_every_tool_of_other_clients_has_a_name_of_its_own():
    for seed in range(50):
        names = [one.tool.name for split in SPLITS for one in other_tools(split, random.Random(seed)).values()]
        assert len(names) == len(set(names)) > 60


@pytest.mark.parametrize("seed", range(5))
def test_questions_of_the_splits_are_different_ones(seed):
    def asked(split):
        questions = _Questions(build_dialogues(0), split, random.Random(f"{seed} {split}"))
        return {questions.next()[0].text for _ in range(5000)}

    train, validation, heldout = map(asked, SPLITS)
    assert validation
    assert heldout
    assert not validation & heldout
    assert not train & (validation | heldout)


def request_for(tool, **arguments):
    """A request whose call has these arguments."""
    call = next(one for one in tool_requests("train", 1) if one.call.name == tool)
    return replace(call, call=replace(call.call, arguments=json.dumps(arguments)))


@pytest.mark.parametrize(
    ("tool", "arguments", "heard", "told"),
    [
        ("set_timer", {"minutes": 10}, "Started a time of or ten minutes,", True),
        ("set_timer", {"minutes": 46}, "Remind me in forty-six minutes.", True),
        ("set_timer", {"minutes": 40}, "Remind me in forty-six minutes.", False),
        ("set_timer", {"minutes": 51}, "Start a time of four fifty one minutes.", True),
        ("set_timer", {"minutes": 1}, "Start a time of four fifty one minutes.", False),
        ("set_timer", {"minutes": 60}, "Set no time at a sixteen minutes.", False),
        ("set_timer", {"minutes": 15}, "Said a timer for 15 minutes.", True),
        ("get_time", {"city": "Luanda"}, "What is the local time in Lu Lunda?", True),
        ("get_time", {"city": "Mexico City"}, "What time is it in Mexico city?", True),
        ("get_weather", {"city": "Beijing"}, "Do I need a coat in bed, Jane?", False),
        ("set_light", {"room": "garden", "state": "off"}, "Turn of the light in the garden.", True),
        ("set_light", {"room": "shop", "state": "off"}, "Turn on the shop light.", False),
        ("calculate", {"first": 8, "operation": "times", "second": 9}, "Eight time nine?", True),
        ("calculate", {"first": 8, "operation": "times", "second": 9}, "Eight plus nine?", False),
        ("look_up", {"subject": "lake"}, "", False),
    ],
)
def test_what_was_heard_is_kept_while_its_meaning_can_be_told(tool, arguments, heard, told):
    assert still_told(replace(request_for(tool, **arguments), text=heard)) is told


def test_a_model_that_is_trained_again_hears_again(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hearing.EchoX, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(hearing, "_heard", lambda _, said: [asked.append(one) or one[1] for one in said])
    config = HearingConfig(str(tmp_path / "model"), {"flite/slt": 1}, {"flite/kal": 1}, requests=3)
    (tmp_path / "model").mkdir()
    for times in (1, 2):
        (tmp_path / "model" / "config.json").write_text("{}" + times * " ", encoding="utf-8")
        for _ in range(2):
            heard_requests(tool_requests("train", 1), config, tmp_path / "heard.jsonl", random.Random(0))
        assert len(asked) == 3 * times


def test_requests_are_heard_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(hearing.EchoX, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(hearing, "_heard", lambda _, said: [asked.append(one) or one[1].upper() for one in said])
    config = HearingConfig("nano", {"flite/slt": 1, "flite/awb": 1}, {"flite/kal": 1}, requests=20)
    requests = tool_requests("train", 1)
    journal = tmp_path / "heard.jsonl"
    first = heard_requests(requests, config, journal, random.Random(0))
    assert len(asked) == len(set(asked)) == 20
    assert {voice for voice, _ in asked} == {"flite/slt", "flite/awb"}
    assert all(heard.text == written.text.upper() and heard.call == written.call for written, heard in first.items())
    assert heard_requests(requests, config, journal, random.Random(0)) == first
    assert len(asked) == 20
    held = tool_requests("validation", 1)
    heard_requests(held, config, journal, random.Random(0))
    assert len(asked) == 20 + len(held)  # others: all of them, in new voices
    assert asked[-1][0] == "flite/kal"
