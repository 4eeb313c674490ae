"""Who may come in: the rule itself, and that it stands before the WebSocket is accepted."""

import asyncio
import time

import httpx
import pytest
import websockets
from typer.testing import CliRunner

from echox.cli.main import app
from echox.serving.access.security import Door, is_loopback, shown_key
from echox.serving.server import STATIC
from serving_help import nano, running

KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def locked():
    with running(nano(), door=Door("secret")) as server:
        yield server


def asked(door, method="WEBSOCKET", path="/v1/realtime", host="localhost:8000", **headers):
    refusal = door.refuse(method, path, {"host": host, **headers})
    return None if refusal is None else refusal[1]


def test_loopback_without_a_key():
    door = Door()
    assert asked(door) is None
    assert asked(door, host="127.0.0.1:8000", origin="http://127.0.0.1:8000") is None
    assert asked(door, host="[::1]:8000") is None
    assert asked(door, origin="https://evil.example") == "origin_not_allowed"
    assert asked(door, origin="null") == "origin_not_allowed"
    assert asked(door, origin="http://localhost:9999") == "origin_not_allowed"
    # A page that points its own name at this machine is of the same origin as the Host it sends.
    assert asked(door, host="evil.example:8000", origin="http://evil.example:8000") == "host_not_allowed"
    assert asked(door, method="POST", path="/v1/chat/completions", host="evil.example") == "host_not_allowed"
    assert asked(door, host="evil.example", path="/health") is None


@pytest.mark.parametrize("wrong", ["[::1", "[", "]", "http://[", "a b", "\x00", ""])
def test_headers_that_make_no_sense_are_refused(wrong):
    assert asked(Door(), host=wrong) == "host_not_allowed"
    assert asked(Door(), origin=f"http://{wrong}") == "origin_not_allowed"
    assert asked(Door("secret"), host=wrong, origin=f"http://{wrong}", **KEY) in (None, "origin_not_allowed")
    assert asked(Door("secret"), host="", origin="http://", **KEY) == "origin_not_allowed"


def test_with_a_key():
    door = Door("secret", ("https://app.example",))
    assert asked(door) == "invalid_api_key"
    assert asked(door, authorization="Bearer wrong") == "invalid_api_key"
    assert asked(door, authorization="Basic secret") == "invalid_api_key"
    assert asked(door, authorization="Bearer sécret") == "invalid_api_key"
    assert asked(door, host="anything.example", **KEY) is None
    assert asked(door, origin="https://app.example", **KEY) is None
    assert asked(door, origin="https://app.example.evil", **KEY) == "origin_not_allowed"
    assert asked(door, **{"sec-websocket-protocol": "realtime, openai-insecure-api-key.secret"}) is None
    assert asked(door, **{"sec-websocket-protocol": "realtime, openai-insecure-api-key.no"}) == "invalid_api_key"
    assert asked(door, "GET", "/metrics") == "invalid_api_key"
    assert asked(door, "GET", "/v1/models") == "invalid_api_key"
    for path in ("/", "/app.js", "/health", "/ready"):  # the page asks for the key; nothing secret is in it
        assert asked(door, "GET", path) is None
    assert asked(door, "POST", "/") == "invalid_api_key"


def test_behind_somebody_who_guards():
    door = Door(any_host=True)
    assert asked(door, host="anything.example") is None
    assert asked(door, host="anything.example", origin="https://other.example") == "origin_not_allowed"
    assert asked(Door(allowed_origins=("*",)), origin="https://other.example") is None


@pytest.mark.parametrize(
    "wrong", [{"api_key": " "}, {"allowed_origins": ("example.org",)}, {"allowed_origins": ("https://a/b",)}]
)
def test_a_door_that_makes_no_sense(wrong):
    with pytest.raises(ValueError, match="expected"):
        Door(**wrong)


def test_names():
    assert [is_loopback(name) for name in ("localhost", "127.9.9.9", "::1", "0.0.0.0", "example.org", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert shown_key({"authorization": "bearer  x "}) == "x"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_no_other_address_without_a_key(host, monkeypatch):
    monkeypatch.delenv("ECHOX_API_KEY", raising=False)
    found = CliRunner().invoke(app, ["serve", "--host", host])
    assert found.exit_code == 1
    assert "expected an API key" in found.output


def test_refused_before_accept():
    async def knock(server, **options):
        async with websockets.connect(server.ws_url, **options) as ws:
            await ws.recv()
            return ws.subprotocol

    async def all_of(server):
        for status, options in (
            (401, {}),
            (401, {"additional_headers": {"Authorization": "Bearer wrong"}}),
            (401, {"subprotocols": ["realtime", "openai-insecure-api-key.wrong"]}),
            (403, {"additional_headers": {"Authorization": "Bearer secret"}, "origin": "https://evil.example"}),
        ):
            with pytest.raises(websockets.InvalidStatus) as refused:
                await knock(server, **options)
            assert refused.value.response.status_code == status
        assert await knock(server, additional_headers={"Authorization": "Bearer secret"}) is None
        assert await knock(server, subprotocols=["realtime", "openai-insecure-api-key.secret"]) == "realtime"

    with running(nano(), door=Door("secret")) as server:
        asyncio.run(all_of(server))
        deadline = time.monotonic() + 30  # they end soon after their clients
        while server.service.sessions and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not server.service.sessions


@pytest.mark.parametrize(
    "suffix", ["", "/", "%0A", "%0a%0a", "%00", "%20", ";a", "//", "%2F", "?a=/app.js", "%3F/app.js"]
)
def test_no_spelling_of_a_path_does_without_the_key(locked, suffix):
    """The router's ``$`` also matches before a line break, so ``/metrics%0A`` is a path that it knows."""
    for path in ("metrics", "v1/models", "v1/models/nano", "v1/realtime", "v1/chat/completions"):
        for prefix in ("/", "//", "/./", "/%2e%2e/", "/%0A/"):
            found = httpx.get(f"{locked.url}{prefix}{path}{suffix}")
            assert found.status_code in (400, 401), (prefix, path, suffix)


def test_the_page_needs_no_key(locked):
    for path in ("", "health", "ready", "about.json", *(file.name for file in STATIC.iterdir())):
        assert httpx.get(f"{locked.url}/{path}").status_code == 200, path
