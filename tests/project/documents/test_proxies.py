"""The proxy recipes of docs/serving.md, as they are written there, on an odd port and under a path."""

import json
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest
from websockets.sync.client import connect

from browser import browser_tests, chromium, opened
from markdown_commands import ROOT, fenced_blocks
from serving_help import nano, running, user_text
from web_page import ask, reply, said

SERVING = ROOT / "docs" / "serving.md"
RECIPES = [
    pytest.param(program, block, "/echox/" if "/echox" in block else "/", id=f"{program}{number}")
    for program, language in (("nginx", "nginx"), ("caddy", "caddyfile"))
    for number, block in enumerate(fenced_blocks(SERVING, language))
]
NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log stderr;
events {{}}
http {{
  access_log off; types {{ text/html html; }}
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen 127.0.0.1:{port}; {recipe} }}
}}
"""


@pytest.fixture(scope="module")
def server():
    with running(nano()) as server:
        yield server


@contextmanager
def proxy(program, recipe, server, folder):
    """The program with the recipe in front of the server; yields its address."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert "127.0.0.1:8000" in recipe
    recipe = recipe.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    path = folder / "configuration"
    if program == "nginx":
        assert "proxy_set_header X-Forwarded-For $remote_addr;" in recipe, (
            "clients could choose the address they count as"
        )
        path.write_text(NGINX.format(folder=folder, port=port, recipe=recipe), encoding="utf-8")
        command = [found, "-p", str(folder), "-c", str(path)]
    else:  # without a name there is no certificate to get
        assert "talk.example.org {" in recipe
        site = recipe.replace("talk.example.org {", f"http://127.0.0.1:{port} {{")
        path.write_text(f"{{\n admin off\n}}\n{site}", encoding="utf-8")
        command = [found, "run", "--adapter", "caddyfile", "--config", str(path)]
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=log, env=environment) as process,
    ):
        try:
            deadline = time.monotonic() + 30
            while not answers(port):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def test_each_proxy_has_a_recipe_for_the_root_and_for_a_path():
    found = {(recipe.values[0], recipe.values[2]) for recipe in RECIPES}
    assert found == {(program, path) for program in ("nginx", "caddy") for path in ("/", "/echox/")}


@pytest.mark.parametrize(("program", "recipe", "path"), RECIPES)
def test_page_requests_and_conversations_pass(program, recipe, path, server, tmp_path):
    with proxy(program, recipe, server, tmp_path) as site:
        page = httpx.get(f"{site}{path.rstrip('/') or '/'}", follow_redirects=True)
        assert page.status_code == 200
        assert str(page.url) == f"{site}{path}"
        for name in re.findall(r'(?:src|href)="([a-z]+\.(?:js|css|svg))"', page.text):
            # Browsers send the page's origin with module scripts.
            assert httpx.get(f"{site}{path}{name}", headers={"Origin": site}).status_code == 200, name
        large = {"model": "nano", "messages": [{"role": "user", "content": "What does a cow say?"}], "stream": True}
        chat = httpx.post(f"{site}{path}v1/chat/completions", json=large, headers={"Origin": site}, timeout=60)
        assert chat.status_code == 200
        assert chat.text.rstrip().endswith("data: [DONE]")
        with connect(f"ws{site[4:]}{path}v1/realtime", origin=site, subprotocols=["realtime"]) as ws:
            ws.send(json.dumps({"type": "conversation.item.create", "item": user_text("What does a cow say?")}))
            ws.send(json.dumps({"type": "response.create"}))
            while (event := json.loads(ws.recv(timeout=60)))["type"] != "response.done":
                assert event["type"] != "error", event
        assert event["response"]["output"][0]["content"][0]["transcript"] == "A cow says moo."


@pytest.mark.parametrize(("program", "recipe", "path"), RECIPES)
def test_uploads_pass(program, recipe, path, server, tmp_path):
    with proxy(program, recipe, server, tmp_path) as site:
        upload = {"file": ("long.wav", b"x" * 20_000_000)}  # not audio: what matters is that the server says so
        answer = httpx.post(f"{site}{path}v1/audio/transcriptions", files=upload, data={"model": "nano"}, timeout=60)
        assert answer.status_code in (400, 415)
        assert answer.json()["error"]["message"]


@pytest.mark.browser
@pytest.mark.skipif(browser_tests[1].args[0], reason=browser_tests[1].kwargs["reason"] or "there is a browser")
@pytest.mark.parametrize(("program", "recipe", "path"), RECIPES)
def test_the_page_answers(program, recipe, path, server, tmp_path):
    with proxy(program, recipe, server, tmp_path) as site, chromium() as browser, opened(browser, site + path) as page:
        ask(page, "What does a cow say?")
        assert said(reply(page, 0)) == "A cow says moo."


def test_the_old_recipe_would_be_found_out(server, tmp_path):
    """A Host without its port is not the origin of the page: its scripts and its WebSocket are refused."""
    (recipe,) = [recipe.values[1] for recipe in RECIPES if recipe.values[0::2] == ("nginx", "/")]
    with proxy("nginx", recipe.replace("$http_host", "$host"), server, tmp_path) as site:
        assert httpx.get(f"{site}/app.js", headers={"Origin": site}).status_code == 403
