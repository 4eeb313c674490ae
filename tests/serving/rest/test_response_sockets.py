"""The Responses API over WebSockets: the stock client, conversations that nobody stores, cancels, limits and faults."""

import asyncio
import json

import httpx
import pytest
import websockets

from echox.serving.access.security import AccessPolicy
from echox.serving.protocol.limits import Limits
from serving_help import nano, run, running
from waiting import wait_until_async

openai = pytest.importorskip("openai")
FRANCE, WHICH = "What is the capital of France?", "Which country is it in?"
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


@pytest.fixture(scope="module")
def server():
    with running(nano(), Limits(max_sessions=2, max_waiting=0)) as found:
        yield found


def address(server):
    return f"ws://127.0.0.1:{server.port}/v1/responses"


class Talker:
    """A client that sends requests by hand, and reads each answer to its end."""

    def __init__(self, socket):
        self.socket = socket

    async def send(self, kind="response.create", **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def end(self):
        events = []
        while not events or events[-1]["type"] not in ENDS:
            events.append(json.loads(await asyncio.wait_for(self.socket.recv(), 60)))
        if events[-1]["type"] != "error":
            assert [event["sequence_number"] for event in events] == list(range(len(events)))
        return events[-1]

    async def ask(self, **fields):
        await self.send(**{"model": "any", **fields})
        return await self.end()


def text_of(event):
    assert event["type"] in ("response.completed", "response.incomplete"), event
    return event["response"]["output"][0]["content"][0]["text"]


def alone(*turns):
    session = nano().session()
    return [session.reply({"role": "user", "content": text}, speak=False).text for text in turns]


def test_the_stock_client_goes_on_with_what_nobody_stores(server):
    async def talk():
        client = openai.AsyncOpenAI(api_key="any", base_url=f"{server.url}/v1", max_retries=0)
        texts, ids, previous = [], [], None
        async with client.responses.connect() as connection:
            for question in (FRANCE, WHICH):
                more = {} if previous is None else {"previous_response_id": previous}
                await connection.send(
                    {"type": "response.create", "model": "gpt-4.1", "input": question, "store": False, **more}
                )
                deltas = ""
                async for event in connection:
                    if event.type == "response.output_text.delta":
                        deltas += event.delta
                    if event.type in ENDS:
                        break
                assert event.type == "response.completed"
                assert event.response.output[0].content[0].text == deltas
                texts.append(deltas)
                previous = event.response.id
                ids.append(previous)
        assert texts == alone(FRANCE, WHICH)
        await wait_until_async(lambda: not server.service.stored_responses, "what is not stored is forgotten")
        return ids

    for response_id in run(talk()):
        body = {"input": WHICH, "previous_response_id": response_id}
        found = httpx.post(f"{server.url}/v1/responses", json=body, headers={"Authorization": "Bearer any"})
        assert found.json()["error"]["code"] == "previous_response_not_found"


def test_what_is_not_stored_belongs_to_its_connection_and_only_the_newest_of_it_is_kept(server):
    async def talk():
        async with websockets.connect(address(server)) as one, websockets.connect(address(server)) as two:
            mine, theirs = Talker(one), Talker(two)
            first = (await mine.ask(input=FRANCE, store=False))["response"]["id"]
            second = await mine.ask(input=WHICH, store=False, previous_response_id=first)
            assert text_of(second) == alone(FRANCE, WHICH)[1]
            kept = second["response"]["id"]
            for talker, response_id in ((theirs, kept), (mine, first)):
                found = await talker.ask(input=WHICH, previous_response_id=response_id)
                assert (found["type"], found["status"]) == ("error", 400)
                assert found["error"]["code"] == "previous_response_not_found"
            stored = (await mine.ask(input=FRANCE))["response"]["id"]  # for everybody with this key
            assert text_of(await theirs.ask(input=WHICH, previous_response_id=stored)) == alone(FRANCE, WHICH)[1]

    run(talk())


WRONG = [
    ("not JSON", 400, "invalid_json"),
    ("[]", 400, "invalid_json"),
    (b"\xff", 400, "invalid_json"),
    ('{"type": "session.update"}', 400, "invalid_value"),
    ('{"input": "x"}', 400, "missing_required_parameter"),
    ('{"type": "response.create"}', 400, "missing_required_parameter"),
    ('{"type": "response.create", "input": "x", "seed": 1}', 400, "unknown_parameter"),
    ('{"type": "response.create", "input": "x", "background": true}', 400, "unsupported_value"),
    ('{"type": "response.create", "input": "x", "generate": false}', 400, "unsupported_value"),
    ('{"type": "response.create", "input": "x", "stream_id": 7}', 400, "invalid_type"),
    ('{"type": "response.create", "input": [{"type": "item_reference", "id": "x"}]}', 404, "item_not_found"),
    ('{"type": "response.cancel", "response_id": "x"}', 400, "response_cancel_not_active"),
    ('{"type": "response.cancel"}', 400, "response_cancel_not_active"),
]


def test_what_is_wrong_is_an_error_and_the_connection_stays(server):
    async def talk():
        async with websockets.connect(address(server)) as socket:
            talker = Talker(socket)
            for text, status, code in WRONG:
                await socket.send(text)
                found = await talker.end()
                assert (found["type"], found["status"], found["error"]["code"]) == ("error", status, code)
            assert text_of(await talker.ask(input=FRANCE)) == alone(FRANCE)[0]
        assert not server.service.request_admission.num_admitted

    run(talk())


def test_a_response_that_is_cancelled_ends_and_the_next_one_is_answered(server):
    async def talk():
        async with websockets.connect(address(server)) as socket:
            talker = Talker(socket)
            kept = (await talker.ask(input=FRANCE, store=False))["response"]["id"]
            await talker.send(model="any", input="Tell me what you know about Brazil?", store=False)
            made = json.loads(await socket.recv())["response"]["id"]
            await talker.send("response.cancel", response_id=made)
            while (event := json.loads(await socket.recv()))["type"] not in ENDS:
                pass
            if event["response"]["status"] == "completed":  # it was faster
                assert (await talker.end())["error"]["code"] == "response_cancel_not_active"
            else:
                assert (event["type"], event["response"]["status"]) == ("response.incomplete", "cancelled")
                found = await talker.ask(input=WHICH, store=False, previous_response_id=kept)
                assert text_of(found) == alone(FRANCE, WHICH)[1]

    run(talk())


def test_requests_that_come_together_are_answered_in_order(server):
    async def talk():
        async with websockets.connect(address(server)) as socket:
            talker = Talker(socket)
            for lane, question in enumerate((FRANCE, WHICH, FRANCE, WHICH)):
                await talker.send(input=question, stream_id=f"lane {lane}")
            ends = [await talker.end() for _ in range(4)]
            assert [end["stream_id"] for end in ends] == [f"lane {lane}" for lane in range(4)]
            return [text_of(end) for end in ends]

    france, which = alone(FRANCE)[0], alone(WHICH)[0]
    assert run(talk()) == [france, which, france, which]


def test_a_client_that_leaves_frees_its_place(server):
    admissions = (server.service.session_admission, server.service.request_admission)

    async def leave():
        for _ in range(3):  # there are two
            async with websockets.connect(address(server)) as socket:
                await Talker(socket).send(input=FRANCE)
                await socket.recv()
            await wait_until_async(lambda: not any(one.num_admitted for one in admissions), "it left")

    run(leave())


def test_a_full_server_and_a_wrong_key_refuse():
    async def knock(server):
        with pytest.raises(websockets.InvalidStatus, match="401"):
            async with websockets.connect(address(server)):
                pass
        headers = {"Authorization": "Bearer secret"}
        async with websockets.connect(address(server), additional_headers=headers) as socket:
            await Talker(socket).ask(input=FRANCE)
            async with websockets.connect(address(server), additional_headers=headers) as other:
                assert (await Talker(other).end())["error"]["code"] == "session_limit_reached"
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await other.recv()
                assert closed.value.rcvd.code == 1013

    with running(nano(), Limits(max_sessions=1, max_waiting=0), AccessPolicy("secret")) as server:
        run(knock(server))


def test_a_client_that_asks_nothing_is_disconnected():
    async def wait(server):
        async with websockets.connect(address(server)) as socket:
            assert text_of(await Talker(socket).ask(input=FRANCE))
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), 30)
            assert closed.value.rcvd.code == 1000

    with running(nano(), Limits(idle_s=0.5)) as server:
        run(wait(server))
