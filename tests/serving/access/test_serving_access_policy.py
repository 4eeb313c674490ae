"""The access policy: its rules, and that it is applied before a WebSocket is accepted."""

import asyncio
import base64

import httpx
import pytest
import websockets
from typer.testing import CliRunner

from echox.cli.main import app
from echox.serving.access.security import STATIC, AccessPolicy, is_loopback, presented_key
from serving_help import nano, running
from waiting import wait_until

KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def locked():
    with running(nano(), policy=AccessPolicy("secret")) as server:
        yield server


@pytest.fixture(scope="module")
def client(locked):
    """One for hundreds of requests: each new one would read all certificate authorities again."""
    with httpx.Client() as found:
        yield found


def asked(policy, method="WEBSOCKET", path="/v1/realtime", host="localhost:8000", **headers):
    refusal = policy.check(method, path, {"host": host, **headers})
    return None if refusal is None else refusal[1]


def test_loopback_without_a_key():
    policy = AccessPolicy()
    assert asked(policy) is None
    assert asked(policy, host="127.0.0.1:8000", origin="http://127.0.0.1:8000") is None
    assert asked(policy, host="[::1]:8000") is None
    assert asked(policy, origin="https://evil.example") == "origin_not_allowed"
    assert asked(policy, origin="null") == "origin_not_allowed"
    assert asked(policy, origin="http://localhost:9999") == "origin_not_allowed"
    # A page that points its own name at this machine is of the same origin as the Host it sends.
    assert asked(policy, host="evil.example:8000", origin="http://evil.example:8000") == "host_not_allowed"
    assert asked(policy, method="POST", path="/v1/chat/completions", host="evil.example") == "host_not_allowed"
    assert asked(policy, host="evil.example", path="/health") is None


@pytest.mark.parametrize("wrong", ["[::1", "[", "]", "http://[", "a b", "\x00", "", "evil.example@localhost:8000"])
def test_malformed_headers_are_refused(wrong):
    assert asked(AccessPolicy(), host=wrong) == "host_not_allowed"
    assert asked(AccessPolicy(), origin=f"http://{wrong}") == "origin_not_allowed"
    assert asked(AccessPolicy("secret"), host=wrong, origin=f"http://{wrong}", **KEY) in (None, "origin_not_allowed")
    assert asked(AccessPolicy("secret"), host="", origin="http://", **KEY) == "origin_not_allowed"


def test_with_a_key():
    policy = AccessPolicy("secret", ("https://app.example",))
    assert asked(policy) == "invalid_api_key"
    assert asked(policy, authorization="Bearer wrong") == "invalid_api_key"
    assert asked(policy, authorization="Basic secret") == "invalid_api_key"
    assert asked(policy, authorization="Bearer sécret") == "invalid_api_key"
    assert asked(policy, host="anything.example", **KEY) is None
    assert asked(policy, origin="https://app.example", **KEY) is None
    assert asked(policy, origin="https://app.example.evil", **KEY) == "origin_not_allowed"
    assert asked(policy, **{"sec-websocket-protocol": "realtime, openai-insecure-api-key.secret"}) is None
    assert asked(policy, **{"sec-websocket-protocol": "realtime, openai-insecure-api-key.no"}) == "invalid_api_key"
    assert asked(policy, "GET", "/metrics") == "invalid_api_key"
    assert asked(policy, "GET", "/v1/models") == "invalid_api_key"
    for path in ("/", "/app.js", "/health", "/ready"):  # the page asks for the key; nothing secret is in it
        assert asked(policy, "GET", path) is None
    assert asked(policy, "POST", "/") == "invalid_api_key"


def test_any_host_behind_a_proxy_that_checks_access():
    policy = AccessPolicy(any_host=True)
    assert asked(policy, host="anything.example") is None
    assert asked(policy, host="anything.example", origin="https://other.example") == "origin_not_allowed"
    assert asked(AccessPolicy(allowed_origins=("*",)), origin="https://other.example") is None


KEYS = ["sesame", "Kq3/x+Zo7w==", "two words", '(<@,;:?={"', "ek", "~" * 300]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["", "\n", "\r\n", " "])
def test_any_key_that_a_header_can_carry_is_accepted_however_it_is_sent(key, around):
    policy = AccessPolicy(around + key + around)
    encoded = base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")
    assert asked(policy, authorization=f"Bearer {key}") is None
    assert asked(policy, **{"sec-websocket-protocol": f"realtime, echox-api-key.{encoded}"}) is None
    for wrong in ("", key + "x", key[:-1]):
        assert asked(policy, authorization=f"Bearer {wrong}") == "invalid_api_key"
        sent = base64.urlsafe_b64encode(wrong.encode()).decode().rstrip("=")
        assert asked(policy, **{"sec-websocket-protocol": f"realtime, echox-api-key.{sent}"}) == "invalid_api_key"


