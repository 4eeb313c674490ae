"""Tools over the protocols: declared, called with valid arguments, answered, and the answer spoken."""

import httpx
import pytest

from serving_help import connected, nano, order, run, running, user_text
from tool_models import WEATHER, fits_weather, tool_model

openai = pytest.importorskip("openai")
pytest.importorskip("llguidance")
WEATHER_TOOL = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": WEATHER}
STOP_TOOL = {"type": "function", "name": "stop"}
CHAT_TOOL = {
    "type": "function",
    "function": {name: WEATHER_TOOL[name] for name in ("name", "description", "parameters")},
}
QUESTION = [{"role": "user", "content": "How is the weather?"}]
CALL_ORDER = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "deltas",
    "response.function_call_arguments.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
    "rate_limits.updated",
]


@pytest.fixture(scope="module", params=["qwen", "llama"])
def server(request):
    with running(tool_model(request.param)) as found:
        yield found


@pytest.fixture(scope="module")
def without_tools():
    with running(nano()) as found:
        yield found


async def call(client, **session):
    """Ask for a call, and return its item."""
    options = {"tools": [WEATHER_TOOL, STOP_TOOL], "tool_choice": {"type": "function", "name": "get_weather"}}
    await client.send("session.update", session={"type": "realtime", **options, **session})
    shown = (await client.until("session.updated"))["session"]
    assert [tool["name"] for tool in shown["tools"]] == ["get_weather", "stop"]
    assert shown["tool_choice"] == options["tool_choice"]
    await client.send("conversation.item.create", item=user_text("How is the weather?"))
    await client.until("conversation.item.done")
    client.events.clear()
    await client.send("response.create")
    response = (await client.until("response.done", 200))["response"]
    await client.until("rate_limits.updated")
    assert response["status"] == "completed", response
    (item,) = response["output"]
    return item


@pytest.mark.timeout(600)
def test_a_tool_round_trip(server):
    async def talk():
        async with connected(server, ping_timeout=None) as client:
            item = await call(client)
            assert order(client.events) == CALL_ORDER
            assert item["type"] == "function_call"
            assert item["status"] == "completed"
            assert item["name"] == "get_weather"
            assert fits_weather(item["arguments"])
            (done,) = client.of("response.function_call_arguments.done")
            deltas = client.of("response.function_call_arguments.delta")
            assert len(deltas) > 3
            assert "".join(delta["delta"] for delta in deltas) == done["arguments"] == item["arguments"]
            assert {one["call_id"] for one in [*deltas, done]} == {item["call_id"]}
            output = {"type": "function_call_output", "call_id": item["call_id"], "output": '{"sky": "clear"}'}
            await client.send("conversation.item.create", item=output)
            await client.send("response.create", response={"tool_choice": "none", "max_output_tokens": 12})
            response = (await client.until("response.done", 200))["response"]
            assert [one["type"] for one in response["output"]] == ["message"]
            assert "tool_call" not in response["output"][0]["content"][0]["transcript"]
            assert len(client.sound())

    run(talk(), 500)


def test_a_call_that_is_cancelled_is_incomplete(server):
    async def talk():
        async with connected(server, ping_timeout=None) as client:
            await client.send("session.update", session={"tools": [WEATHER_TOOL], "tool_choice": "required"})
            await client.send("conversation.item.create", item=user_text("How is the weather?"))
            await client.send("response.create")
            await client.until("response.output_item.added", 200)
            await client.send("response.cancel")
            response = (await client.until("response.done", 200))["response"]
            if response["status"] == "cancelled":
                assert [item["status"] for item in response["output"]] == ["incomplete"]
                assert not client.of("response.function_call_arguments.done")
            await client.send("response.create", response={"tool_choice": "none", "output_modalities": ["text"]})
            assert (await client.until("response.done", 200))["response"]["status"] in ("completed", "incomplete")

    run(talk(), 500)


