"""Admission and upload memory: slow bodies are not admitted, and one address gets a share only."""

import asyncio
import json

import httpx
import pytest
import websockets

from echox.serving.access.admission import AdmissionQueue, AdmissionRefused, UploadMemory
from echox.serving.access.connections import client_at, counts_as_client
from echox.serving.access.uvicorn_protocols import WebSocketProtocol
from echox.serving.protocol.limits import Limits
from raw_clients import crowd
from serving_help import connected, nano, running
from waiting import wait_until, wait_until_async

FRANCE = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 4}
SLOW_BODY = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100000\r\n\r\n{"
)


def forwarded_for(address):
    """Options of a connection through a proxy on this machine."""
    return {"additional_headers": {"X-Forwarded-For": address}}


def test_slow_bodies_are_not_admitted():
    with running(nano(), Limits(max_requests=2, max_waiting=2, body_s=2.0)) as server:
        with crowd(server.port, 24, SLOW_BODY) as clients:
            wait_until(lambda: len(server.server.open_connections) == 24, "all are connected")
            assert server.service.request_admission.num_admitted == 0
            found = httpx.post(f"{server.url}/v1/chat/completions", json=FRANCE, timeout=20)
            assert found.status_code == 200, found.text
            clients[0].settimeout(10)
            assert b"408" in clients[0].recv(1000).split(b"\r\n")[0]
        wait_until(lambda: server.service.upload_memory.used == 0, "the memory of uploads is released")


def test_uploads_share_one_memory():
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 600_000}]}).encode()
    with running(nano(), Limits(max_uploading_bytes=500_000)) as server:
        found = httpx.post(f"{server.url}/v1/chat/completions", content=body, timeout=20)
        assert found.status_code == 503
        assert httpx.post(f"{server.url}/v1/chat/completions", json=FRANCE, timeout=20).status_code == 200
        assert server.service.upload_memory.used == 0


def test_one_address_gets_its_share_of_the_capacity_and_of_the_queue():
    async def all_of():
        queue = AdmissionQueue(4, 4, 0.05, client_share=0.5)
        for _ in range(2):
            await queue.acquire("203.0.113.7")
        with pytest.raises(AdmissionRefused):
            await queue.acquire("203.0.113.7")
        for _ in range(2):
            await queue.acquire("203.0.113.8")
        with pytest.raises(AdmissionRefused):  # waits in vain
            await queue.acquire("203.0.113.9")
        assert (queue.num_admitted, queue.num_waiting) == (4, 0)
        queue.release("203.0.113.7")
        await queue.acquire("203.0.113.7")
        for client in ("203.0.113.7", "203.0.113.7", "203.0.113.8", "203.0.113.8"):
            queue.release(client)
        for _ in range(4):
            await queue.acquire("127.0.0.1")
        assert not queue._by_client.keys() - {"127.0.0.1"}

    asyncio.run(all_of())


def test_one_address_gets_its_share_of_memory():
    uploads = UploadMemory(100, client_share=0.5)
    with uploads.reserve("203.0.113.7") as one, uploads.reserve("203.0.113.7") as two:
        one.add(40)
        with pytest.raises(AdmissionRefused):
            two.add(20)
        two.add(10)
        with uploads.reserve("203.0.113.8") as three, pytest.raises(AdmissionRefused):
            three.add(40)
            three.add(20)
    assert uploads.used == 0


def test_clients_behind_a_proxy_are_distinguished():
    async def all_of(server):
        async with connected(server, **forwarded_for("203.0.113.7")):
            async with websockets.connect(server.ws_url, **forwarded_for("203.0.113.7")) as second:
                assert json.loads(await second.recv())["error"]["code"] == "session_limit_reached"
            async with connected(server, **forwarded_for("203.0.113.8")):
                pass

    with running(nano(), Limits(max_sessions=2)) as server:
        asyncio.run(all_of(server))


def test_all_addresses_of_one_network_of_ipv6_are_one_client():
    assert client_at("2001:db8:1:2::1") == client_at("2001:db8:1:2:ffff:ffff:ffff:ffff") != client_at("2001:db8:1:3::1")
    assert client_at("fe80::1%eth0") == client_at("fe80::2%eth1")
    assert client_at("::ffff:203.0.113.7") == client_at("203.0.113.7") == "203.0.113.7"
    assert not counts_as_client(client_at("::1"))
    assert not counts_as_client(client_at("::ffff:127.0.0.1"))
    assert client_at("") == ""
    assert client_at("no address") == "no address"

    async def all_of(server):
        async with (
            connected(server, **forwarded_for("2001:db8::1")),
            websockets.connect(server.ws_url, **forwarded_for("2001:db8::2")) as second,
        ):
            assert json.loads(await second.recv())["error"]["code"] == "session_limit_reached"

    with running(nano(), Limits(max_sessions=2)) as server:
        asyncio.run(all_of(server))


def test_a_waiting_client_is_not_read_before_it_is_admitted():
    async def all_of(server):
        async with websockets.connect(server.ws_url) as first, websockets.connect(server.ws_url) as second:
            await first.recv()
            sending = asyncio.create_task(second.send("x" * 15 * 2**20))
            queue = server.service.session_admission
            await wait_until_async(lambda: queue.num_waiting == 1, "the second client waits")
            await asyncio.wait({sending}, timeout=1.0)  # time in which the server could read it
            protocols = [one for one in server.server.server_state.connections if isinstance(one, WebSocketProtocol)]
            assert len(protocols) == 2
            for one in protocols:
                assert one.queue.qsize() == 0
                assert len(one.conn.reader.buffer) < 2**20
            await first.close()
            assert json.loads(await second.recv())["type"] == "session.created"
            await sending
            assert json.loads(await second.recv())["error"]["code"] == "invalid_json"

    with running(nano(), Limits(max_sessions=1, wait_s=30.0)) as server:
        asyncio.run(all_of(server))


@pytest.mark.slow
def test_late_bytes_of_a_refused_client_are_not_kept():
    async def all_of(server):
        async with websockets.connect(server.ws_url) as first, websockets.connect(server.ws_url) as second:
            await first.recv()
            sending = asyncio.create_task(second.send("x" * 15 * 2**20))
            assert json.loads(await second.recv())["error"]["code"] == "session_limit_reached"
            kept = 0
            for _ in range(40):  # two seconds: the message arrives now
                await asyncio.sleep(0.05)  # fixed time: a step of the loop
                protocols = [one for one in server.server.server_state.connections if hasattr(one, "close_sent")]
                kept = max([kept, *(len(one.conn.reader.buffer) for one in protocols)])
            sending.cancel()
            assert kept < 2**18
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await second.recv()
            assert closed.value.rcvd.code == 1013

    with running(nano(), Limits(max_sessions=1, wait_s=0.2)) as server:
        asyncio.run(all_of(server))
