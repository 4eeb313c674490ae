"""What the model gets for a reply, and what a session keeps of the replies that it made."""

import pytest

from echox.serving.realtime.reply_input import ReplyInput
from serving_help import connected, nano, run, running, user_text

QUESTION = user_text("What is the capital of France?")
OTHER = user_text("What is the capital of Spain?")


@pytest.fixture(scope="module")
def server():
    with running(nano()) as found:
        yield found


@pytest.fixture
def given(monkeypatch):
    """The system prompt and the messages of every reply that was begun, as text."""
    found, begin = [], ReplyInput.begin

    def noted(self, *args, **options):
        found.append((self.system, ["".join(map(str, message.parts)) for message in self.messages]))
        return begin(self, *args, **options)

    monkeypatch.setattr(ReplyInput, "begin", noted)
    return found


def system(text):
    return {"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]}


KNOWN = {"type": "item_reference", "id": "known"}
SPAIN, FRANCE = "What is the capital of Spain?", "What is the capital of France?"
INPUTS = {
    "no input": ({}, "Be brief.\nBe kind.", [FRANCE]),
    "a question": ({"input": [OTHER]}, "Be brief.", [SPAIN]),
    "a system item": ({"input": [system("Be loud."), OTHER]}, "Be brief.\nBe loud.", [SPAIN]),
    "two system items": ({"input": [system("A."), OTHER, system("B.")]}, "Be brief.\nA.\nB.", [SPAIN]),
    "a reference to the system item": ({"input": [KNOWN, OTHER]}, "Be brief.\nBe kind.", [SPAIN]),
    "instructions": ({"instructions": "Say hello.", "input": []}, "Say hello.", ["Say hello."]),
    "instructions and a system item": (
        {"instructions": "Say hello.", "input": [system("Be loud.")]},
        "Say hello.\nBe loud.",
        ["Say hello."],
    ),
}


@pytest.mark.parametrize("conversation", ["auto", "none"])
@pytest.mark.parametrize("what", INPUTS)
def test_a_response_with_items_of_its_own_reads_these_and_no_others(server, given, what, conversation):
    request, prompt, messages = INPUTS[what]

    async def talk():
        async with connected(server) as client:
            session = {"type": "realtime", "output_modalities": ["text"], "instructions": "Be brief."}
            await client.send("session.update", session=session)
            await client.send("conversation.item.create", item={**system("Be kind."), "id": "known"})
            await client.send("conversation.item.create", item=QUESTION)
            asked = {"conversation": conversation, "max_output_tokens": 4, **request}
            await client.send("response.create", response=asked)
            assert (await client.until("response.done"))["response"]["status"] in ("completed", "incomplete")

    run(talk())
    assert given == [(prompt, messages)]
