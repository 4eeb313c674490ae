"""Talk has the talk adapter, questions of knowledge have none, and neither leaves anything in the other's memory."""

import json

import numpy as np
import pytest
import torch

from echox import EchoX
from echox.config import load_recipe
from echox.data.manifest import Dialogue, Turn, write_dialogues
from echox.evaluation.subjects.local import model_fingerprint
from echox.models.turns.talk_head import TalkHead, talk_inputs
from echox.tool_calls.tools import ToolUse
from test_conversation_adapters import adapter_of
from tiny_echox import tone
from tiny_recogniser import tiny_hearer
from tool_models import TOOLS, tool_model

TALK, KNOWLEDGE = "How are you, dear?", "How far is it to the moon?"


def told_by(text: str):
    """A head that takes for talk what has the inputs of a text; and what it has read."""
    read = []

    def probability(inputs):
        newest = inputs[inputs[:, -1] == 1, :-1]
        read.append(inputs)
        return float(newest.shape == text.shape and bool(torch.allclose(newest, text)))

    return probability, read


def routed(model: EchoX | None = None, talk: str = TALK) -> EchoX:
    """A model whose only talk is one text."""
    model = model or tool_model("qwen")
    made = EchoX(model.model, model.processor, model.settings, adapters={"talk": adapter_of(model)})
    made.engine.talk_head, made.read = told_by(made.engine.text_embeds(talk))
    return made


def replies(model: EchoX, *questions: str, tools: ToolUse | None = None, **settings: object) -> list[str]:
    session = model.session(seed=5, max_new_tokens=16, speak=False, **settings)
    if tools is not None:
        session.tools = tools
    return [session.reply({"role": "user", "content": question}).text for question in questions]


@pytest.fixture(scope="module")
def plain() -> EchoX:
    return tool_model("qwen")


@pytest.fixture(scope="module")
def always(plain) -> EchoX:
    """It has the adapter in every turn without tools."""
    return EchoX(plain.model, plain.processor, plain.settings, adapters={"talk": adapter_of(plain)})


def test_talk_has_the_adapter_and_a_question_of_knowledge_has_none(plain, always):
    model = routed()
    assert replies(model, TALK) == replies(always, TALK) != replies(plain, TALK)
    assert replies(model, KNOWLEDGE) == replies(plain, KNOWLEDGE) != replies(always, KNOWLEDGE)


@pytest.mark.parametrize("order", [(TALK, KNOWLEDGE, TALK), (KNOWLEDGE, TALK, TALK), (TALK, TALK, KNOWLEDGE)])
def test_nothing_is_left_in_the_memory_when_the_kind_changes(order):
    kept, fresh = (routed().session(seed=2, max_new_tokens=12, speak=False, system="Be brief.") for _ in range(2))
    for question in order:
        fresh._context.drop_memory()
        found, wanted = (one.reply({"role": "user", "content": question}).text for one in (kept, fresh))
        assert found == wanted


def test_a_system_turn_is_shared_by_turns_of_its_kind_only(plain, always):
    model = routed()
    for question, same in [(TALK, always), (KNOWLEDGE, plain), (TALK, always), (KNOWLEDGE, plain)]:
        assert replies(model, question, system="Be brief.") == replies(same, question, system="Be brief.")


def test_several_at_once_are_what_each_is_alone():
    model = routed()
    questions = [TALK, KNOWLEDGE, TALK, KNOWLEDGE]

    def submitted(question, number):
        session = model.session(seed=number, max_new_tokens=16, speak=False)
        return session.submit({"role": "user", "content": question})

    alone = [list(submitted(one, number))[-1].text for number, one in enumerate(questions)]
    together = [list(task)[-1].text for task in [submitted(one, number) for number, one in enumerate(questions)]]
    assert together == alone


def test_a_conversation_with_tools_is_not_told_apart(plain):
    model = routed()
    assert replies(model, TALK, tools=ToolUse(TOOLS)) == replies(plain, TALK, tools=ToolUse(TOOLS))


def test_it_reads_nothing_that_is_too_long_or_has_tools():
    model = routed()
    longest = model.engine.max_positions * model.engine.longest_token
    with pytest.raises(ValueError, match="the question is too long"):
        replies(model, "a" * (longest + 1))
    replies(model, TALK, tools=ToolUse(TOOLS))
    assert model.read == []


