"""Tools in the Responses API: declared, called with valid arguments, answered; as stock clients read it."""

import json

import httpx
import pytest

from serving_help import nano, response_events, running
from tool_models import WEATHER, fits_weather, tool_model

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")
types = pytest.importorskip("openai.types.responses")

WEATHER_TOOL = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather.",
    "parameters": WEATHER,
    "strict": False,
}
STOP_TOOL = {"type": "function", "name": "stop", "parameters": None, "strict": None}
NAMED = {"type": "function", "name": "get_weather"}
QUESTION = {"role": "user", "content": "How is the weather?"}


@pytest.fixture(scope="module", params=["qwen", "llama"])
def server(request):
    with running(tool_model(request.param)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0, timeout=300)


@pytest.fixture(scope="module")
def without_tools():
    with running(nano()) as found:
        yield found


def post(server, **body):
    return httpx.post(f"{server.url}/v1/responses", json={"input": [QUESTION], **body}, timeout=300)


def ask(client, **changes):
    return client.responses.create(model="any", **{"input": [QUESTION], "tools": [WEATHER_TOOL, STOP_TOOL], **changes})


@pytest.mark.timeout(600)
def test_a_round_trip_by_id_by_reference_and_by_hand(client):
    first = ask(client, tool_choice=NAMED)
    (call,) = first.output
    assert (first.status, call.type, call.name, call.status) == (
        "completed",
        "function_call",
        "get_weather",
        "completed",
    )
    assert fits_weather(call.arguments)
    assert first.output_text == ""
    assert [(tool.name, tool.strict) for tool in first.tools] == [("get_weather", True), ("stop", True)]
    assert first.tool_choice.name == "get_weather"
    assert first.parallel_tool_calls
    assert first.usage.output_tokens > 3
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "It is clear."}
    answer = {"tool_choice": "none", "temperature": 0.0, "max_output_tokens": 12}
    histories = [
        {"previous_response_id": first.id, "input": [output]},
        {"input": [QUESTION, {"type": "item_reference", "id": call.id}, output]},
        {"input": [QUESTION, call.model_dump(exclude_none=True), output], "store": False},
    ]
    answers = [ask(client, **answer, **history) for history in histories]
    assert all(one.output[0].type == "message" for one in answers)
    assert len({one.usage.input_tokens for one in answers}) == 1  # the model has read the same
    other = ask(client, **answer, input=[QUESTION])
    assert other.usage.input_tokens < answers[0].usage.input_tokens


@pytest.mark.timeout(600)
def test_the_whole_object_fits_the_types_of_the_client(server):
    for choice in (NAMED, "none", "required", {"type": "allowed_tools", "mode": "auto", "tools": [NAMED]}):
        found = post(server, tools=[WEATHER_TOOL], tool_choice=choice, max_output_tokens=200)
        assert found.status_code == 200, found.text
        types.Response.model_validate_json(found.text, strict=True)
        assert found.json()["tool_choice"] == choice


def streamed(server, **body):
    with httpx.stream("POST", f"{server.url}/v1/responses", json={**body, "stream": True}, timeout=300) as found:
        return response_events(found.read().decode())


def as_items(events):
    """The items that the events of a stream add up to."""
    items = {}
    for event in events:
        kind, place = event["type"].removeprefix("response."), event.get("output_index")
        if kind == "output_item.added":
            assert place == len(items), "items come one after the other"
            items[place] = {**event["item"], "content": [], "ended": False}
        elif kind == "function_call_arguments.delta":
            items[place]["arguments"] += event["delta"]
        elif kind == "function_call_arguments.done":
            assert event["arguments"] == items[place]["arguments"]
            items[place]["status"] = "completed"
        elif kind == "content_part.added":
            items[place]["content"] = [event["part"]]
        elif kind == "output_text.delta":
            items[place]["content"][0]["text"] += event["delta"]
        elif kind == "output_item.done":
            assert items[place]["id"] == event["item"]["id"]
            assert items[place].get("arguments") == event["item"].get("arguments")
            items[place]["ended"] = True
    assert all(item.pop("ended") for item in items.values())
    return list(items.values())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("choice", [NAMED, "required", "auto", "none"], ids=str)
