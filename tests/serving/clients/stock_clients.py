"""Stock clients in environments of their own, as their requirements are not ours: made once, and run as processes.

ECHOX_NEWEST_CLIENTS leaves the versions out, so that the newest ones are run (weekly CI).
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT, TESTS

AGENTS_VERSION = "0.20.0"
NEWEST = bool(os.environ.get("ECHOX_NEWEST_CLIENTS"))


def client_python(name: str, requirement: str) -> str:
    """The Python of an environment with a client; it is made if there is none, and skips where it cannot be had.

    Args:
        name: of the environment (.venv-NAME), and of the variable that names a Python which has it already
            (NAME_PYTHON).
        requirement: what pip installs, with its version.
    """
    if os.environ.get(f"{name.upper()}_PYTHON"):
        return os.environ[f"{name.upper()}_PYTHON"]
    if sys.version_info < (3, 11):
        pytest.skip(f"{name} needs Python 3.11")
    if NEWEST:
        requirement = requirement.partition("==")[0]
    folder = ROOT / f".venv-{name}"
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.is_file() and stamp.read_text() == requirement:
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", requirement]
    made = subprocess.run(install, capture_output=True, text=True, timeout=900)
    if made.returncode:
        pytest.skip(f"{requirement} could not be installed: {made.stderr.strip().splitlines()[-1][:200]}")
    stamp.write_text(requirement)
    return str(python)


def run_client(command: list[str], timeout_s: float = 400) -> str:
    """What a client prints; it must end well, without our PYTHONPATH."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, env=environment)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout


def agents_home() -> Path:
    """Where @openai/agents (npm) is installed: ECHOX_AGENTS_JS, or a folder in the temporary files."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm")
    version = "latest" if NEWEST else AGENTS_VERSION
    home = Path(os.environ.get("ECHOX_AGENTS_JS", f"/tmp/echox-agents-js-{version}"))
    if not (home / "node_modules/@openai/agents").is_dir():
        home.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", f"@openai/agents@{version}", "zod"]
        found = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)
        if found.returncode:
            pytest.skip(f"npm could not install @openai/agents: {found.stderr.strip().splitlines()[-1:]}")
    return home


def run_node(script: str, *arguments: object, timeout_s: float = 240) -> dict:
    """What a script of tests/js tells in its last line; it must end well."""
    environment = {**os.environ, "AGENTS_HOME": str(agents_home())}
    command = ["node", str(TESTS / "js" / script), *map(str, arguments)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout.splitlines()[-1])