def test_it_reads_the_end_of_the_last_reply_and_the_newest_words():
    model = routed()
    said = model.session(seed=1, max_new_tokens=8, speak=False)
    first = said.reply({"role": "user", "content": TALK}).text
    said.reply({"role": "user", "content": KNOWLEDGE})
    (alone, after) = model.read
    assert bool((alone[:, -1] == 1).all())
    reply, newest = model.engine.text_embeds(first), model.engine.text_embeds(KNOWLEDGE)
    assert torch.equal(after, talk_inputs(reply, newest))


def test_what_is_heard_is_read_as_the_language_model_reads_it():
    model = routed(tiny_hearer())
    model.session(speak=False, max_new_tokens=2).reply({"array": tone(0.6, 1), "sampling_rate": 16_000})
    (encoded,) = model.engine._encoded.values()
    assert torch.equal(model.read[-1][:, :-1], encoded.embeds.float())


def test_long_texts_are_read_in_part():
    inputs = talk_inputs(torch.ones(500, 4), torch.ones(500, 4))
    assert inputs.shape == (24 + 48, 5)
    assert inputs[:, -1].sum() == 48


def test_it_is_saved_loaded_and_part_of_the_fingerprint(always, tmp_path):
    torch.manual_seed(0)
    head = TalkHead(always.model.s2t.config.hidden_size).eval()
    model = EchoX(always.model, always.processor, adapters=always.adapters, talk_head=head)
    model.save_pretrained(tmp_path)
    loaded = EchoX.from_pretrained(tmp_path, device="cpu")
    inputs = talk_inputs(model.engine.text_embeds(""), model.engine.text_embeds(TALK))
    assert loaded.talk_head.probability(inputs) == pytest.approx(head.probability(inputs), abs=1e-6)
    assert model_fingerprint(model) != model_fingerprint(always)
    assert model_fingerprint(model, tools=True) == model_fingerprint(always, tools=True)
    always.save_pretrained(tmp_path)
    assert EchoX.from_pretrained(tmp_path, device="cpu").talk_head is None
    (tmp_path / TalkHead.file).write_bytes(b"no weights")
    with pytest.raises(ValueError, match="expected a talk head"):
        EchoX.from_pretrained(tmp_path, device="cpu")


def test_a_head_is_trained_and_says_how_well(tmp_path):
    words = {"talk": ["hello there", "good morning friend", "thank you"], "knowledge": ["capital city", "moon and sun"]}
    rng = np.random.default_rng(0)

    def lesson(number, split):
        kind = ("talk/x", "knowledge/x")[number % 2]
        text = " ".join(rng.permutation(rng.choice(words[kind[:-2]]).split()))
        turns = (Turn("user", "Hello."), Turn("assistant", "Hello!"), Turn("user", text), Turn("assistant", "Yes."))
        return Dialogue(f"{split}{number}", turns, split, topic=kind)

    lessons = [lesson(number, split) for split, count in (("train", 40), ("heldout", 20)) for number in range(count)]
    write_dialogues(tmp_path / "lessons.jsonl", lessons)
    asked = [Dialogue(str(n), (Turn("user", f"What is the capital city {n}?"),), topic="capital/x") for n in range(30)]
    talk = Dialogue("t", (Turn("user", "Hello there!"),), topic="small_talk/x")
    write_dialogues(tmp_path / "questions.jsonl", [*asked, talk])
    (tmp_path / "recipe.yaml").write_text(
        f"stage: talk_head\nmodel: nano\nlessons: [{tmp_path}/lessons.jsonl]\nquestions: [{tmp_path}/questions.jsonl]\n"
        f"left_out_topics: [small_talk]\nheldout_share: 0.3\nsteps: 60\noutput: {tmp_path}/made\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    scores = recipe.run()
    record = json.loads((tmp_path / "made" / "training_record.json").read_text())["heads"]["talk_head"]
    assert record["details"]["scores"] == scores
    assert (record["metrics"], record["seed"], record["steps"]) == (scores["heldout"], 0, 60)
    assert record["environment"]["commit"]
    assert record["cost"]["wall_s"] > 0
    assert scores["heldout"]["talk_taken_for_talk"] > 0.8
    assert scores["heldout"]["knowledge_taken_for_talk"] < 0.2
    assert scores["heldout"]["knowledge_turns"] > 10 + 3  # lessons, and some of the questions
    nano = EchoX.from_pretrained("nano", device="cpu")
    assert TalkHead.load(tmp_path / "made", nano.engine.text_embeds("").shape[1]) is not None
    recipe.lessons = [str(tmp_path / "questions.jsonl")]
    recipe.questions = []
    with pytest.raises(ValueError, match="questions: expected some"):
        recipe.run()
