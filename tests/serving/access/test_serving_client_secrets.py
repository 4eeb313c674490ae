"""Client secrets: created with the key, valid for realtime sessions until they expire, and for nothing else."""

import asyncio
import json
import pickle

import httpx
import pytest
import websockets

from echox.serving.access import client_secrets
from echox.serving.access.client_secrets import ClientSecrets
from echox.serving.access.security import AccessPolicy
from echox.serving.protocol.limits import Limits
from echox.serving.protocol.options import SessionOptions
from serving_help import check_event, nano, running

KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def server():
    with running(nano(), policy=AccessPolicy("secret")) as found:
        yield found


def create(server, headers=KEY, **body):
    return httpx.post(f"{server.url}/v1/realtime/client_secrets", json=body, headers=headers, timeout=30)


async def greeting(server, headers=None, subprotocols=None):
    async with websockets.connect(server.ws_url, additional_headers=headers, subprotocols=subprotocols) as ws:
        return check_event(await ws.recv())["session"]


def status_of(server, key, path="/v1/realtime"):
    async def knock():
        try:
            url = server.ws_url.replace("/v1/realtime", path)
            async with websockets.connect(url, additional_headers={"Authorization": f"Bearer {key}"}):
                return 101
        except websockets.InvalidStatus as error:
            return error.response.status_code

    return asyncio.run(knock())


def test_a_session_begins_with_the_options_of_its_secret(server):
    session = {"type": "realtime", "instructions": "Be brief.", "audio": {"output": {"speed": 1.25}}}
    made = create(server, session=session, expires_after={"anchor": "created_at", "seconds": 60})
    assert made.status_code == 200
    from openai.types.realtime import ClientSecretCreateResponse

    secret = ClientSecretCreateResponse.model_validate_json(made.text, strict=True)
    assert secret.value.startswith("ek_")
    assert secret.session.instructions == "Be brief."
    for shown in (
        asyncio.run(greeting(server, {"Authorization": f"Bearer {secret.value}"})),
        asyncio.run(greeting(server, None, ["realtime", f"openai-insecure-api-key.{secret.value}"])),
    ):
        assert (shown["instructions"], shown["audio"]["output"]["speed"]) == ("Be brief.", 1.25)


def test_a_secret_keeps_checked_options_only(server):
    made = create(server, session={"type": "realtime", "instructions": "Be brief.", "nobody_knows_this": "x" * 900_000})
    assert made.status_code == 200
    assert len(pickle.dumps(server.service.client_secrets.find(made.json()["value"]))) < 10_000


def test_sessions_of_one_secret_are_independent(server):
    headers = {"Authorization": f"Bearer {create(server, session={'type': 'realtime'}).json()['value']}"}

    async def told():
        async with websockets.connect(server.ws_url, additional_headers=headers) as ws:
            await ws.recv()
            await ws.send(json.dumps({"type": "session.update", "session": {"instructions": "Be brief."}}))
            return check_event(await ws.recv())["session"]["instructions"]

    assert asyncio.run(told()) == "Be brief."
    assert asyncio.run(greeting(server, headers))["instructions"] == ""


def test_the_stock_client_creates_a_secret(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(api_key="secret", base_url=f"{server.url}/v1")
    secret = client.realtime.client_secrets.create()
    assert status_of(server, secret.value) == 101


def test_a_secret_opens_nothing_else(server):
    key = create(server).json()["value"]
    headers = {"Authorization": f"Bearer {key}"}
    body = {"messages": [{"role": "user", "content": "Hello."}]}
    for path in ("chat/completions", "responses", "audio/speech", "audio/transcriptions", "realtime/client_secrets"):
        found = httpx.post(f"{server.url}/v1/{path}", json=body, headers=headers)
        assert (found.status_code, found.json()["error"]["code"]) == (403, "client_secret_scope")
    assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == 403
    assert httpx.get(f"{server.url}/metrics", headers=headers).status_code == 401
    assert status_of(server, key, "/v1/other") == 403
    foreign = {"Origin": "https://evil.example"}
    with pytest.raises(websockets.InvalidStatus, match="403"):
        asyncio.run(greeting(server, {**headers, **foreign}))


def test_without_a_key_no_secret_is_created(server):
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Bearer ek_made_up"}):
        found = create(server, headers)
        assert found.status_code == 401
        assert found.json()["error"].keys() == {"type", "code", "message", "param"}
    assert status_of(server, "ek_made_up") == 401


def test_a_secret_expires(server, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(server.service.client_secrets, "_clock", lambda: now[0])
    made = create(server, expires_after={"anchor": "created_at", "seconds": 10}).json()
    assert made["expires_at"] == 1010
    assert status_of(server, made["value"]) == 101
    now[0] = 1010.0
    assert status_of(server, made["value"]) == 401


def test_a_server_without_a_key_has_secrets_too():
    with running(nano()) as server:
        key = create(server, {}).json()["value"]
        assert status_of(server, key) == 101
        assert status_of(server, "ek_other") == 401
        found = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
        assert found.status_code == 403


MISTAKES = [
    ({"expires_after": {"seconds": 9}}, "expires_after.seconds"),
    ({"expires_after": {"seconds": 7201}}, "expires_after.seconds"),
    ({"expires_after": {"anchor": "now"}}, "expires_after.anchor"),
    ({"session": {"type": "translation"}}, "session.type"),
    ({"session": {"prompt": {"id": "p"}}}, "session.prompt"),
    ({"session": []}, "session"),
]


@pytest.mark.parametrize(("body", "param"), MISTAKES)
def test_errors_name_the_parameter(server, body, param):
    found = create(server, **body)
    assert found.status_code == 400
    assert found.json()["error"]["param"] == param


def test_the_number_of_secrets_is_bounded(monkeypatch):
    monkeypatch.setattr(client_secrets, "_MAX_SECRETS", 3)
    now = [0.0]
    secrets = ClientSecrets(lambda: now[0])
    options = SessionOptions("nano", Limits())
    made = [secrets.create(10, options) for _ in range(4)]
    assert [secrets.find(one.value) is not None for one in made] == [False, True, True, True]
    now[0] = 10.0
    last = secrets.create(10, options)
    assert len(secrets._secrets) == 1
    assert secrets.find(last.value) == last


@pytest.mark.parametrize("path", ["/v1/realtim", "/", "/v1/chat/completions", "/app.js"])
def test_a_websocket_at_another_path_is_not_found(server, path):
    assert status_of(server, "secret", path) == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "GET"])
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/audio/translations", "/nothing"])
def test_unknown_paths_are_not_found_with_any_method(server, method, path):
    found = httpx.request(method, f"{server.url}{path}", headers=KEY, content=json.dumps({"a": 1}))
    assert (found.status_code, found.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("POST", "/app.js"), ("PUT", "/v1/audio/speech")],
)
def test_a_wrong_method_of_a_known_path(server, method, path):
    found = httpx.request(method, f"{server.url}{path}", headers=KEY)
    assert (found.status_code, found.json()["error"]["code"]) == (405, "method_not_allowed")