@pytest.mark.parametrize("encoded", ["", "=", "a", "?", "//8", "_w", "é", "a b"])
def test_a_malformed_encoded_key_is_none(encoded):
    assert presented_key({"sec-websocket-protocol": f"realtime, echox-api-key.{encoded}"}) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        *({"api_key": key} for key in (" ", "\n", "ek_0123", " ek_0123", "sésame", "two\nlines", "\x7f")),
        {"allowed_origins": ("example.org",)},
        {"allowed_origins": ("https://a/b",)},
    ],
)
def test_an_invalid_policy_is_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        AccessPolicy(**wrong)


def test_loopback_names():
    assert [is_loopback(name) for name in ("localhost", "127.9.9.9", "::1", "0.0.0.0", "example.org", "")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert presented_key({"authorization": "bearer  x "}) == "x"


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

    with running(nano(), policy=AccessPolicy("secret")) as server:
        asyncio.run(all_of(server))
        wait_until(lambda: not server.service.sessions, "sessions end with their clients", 30)


@pytest.mark.parametrize(
    "suffix", ["", "/", "%0A", "%0a%0a", "%00", "%20", ";a", "//", "%2F", "?a=/app.js", "%3F/app.js"]
)
def test_no_spelling_of_a_path_does_without_the_key(locked, client, suffix):
    """The router's ``$`` also matches before a line break, so ``/metrics%0A`` is a path that it knows."""
    for path in ("metrics", "v1/models", "v1/models/nano", "v1/realtime", "v1/chat/completions"):
        for prefix in ("/", "//", "/./", "/%2e%2e/", "/%0A/"):
            found = client.get(f"{locked.url}{prefix}{path}{suffix}")
            assert found.status_code in (400, 401), (prefix, path, suffix)


def test_the_page_needs_no_key(locked, client):
    files = [str(file.relative_to(STATIC)) for file in STATIC.rglob("*") if file.is_file()]
    assert len(files) > 10
    for path in ("", "health", "ready", "about.json", *files):
        assert client.get(f"{locked.url}/{path}").status_code == 200, path


ANSWERS = [
    # what a page of an allowed origin asks, its status, and a header of the answer that it needs
    ("GET", "/v1/models", {}, 401, "WWW-Authenticate"),
    ("GET", "/v1/models", {"Authorization": "Bearer wrong"}, 401, None),
    ("GET", "/v1/models", {"Authorization": "Bearer ek_gone"}, 401, None),
    ("GET", "/v1/models", KEY, 200, None),
    ("GET", "/nothing", KEY, 404, None),
    ("POST", "/v1/chat/completions", KEY, 400, None),
    ("DELETE", "/v1/models", KEY, 405, "Allow"),
]


@pytest.fixture(scope="module")
def shared():
    policy = AccessPolicy("secret", allowed_origins=("https://app.example",))
    with running(nano(), policy=policy) as server:
        yield server


@pytest.mark.parametrize(("method", "path", "headers", "status", "needed"), ANSWERS)
def test_a_page_of_an_allowed_origin_reads_every_answer_and_no_other_page_any(
    shared, method, path, headers, status, needed
):
    for origin, reads in (("https://app.example", True), ("https://evil.example", False)):
        found = httpx.request(method, shared.url + path, headers={**headers, "Origin": origin})
        assert found.status_code in ((status,) if reads else (401, 403))
        assert found.headers.get("access-control-allow-origin") == (origin if reads else None)
        if reads:
            exposed = found.headers["access-control-expose-headers"].split(", ")
            assert {"Location", "Retry-After", "X-EchoX-Unspoken"} <= set(exposed)
            assert needed is None or needed in found.headers


def test_a_page_may_ask_whether_it_may_ask(shared):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, status in (("https://app.example", 200), ("https://evil.example", 400)):
        found = httpx.options(f"{shared.url}/v1/chat/completions", headers={**asked, "Origin": origin})
        assert found.status_code == status
        assert (found.headers.get("access-control-allow-origin") == origin) == (status == 200)
