"""The Responses API with the stock openai client: replies, streams, conversations by id, limits and refusals."""

import base64
import typing

import httpx
import pytest

from echox.api.loading import bundled_questions
from echox.audio import encode_audio
from echox.serving.protocol import parameters
from echox.serving.protocol.conversation import Content, ConversationItem
from echox.serving.protocol.events import EventError
from echox.serving.protocol.limits import Limits
from echox.serving.service.stored_responses import StoredResponses
from echox.streaming.prompt.messages import Audio, Message
from serving_help import nano, question, response_events, running

openai = pytest.importorskip("openai")
types = pytest.importorskip("openai.types.responses")

FRANCE, BRAZIL, WHICH = (
    "What is the capital of France?",
    "Tell me what you know about Brazil?",
    "Which country is it in?",
)


@pytest.fixture(scope="module")
def server():
    with running(nano(), Limits(max_items=12, max_upload_s=20)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0)


def alone(*turns, system=None):
    """The model's own replies, one after the other."""
    session = nano().session(system)
    return [session.reply({"role": "user", "content": text}, speak=False).text for text in turns]


def refused(kind, code, call, *args, **options):
    with pytest.raises(kind) as found:
        call(*args, **options)
    assert found.value.code == code


def recording(number=0):
    data = base64.b64encode(encode_audio(question(number, 16000), 16000, "wav")).decode()
    return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def user(*parts):
    return {"role": "user", "content": list(parts)}


def post(server, key="any", **body):
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(f"{server.url}/v1/responses", json={"input": FRANCE, **body}, headers=headers, timeout=60)


def test_a_text_is_answered_as_by_the_model_alone(client):
    found = client.responses.create(model="gpt-4o", input=FRANCE, metadata={"a": "b"})
    assert found.output_text == alone(FRANCE)[0]
    assert (found.status, found.model, found.metadata, found.error) == ("completed", "nano", {"a": "b"}, None)
    usage = found.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.input_tokens > usage.output_tokens > 3
    assert found.completed_at >= found.created_at


def test_the_whole_object_fits_the_types_of_the_client(server):
    types.Response.model_validate_json(post(server).text, strict=True)
    types.Response.model_validate_json(post(server, max_output_tokens=1).text, strict=True)


def test_instructions_are_the_system_prompt_of_one_response(client):
    system = "You are brief."
    found = client.responses.create(model="nano", input=FRANCE, instructions=system)
    assert (found.output_text, found.instructions) == (alone(FRANCE, system=system)[0], system)
    after = client.responses.create(model="nano", input=WHICH, previous_response_id=found.id)
    history = [
        {"role": "user", "content": FRANCE},
        {"role": "assistant", "content": found.output_text},
        {"role": "user", "content": WHICH},
    ]
    assert after.output_text == nano().session().reply(history, speak=False).text
    as_item = client.responses.create(model="nano", input=[{"role": "developer", "content": system}, user_text(FRANCE)])
    assert as_item.output_text == found.output_text


def user_text(text):
    return user({"type": "input_text", "text": text})


def test_speech_is_heard(client):
    found = client.responses.create(model="nano", input=[user(recording())])
    spoken = nano().session().reply(bundled_questions()[0], speak=False)
    assert found.output_text == spoken.text
    assert found.usage.input_tokens_details.audio_tokens == spoken.timings["num_prompt_audio_tokens"] > 3
    as_item = client.responses.create(model="nano", input=[recording()])  # the reference has it as an item, too
    assert as_item.output_text == spoken.text


def test_a_stream_has_every_event_in_order_and_the_same_text(server, client):
    with httpx.stream(
        "POST", f"{server.url}/v1/responses", json={"input": BRAZIL, "stream": True, "store": False}, timeout=60
    ) as found:
        assert found.headers["content-type"].startswith("text/event-stream")
        text = found.read().decode()
    events = response_events(text)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[-4:] == ["output_text.done", "content_part.done", "output_item.done", "completed"]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) == len(kinds) - 8 > 3
    assert "".join(deltas) == events[-4]["text"] == alone(BRAZIL)[0]
    last = events[-1]["response"]
    assert last["usage"] == {**post(server, input=BRAZIL).json()["usage"]}
    with client.responses.stream(model="nano", input=BRAZIL) as stream:
        pieces = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert "".join(pieces) == stream.get_final_response().output_text == "".join(deltas)


