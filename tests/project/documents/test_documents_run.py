"""What the README and the guides to the server show is run as it is written; what is not run says why."""

import asyncio
import re
import shlex
import shutil

import pytest
from typer.testing import CliRunner

from browser import browser_tests, chromium, opened
from echox.api.loading import bundled_questions
from echox.cli.main import app
from markdown_commands import ROOT, command_lines, fenced_blocks
from serving_help import nano, running

DOCUMENTS = [ROOT / "README.md", ROOT / "docs/protocol.md", ROOT / "docs/serving.md"]
RUN_HERE = r"echox (reply|talk|doctor|--help)"
ELSEWHERE = {
    r"git clone ADDRESS_OF_THIS_REPOSITORY": "this is a clone",
    r"make |scripts/|runs/": "set-up, tests and training: continuous integration runs them",
    r"(uv )?pip install ": "installs from the network; scripts/setup.sh and the image workflow do the same",
    r"echox serve": "tests/serving/test_serving_launch.py starts the command, test_serving_ray.py the replicas",
    r"echox convert path/to": "tests/models/conversion/official/test_official_loading.py converts",
    r".*--model models/echox-8b": "needs 8B weights",
    r"echox run ": "tests/project/roads/test_recipes.py loads every recipe; the smoke run trains",
    r"python benchmarks/serving_load.py": "ten minutes of load; tests/project/test_benchmarks.py imports it",
}
COMMANDS = [
    line.strip() for path in DOCUMENTS for block in fenced_blocks(path, "bash") for line in command_lines(block)
]


@pytest.fixture(scope="module")
def server():
    with running(nano()) as server:
        yield server


@pytest.fixture
def questions(tmp_path, monkeypatch):
    """A folder with the recordings that the examples name."""
    for name, source in zip(("question.wav", "first.wav", "second.wav"), bundled_questions(), strict=True):
        shutil.copy(source, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_run_or_says_why_not(command, questions):
    if any(re.match(pattern, command) for pattern in ELSEWHERE):
        return
    assert re.match(RUN_HERE, command), f"{command!r}: add it to RUN_HERE or, with a reason, to ELSEWHERE"
    found = CliRunner().invoke(app, shlex.split(command, comments=True)[1:])
    assert found.exit_code == 0, found.output


def test_python_of_the_readme(questions, capsys):
    (snippet,) = fenced_blocks(ROOT / "README.md", "python")
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["reply"].text
    assert len(names["reply"].waveform)
    assert "s of speech]" in capsys.readouterr().out


def test_python_of_the_protocol(server):
    openai = pytest.importorskip("openai")
    (snippet,) = fenced_blocks(ROOT / "docs/protocol.md", "python")
    names = {}
    exec(compile(snippet.replace("http://localhost:8000", server.url), "protocol.md", "exec"), names)
    assert isinstance(names["client"], openai.AsyncOpenAI)
    assert asyncio.run(names["talk"]()) == "A cow says moo."


@pytest.mark.browser
@pytest.mark.skipif(browser_tests[1].args[0], reason=browser_tests[1].kwargs["reason"] or "there is a browser")
def test_javascript_of_the_protocol_in_a_browser(server):
    (snippet,) = [block for block in fenced_blocks(ROOT / "docs/protocol.md", "javascript") if "new WebSocket" in block]
    told = []
    with chromium() as browser, opened(browser, server.url) as page:
        page.on("console", lambda message: told.append(message.text))
        script = snippet.replace("localhost:8000", f"127.0.0.1:{server.port}")
        page.evaluate(f"() => {{ {script}; window.ws = ws }}")
        page.evaluate("""() => ws.addEventListener("message", ({ data }) => {
          const event = JSON.parse(data);
          if (event.type === "response.done") window.said = event.response.output[0].content[0].transcript;
        })""")
        while not (said := page.evaluate("window.said")):
            page.wait_for_timeout(50)
    assert said == "A cow says moo."
    assert "response.done" in told