@pytest.mark.parametrize("most", [400, 20])
def test_a_stream_adds_up_to_the_response(server, choice, most):
    events = streamed(
        server, input=[QUESTION], tools=[WEATHER_TOOL, STOP_TOOL], tool_choice=choice, max_output_tokens=most
    )
    response = events[-1]["response"]
    items = as_items(events)
    assert [item["id"] for item in items] == [item["id"] for item in response["output"]]
    for item, last in zip(items, response["output"], strict=True):
        if item["type"] == "message":
            assert [part["text"] for part in item["content"]] == [part["text"] for part in last["content"]]
        else:
            assert item["arguments"] == last["arguments"]
            assert item["status"] == ("completed" if last["status"] == "completed" else "in_progress")
            if last["status"] == "completed":
                assert isinstance(json.loads(last["arguments"]), dict)
    assert events[-1]["type"] == f"response.{response['status']}"
    if choice in (NAMED, "required") and response["status"] == "completed":
        assert items[-1]["type"] == "function_call"
    if choice == "none":
        assert [item["type"] for item in items] == ["message"]
    # Half a call is no part of the conversation.
    calls = [item for item in response["output"] if item["type"] == "function_call" and item["status"] == "completed"]
    after = post(server, input=[QUESTION], previous_response_id=response["id"], max_output_tokens=1).json()["id"]
    listed = httpx.get(f"{server.url}/v1/responses/{after}/input_items").json()["data"]
    assert [item["id"] for item in listed if item["type"] == "function_call"] == [item["id"] for item in calls][::-1]


@pytest.mark.timeout(600)
def test_the_stream_as_home_assistant_reads_it(client):
    """The shapes that its openai_conversation takes calls from, and what it sends."""
    asked = [{"type": "message", "role": "developer", "content": "You are a house."}, {"type": "message", **QUESTION}]
    tools = [{**WEATHER_TOOL, "strict": False}]
    options = {"max_output_tokens": 3000, "user": "u", "store": False, "service_tier": "auto"}
    calls, done = [], None
    for event in ask(client, input=asked, tools=tools, tool_choice="required", stream=True, **options):
        if isinstance(event, types.ResponseOutputItemAddedEvent):
            if isinstance(event.item, types.ResponseFunctionToolCall):
                current = event.item
            else:
                assert isinstance(event.item, types.ResponseOutputMessage)
        elif isinstance(event, types.ResponseFunctionCallArgumentsDeltaEvent):
            current.arguments += event.delta
        elif isinstance(event, types.ResponseFunctionCallArgumentsDoneEvent):
            calls.append((current.call_id, current.name, json.loads(current.arguments)))
        elif isinstance(event, types.ResponseCompletedEvent):
            done = event.response
    assert done.usage.output_tokens > 0
    assert calls
    assert all(fits_weather(json.dumps(arguments)) for _, _, arguments in calls)
    history = [*asked]
    for call_id, name, arguments in calls:
        call = {"type": "function_call", "name": name, "arguments": json.dumps(arguments), "call_id": call_id}
        output = {"type": "function_call_output", "call_id": call_id, "output": '{"sky": "clear"}'}
        history += [call, output]
    second = ask(client, input=history, tools=tools, tool_choice="none", stream=True, **options)
    assert list(second)[-1].type in ("response.completed", "response.incomplete")


WRONG = [
    ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools[0].name"),
    ({"tools": [STOP_TOOL, STOP_TOOL]}, "invalid_value", "tools[1].name"),
    ({"tools": [STOP_TOOL], "tool_choice": {"type": "function", "name": "go"}}, "invalid_value", "tool_choice"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    ({"tools": [{**STOP_TOOL, "parameters": {"type": "array"}}]}, "invalid_function_parameters", "tools[0].parameters"),
]


def test_wrong_tools_are_refused(server):
    for body, code, param in WRONG:
        error = post(server, **body).json()["error"]
        assert (error["code"], error["param"]) == (code, param), error


def test_a_model_without_tools_says_so(without_tools):
    found = post(without_tools, tools=[WEATHER_TOOL]).json()
    assert (found["tools"], found["tool_choice"], found["output"][0]["type"]) == ([], "none", "message")
    error = post(without_tools, tools=[WEATHER_TOOL], tool_choice="required").json()["error"]
    assert (error["code"], error["param"]) == ("tools_not_supported", "tool_choice")