def test_a_conversation_by_id(client):
    first = client.responses.create(model="nano", input=FRANCE)
    second = client.responses.create(model="nano", input=WHICH, previous_response_id=first.id)
    assert [first.output_text, second.output_text] == alone(FRANCE, WHICH)
    assert second.previous_response_id == first.id
    streamed = client.responses.create(model="nano", input=WHICH, previous_response_id=first.id, stream=True)
    assert [*streamed][-1].response.output_text == second.output_text
    by_hand = client.responses.create(
        model="nano",
        input=[user_text(FRANCE), *[item.model_dump() for item in first.output], user_text(WHICH)],
        store=False,
    )
    assert by_hand.output_text == second.output_text
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(first.id)
    refused(openai.NotFoundError, "response_not_found", client.responses.retrieve, first.id)
    # What continues a deleted response stays.
    client.responses.create(model="nano", input=FRANCE, previous_response_id=second.id)


def test_a_response_belongs_to_the_key_that_made_it(server):
    made = post(server, key="ann").json()["id"]
    for key, status in (("ann", 200), ("bob", 400)):
        assert post(server, key=key, previous_response_id=made).status_code == status
    for key, status in (("bob", 404), ("ann", 200)):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.delete(f"{server.url}/v1/responses/{made}", headers=headers).status_code == status
    error = post(server, key="ann", previous_response_id=made).json()["error"]
    assert (error["code"], error["param"]) == ("previous_response_not_found", "previous_response_id")


def test_what_is_not_stored_is_not_found(client):
    found = client.responses.create(model="nano", input=FRANCE, store=False)
    assert found.store is False
    changes = {"input": WHICH, "previous_response_id": found.id}
    refused(openai.BadRequestError, "previous_response_not_found", client.responses.create, model="nano", **changes)


def test_length(client):
    found = client.responses.create(model="nano", input=BRAZIL, max_output_tokens=3)
    assert (found.status, found.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert found.usage.output_tokens == 3
    assert found.output[0].status == "incomplete"
    *_, last = client.responses.create(model="nano", input=BRAZIL, max_output_tokens=3, stream=True)
    assert (last.type, last.response.output_text) == ("response.incomplete", found.output_text)


def test_a_conversation_that_is_too_long_is_refused_or_cut(client):
    long = "Tell me what you know about Brazil. " * 60
    history = [*[user_text(long), {"role": "assistant", "content": "No."}] * 5, user_text(FRANCE)]
    for stream in (False, True):
        changes = {"input": history, "stream": stream}
        refused(openai.BadRequestError, "context_length_exceeded", client.responses.create, model="nano", **changes)
    found = client.responses.create(model="nano", input=history, truncation="auto")
    session = nano().session()
    session.messages = [Message("user", (long,)), Message("assistant", ("No.",))] * 5
    alone = session.reply({"role": "user", "content": FRANCE}, speak=False)
    assert (found.output_text, found.truncation) == (alone.text, "auto")


def test_calls_of_tools_in_the_history_are_read(client):
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    outputs = ["It is in France.", [{"type": "input_text", "text": "It is in France."}]]
    found = [
        client.responses.create(
            model="nano",
            input=[user_text(FRANCE), call, {"type": "function_call_output", "call_id": "c", "output": output}],
        ).output_text
        for output in outputs
    ]
    assert found[0] == found[1] != ""


SAMPLES = {
    "background": True,
    "context_management": [{"type": "compaction"}],
    "conversation": "conv_1",
    "image": {"context_compression": "auto"},
    "moderation": {"model": "x"},
    "prompt": {"id": "p"},
    "top_logprobs": 3,
    "user": "u",
    "safety_identifier": "s",
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "service_tier": "flex",
    "reasoning": {"effort": "high", "summary": "auto"},
    "max_tool_calls": 3,
    "access_programs": {"cyber": "standard"},
}


@pytest.mark.parametrize("name", sorted(parameters.RESPONSES.refused))
def test_what_cannot_be_done_is_refused_by_name(server, name):
    error = post(server, **{name: SAMPLES[name]}).json()["error"]
    assert (error["param"], error["code"]) == (name, "unsupported_value")


def test_values_that_change_nothing_are_accepted(server):
    for place in range(2):
        neutral = {
            name: [None, *values][min(place, len(values))] for name, values in parameters.RESPONSES.refused.items()
        }
        found = post(server, max_output_tokens=1, **neutral)
        assert found.status_code == 200, found.text


def test_hints_change_nothing(server):
    hints = {name: SAMPLES[name] for name in parameters.RESPONSES.ignored}
    texts = [one.json()["output"][0]["content"] for one in (post(server), post(server, **hints))]
    assert texts[0] == texts[1]


BROKEN = [
    ({"input": None}, "missing_required_parameter", "input"),
    ({"input": []}, "invalid_value", "input"),
    ({"input": 7}, "invalid_type", "input"),
    ({"input": "x" * 30_000}, "string_too_long", "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": "x"}] * 13}, "invalid_value", "input"),
    ({"input": [{"role": "assistant", "content": "x"}]}, "invalid_value", "input"),
    ({"include": ["message.output_text.logprobs"]}, "unsupported_value", "include"),
    ({"include": "all"}, "invalid_type", "include"),
    ({"parallel_tool_calls": 1}, "invalid_type", "parallel_tool_calls"),
    ({"input": [{"type": "reasoning", "summary": []}]}, "unsupported_item_type", "input[0].type"),
    ({"input": [{"role": "user"}]}, "missing_required_parameter", "input[0].content"),
    ({"input": [{"role": "user", "content": []}]}, "invalid_value", "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_text", "text": "x"}] * 65}]}, "invalid_value", None),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "invalid_value", "input[0].content[0].type"),
    ({"input": [{"role": "assistant", "content": [recording()]}]}, "invalid_value", "input[0].content[0].type"),
    ({"input": [{"type": "input_audio"}]}, "missing_required_parameter", "input[0].content[0].input_audio"),
    ({"stream_options": {"include_obfuscation": False}}, "invalid_value", "stream_options"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "unsupported_value", None),
    ({"text": {"format": {"type": "json_object"}}}, "unsupported_value", "text.format"),
    ({"text": {"verbosity": "low"}}, "unsupported_value", "text.verbosity"),
    ({"text": {"tone": "low"}}, "unknown_parameter", "text.tone"),
    ({"modalities": ["audio"]}, "unknown_parameter", "modalities"),
    ({"seed": 3}, "unknown_parameter", "seed"),
    ({"max_output_tokens": 0}, "invalid_value", "max_output_tokens"),
    ({"truncation": "middle"}, "invalid_value", "truncation"),
    ({"metadata": {"a": 1}}, "invalid_value", "metadata"),
    ({"tool_choice": "required"}, "tools_not_supported", "tool_choice"),
    ({"previous_response_id": "resp_1"}, "previous_response_not_found", "previous_response_id"),
]