WRONG = [
    ({"tools": [{"type": "function"}]}, "missing_required_parameter", "session.tools[0].name"),
    ({"tools": [{"type": "function", "name": "a b"}]}, "invalid_value", "session.tools[0].name"),
    ({"tools": [STOP_TOOL, STOP_TOOL]}, "invalid_value", "session.tools[1].name"),
    ({"tools": [STOP_TOOL] * 65}, "invalid_value", "session.tools"),
    ({"tools": [{**STOP_TOOL, "description": "x" * 40_000}]}, "string_too_long", "session.tools"),
    ({"tools": [STOP_TOOL], "tool_choice": {"type": "function", "name": "go"}}, "invalid_value", "session.tool_choice"),
    ({"tool_choice": "often"}, "invalid_value", "session.tool_choice"),
    (
        {"tools": [{**STOP_TOOL, "parameters": {"type": "array"}}]},
        "invalid_function_parameters",
        "session.tools[0].parameters",
    ),
    (
        {"tools": [{**STOP_TOOL, "parameters": {"type": "object", "properties": {"a": {"$ref": "#/x"}}}}]},
        "invalid_function_parameters",
        "session.tools",
    ),
]


def test_wrong_tools_are_refused_and_change_nothing(server):
    async def talk():
        async with connected(server, ping_timeout=None) as client:
            for session, code, param in WRONG:
                await client.send("session.update", session=session)
                error = (await client.until("error", 200))["error"]
                assert (error["code"], error["param"]) == (code, param), error
            await client.send("session.update", session={"instructions": "Be brief."})
            assert (await client.until("session.updated"))["session"]["tools"] == []

    run(talk(), 500)


@pytest.mark.timeout(600)
def test_the_stock_client_completes_a_round_trip(server):
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", timeout=300)
    named = {"type": "function", "function": {"name": "get_weather"}}
    asked = {"model": "any", "messages": QUESTION, "tools": [CHAT_TOOL]}
    choice = client.chat.completions.create(**asked, tool_choice=named).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (found,) = choice.message.tool_calls
    assert fits_weather(found.function.arguments)
    output = {"role": "tool", "tool_call_id": found.id, "content": "It is clear."}
    history = [*QUESTION, choice.message.model_dump(exclude_none=True), output]
    second = client.chat.completions.create(
        model="any", messages=history, tools=[CHAT_TOOL], tool_choice="none", max_tokens=12
    ).choices[0]
    assert second.message.content
    assert not second.message.tool_calls

    name, arguments, reason = "", "", None
    for chunk in client.chat.completions.create(**asked, tool_choice="required", stream=True):
        delta, reason = chunk.choices[0].delta, chunk.choices[0].finish_reason or reason
        assert not delta.content
        for piece in delta.tool_calls or []:
            if piece.index == 0:
                name += piece.function.name or ""
                arguments += piece.function.arguments
    assert reason == "tool_calls"
    assert name == "get_weather"
    assert fits_weather(arguments)


def post(server, **body):
    return httpx.post(f"{server.url}/v1/chat/completions", json={"messages": QUESTION, **body}, timeout=200)


def test_chat_refuses_a_choice_without_its_tool(server):
    for choice in ("required", {"type": "function", "function": {"name": "go"}}):
        found = post(server, tool_choice=choice)
        assert found.status_code == 400
        assert found.json()["error"]["param"] == "tool_choice"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_model_without_tools_says_so_and_it_is_no_error(without_tools, choice):
    async def talk():
        async with connected(without_tools, ping_timeout=None) as client:
            await client.send("session.update", session={"tools": [WEATHER_TOOL], "tool_choice": choice})
            shown = (await client.until("session.updated"))["session"]  # fails on any error event
            assert (shown["tools"], shown["tool_choice"], shown["tools_supported"]) == ([], "none", False)
            await client.send("conversation.item.create", item=user_text("What is the capital of France?"))
            await client.send("response.create", response={"output_modalities": ["text"]})
            response = (await client.until("response.done", 200))["response"]
            assert "Paris" in response["output"][0]["content"][0]["text"]

    run(talk(), 500)


def test_chat_with_a_model_without_tools(without_tools):
    assert post(without_tools, tools=[CHAT_TOOL]).status_code == 200
    found = post(without_tools, tools=[CHAT_TOOL], tool_choice="required")
    assert found.status_code == 400
    assert found.json()["error"]["code"] == "tools_not_supported"
