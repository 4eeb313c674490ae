"""The same application on a local Ray cluster: two replicas, conversations over WebSockets, HTTP."""

import asyncio
import importlib.util
import json
import os
import socket

import httpx
import pytest
import websockets

from echox.serving.access.security import AccessPolicy
from echox.serving.launch import Replicas, ServerOptions, ray_application
from echox.serving.protocol.limits import Limits
from serving_help import Client, user_text

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray[serve]"),
]


@pytest.fixture(scope="module")
def url():
    # A shared machine may take longer to start a process than Ray's patience with its own proxy.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "120")
    import ray
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        options = ServerOptions(threads=1, access_policy=AccessPolicy("secret"), limits=Limits(max_sessions=4))
        serve.run(ray_application(options, Replicas(min_replicas=2, max_replicas=2)), name="echox", route_prefix="/")
        yield f"127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


def test_conversations_over_replicas(url):
    async def talk(number):
        headers = {"Authorization": "Bearer secret"}
        async with websockets.connect(f"ws://{url}/v1/realtime", additional_headers=headers, max_size=None) as ws:
            client = Client(ws)
            assert (await client.next(60))["type"] == "session.created"
            for text, answer in (
                ("What is the capital of France?", "Paris"),
                ("Do you know the sound of a cow?", "moo"),
            ):
                await client.send("conversation.item.create", item=user_text(text))
                await client.send("response.create", response={"metadata": {"number": str(number)}})
                done = await client.until("response.done", 120)
                assert done["response"]["metadata"] == {"number": str(number)}
                assert answer in done["response"]["output"][0]["content"][0]["transcript"]
            assert len(client.sound()) > 24000

    async def all_of():
        await asyncio.gather(*(talk(number) for number in range(4)))

    asyncio.run(all_of())


def test_http_and_the_access_policy(url):
    assert httpx.get(f"http://{url}/health").json() == {"status": "ok"}
    body = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    assert httpx.post(f"http://{url}/v1/chat/completions", json=body).status_code == 401
    headers = {"Authorization": "Bearer secret"}
    found = httpx.post(f"http://{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert "Paris" in found.json()["choices"][0]["message"]["content"]
    lines = []
    with httpx.stream(
        "POST", f"http://{url}/v1/chat/completions", json={**body, "stream": True}, headers=headers
    ) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[0].removeprefix("data: "))["object"] == "chat.completion.chunk"

    async def knock():
        async with websockets.connect(f"ws://{url}/v1/realtime") as ws:
            await ws.recv()

    with pytest.raises((websockets.InvalidStatus, websockets.ConnectionClosed, websockets.InvalidMessage)):
        asyncio.run(knock())