@pytest.mark.parametrize(("body", "code", "param"), BROKEN, ids=range(len(BROKEN)))
def test_broken_requests(server, body, code, param):
    found = post(server, **body)
    error = found.json()["error"]
    assert (found.status_code, error["code"]) == (400, code), error
    assert param is None or error["param"] == param


def test_what_can_only_be_in_items_of_other_servers_is_included(server):
    wanted = [name for name in typing.get_args(types.ResponseIncludable) if name != "message.output_text.logprobs"]
    assert post(server, include=wanted, max_output_tokens=1).status_code == 200


def test_references_are_the_items_that_they_name(client, server):
    first = client.responses.create(model="nano", input=FRANCE)
    (asked,) = client.responses.input_items.list(first.id).data
    said = first.output[0]
    ways = [
        [user_text(FRANCE), {"type": "item_reference", "id": said.id}],
        [{"type": "item_reference", "id": asked.id}, {"id": said.id}],
    ]
    for way in ways:
        found = client.responses.create(model="nano", input=[*way, user_text(WHICH)], store=False)
        assert found.output_text == alone(FRANCE, WHICH)[1]
    body = {"input": [*ways[0], user_text(WHICH)]}
    assert post(server, **body).status_code == 200
    for key, reference in (("bob", said.id), ("any", "msg_1"), ("any", "")):
        found = post(server, key=key, input=[user_text(FRANCE), {"type": "item_reference", "id": reference}])
        error = found.json()["error"]
        assert (found.status_code, error["code"], error["param"]) == (404, "item_not_found", "input[1].id")
    client.responses.delete(first.id)  # the one that continues it has them still
    assert post(server, **body).status_code == 200


