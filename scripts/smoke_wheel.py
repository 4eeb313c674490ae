"""Install the wheel as a stranger would, and ask it: ``python scripts/smoke_wheel.py [WHEEL]``.

Without WHEEL it is built here, from a copy of the sources, so that no left-over of an earlier build gets in. The wheel
then goes into an empty environment, at the versions of constraints.txt, and in two steps:

1. the wheel alone: ``echox demo`` answers, so nothing that answering needs hides in an extra;
2. the wheel with its extra ``serve``: ``echox serve`` answers over HTTP.

Both run in an empty folder without PYTHONPATH: what the package forgot to bring is missing. Standard library only.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
import venv
import wave
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUESTION = "What does a cow say?"
ANSWER = "A cow says moo."


def main() -> None:
    """Build, install, ask; the first failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", nargs="?", type=Path, help="a wheel that was built already")
    given = parser.parse_args().wheel
    with tempfile.TemporaryDirectory(prefix="echox-wheel-") as folder:
        work = Path(folder)
        wheel = given.resolve() if given else timed("wheel built", build, work)
        elsewhere = work / "elsewhere"
        elsewhere.mkdir()
        python = timed("empty environment", make_environment, work / "venv")
        timed("torch installed", run, ["bash", ROOT / "scripts/install_torch.sh", python], elsewhere)
        timed("wheel installed", install, python, str(wheel), elsewhere)
        print(timed("echox demo", ask_demo, python, elsewhere))
        timed("extra serve installed", install, python, f"{wheel}[serve]", elsewhere)
        print(timed("echox serve", ask_server, python, elsewhere))


def timed(what, function, *arguments):
    """Call, and print the seconds it took."""
    started = time.monotonic()
    result = function(*arguments)
    print(f"smoke: {what}, {time.monotonic() - started:.1f} s", flush=True)
    return result


def run(command: list, folder: Path) -> str:
    """Run in `folder`; what it printed, or the end of the script."""
    done = subprocess.run(command, cwd=folder, env=strangers(), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"smoke: {' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def strangers() -> dict[str, str]:
    """The environment variables of somebody who has no checkout and no settings of EchoX."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "ECHOX_"))}


def build(work: Path) -> Path:
    """A wheel from copies of what it is made of."""
    sources = work / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    shutil.copytree(ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", work / "dist", sources], work)
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def make_environment(folder: Path) -> Path:
    """An environment with pip and nothing else; its interpreter."""
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def install(python: Path, wheel: str, folder: Path) -> None:
    """Resolve what the wheel itself says that it needs, at the pinned versions."""
    pins = ROOT / "constraints.txt"
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "--no-compile", "--constraint", pins, torch_pin(), wheel], folder)
    run([*pip, "check"], folder)


def torch_pin() -> str:
    """The line of constraints.txt: named in the command, the build that is installed already stays."""
    (pin,) = re.findall(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    return pin


def ask_demo(python: Path, folder: Path) -> str:
    """What `echox demo` printed, after a look at the sound it wrote."""
    printed = run([python.parent / "echox", "demo", "--output", "reply.wav"], folder)
    with wave.open(str(folder / "reply.wav")) as reply:
        seconds = reply.getnframes() / reply.getframerate()
    if "reply     " not in printed or not 0.5 < seconds < 30:
        sys.exit(f"smoke: expected a reply and 0.5 to 30 s of sound, found {seconds:.1f} s and\n{printed}")
    return printed


def ask_server(python: Path, folder: Path) -> str:
    """The server's answer to a typed question."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "serve.log"
    command = [python.parent / "echox", "serve", "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=folder, env=strangers(), stdout=output, stderr=output)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        body = {"model": "nano", "messages": [{"role": "user", "content": QUESTION}]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)["choices"][0]["message"]["content"]
    finally:
        server.terminate()
        server.wait(timeout=60)
    if answer != ANSWER:
        sys.exit(f"smoke: expected {ANSWER!r}, found {answer!r}\n{log.read_text()}")
    return f"asked     {QUESTION}\nreply     {answer}\n"


def wait_for(url: str, server: subprocess.Popen, log: Path, patience_s: float = 120) -> None:
    """Return when `url` answers; end the script if the server ends first, or never answers."""
    deadline_s = time.monotonic() + patience_s
    while server.poll() is None and time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    sys.exit(f"smoke: expected an answer from {url}, found none in {patience_s:.0f} s\n{log.read_text()}")


if __name__ == "__main__":
    main()
