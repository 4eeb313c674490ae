"""Runs commands without waiting between retries: a JSON list of their arguments in, a JSON line for each out."""

import json
import sys
import time

from typer.testing import CliRunner

from echox.cli.main import app

time.sleep = lambda _: None  # what huggingface_hub does between its attempts
for arguments in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, arguments)
    print(json.dumps([result.exit_code, result.stderr.strip().splitlines()[-1]]), flush=True)