def test_what_a_response_has_answered_is_listed(client, server):
    first = client.responses.create(
        model="nano", input=[{"role": "developer", "content": "Be brief."}, user_text("Hi.")]
    )
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "id": "fc_1"}
    output = {"type": "function_call_output", "call_id": "c", "output": "It is in France."}
    second = client.responses.create(
        model="nano", input=[user(recording()), call, output], previous_response_id=first.id, instructions="Not listed."
    )
    whole = client.responses.input_items.list(second.id, order="asc").data
    kinds = [(item.type, getattr(item, "role", None)) for item in whole]
    messages = [("message", role) for role in ("system", "user", "assistant", "user")]
    assert kinds == [*messages, ("function_call", None), ("function_call_output", None)]
    assert [item.content[0].text for item in whole[:3]] == ["Be brief.", "Hi.", first.output_text]
    assert whole[2].id == first.output[0].id
    assert whole[4].id == "fc_1"
    pages = client.responses.input_items.list(second.id, limit=2)
    assert [item.id for item in pages] == [item.id for item in reversed(whole)]  # the client asks for all pages
    url = f"{server.url}/v1/responses/{second.id}/input_items"
    for query, status in (("after=x", 404), ("limit=0", 400), ("limit=101", 400), ("order=up", 400), ("x=1", 400)):
        assert httpx.get(f"{url}?{query}", headers={"Authorization": "Bearer any"}).status_code == status
    assert httpx.get(url, headers={"Authorization": "Bearer bob"}).status_code == 404


def test_sampling_has_its_effect(server):
    def text(**changes):
        return post(server, **changes).json()["output"][0]["content"][0]["text"]

    assert text(temperature=3.0, top_p=1e-6) == text()
    assert len({text(temperature=3.0) for _ in range(4)}) > 1


def test_unknown_ids_and_parameters_of_stored_responses(server):
    assert httpx.get(f"{server.url}/v1/responses/resp_1").json()["error"]["code"] == "response_not_found"
    made = post(server).json()["id"]
    found = httpx.get(f"{server.url}/v1/responses/{made}?stream=true", headers={"Authorization": "Bearer any"})
    assert found.json()["error"]["code"] == "unsupported_value"


# ---------------------------------------------------------------------------------------------- what is kept


def item(text):
    return ConversationItem("i", "user", [Content("input_text", text)])


def test_the_store_drops_the_oldest_of_whoever_has_most():
    store = StoredResponses(Limits(max_stored_bytes=200_000))
    store.add("a", {}, [item("x" * 1000)], [], "key", "1.1.1.1")
    for number in range(100):  # another client, with ever new keys
        store.add(f"b{number}", {}, [item("x" * 5000)], [], f"key {number}", "2.2.2.2")
    assert store.num_bytes <= 200_000
    assert 3 < len(store) < 12
    assert store.find("a", "key").items[0].num_chars == 1000
    assert store.find("b99", "key 99")
    with pytest.raises(EventError):
        store.find("b0", "key 0")


def test_the_store_counts_responses_and_forgets_after_a_time():
    now = [0.0]
    store = StoredResponses(Limits(max_stored_responses=3, stored_s=10), lambda: now[0])
    for number in range(5):
        now[0] = float(number)
        store.add(str(number), {"text": "x"}, [item("x")], [], "", "")
    assert len(store) == 3
    now[0] = 12.5
    with pytest.raises(EventError):
        store.find("2", "")
    assert store.find("4", "")
    store.drop_expired()
    assert len(store) == 2
    for name in ("3", "4"):
        store.delete(name, "")
    assert (len(store), store.num_bytes) == (0, 0)


def test_items_are_found_as_long_as_one_response_has_them():
    now = [0.0]
    store = StoredResponses(Limits(stored_s=10), lambda: now[0])
    items = [ConversationItem(name, "user", [Content("input_text", name)]) for name in "abcd"]
    store.add("1", {}, items[:1], items[1:2], "key", "")
    now[0] = 5.0
    store.add("2", {}, items[:2], items[2:3], "key", "")
    store.add("3", {}, items[3:], [items[3]], "other", "")

    def found(key):
        return "".join(name for name in "abcd" if store.find_item(name, key) is not None)

    assert (found("key"), found("other"), found("")) == ("abc", "d", "")
    assert store.find("2", "key").num_inputs == 2
    store.delete("2", "key")
    store.delete("3", "other")
    assert (found("key"), found("other")) == ("ab", "")
    now[0] = 10.5
    assert found("key") == ""
    assert not store._items


def test_recordings_in_the_store_are_counted():
    store = StoredResponses(Limits())
    heard = Content("input_audio", audio=Audio(question(0, 16000), 16000))
    store.add("a", {}, [ConversationItem("i", "user", [heard])], [], "", "")
    assert store.num_bytes > question(0, 16000).nbytes
