"""A hub id without network, mistyped or offline: every command names the network or the id, never a kind of model."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from echox.audio import save_audio
from tiny_echox import tone

NAME = "nobody/nothing"
COMMANDS = {
    "convert": ["convert", NAME, "out"],
    "convert, audio tower": ["convert", "official", "out", "--audio-tower", NAME],
    "convert, peft": ["convert", "official", "out", "--peft", NAME],
    "reply": ["reply", "--text", "Hello.", "--model", NAME],
    "talk": ["talk", "question.wav", "--model", NAME],
    "demo": ["demo", "--model", NAME],
    "doctor": ["doctor", "--model", NAME],
    "serve": ["serve", "--port", "0", "--model", NAME],
    "eval run": ["eval", "run", "--model", NAME],
    "eval run, judge": ["eval", "run", "--judge", NAME, "--limit", "1"],
    "eval latency": ["eval", "latency", "--model", NAME],
}
NETWORKS = {
    "offline": {"HF_HUB_OFFLINE": "1"},
    "dead endpoint": {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"},
    "not found": {"HF_HUB_OFFLINE": "0"},
}
KINDS_OF_MODELS = ("needs no conversion", "another model", "found no config.json", "unexpected")


class NotFound(BaseHTTPRequestHandler):
    """A hub without repositories."""

    def do_GET(self):
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the commands name: a question, and the beginnings of an official release, up to its LoRA."""
    folder = tmp_path_factory.mktemp("files")
    save_audio(folder / "question.wav", tone(0.5), 16000)
    words = Tokenizer(WordLevel({"<audio_patch>": 0, "</s>": 1, "?": 2}, unk_token="?"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder / "official")
    config = {"model_type": "EchoX", "audio_tower": str(folder / "official" / "whisper")}
    (folder / "official" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "official" / "whisper").mkdir()
    (folder / "official" / "whisper" / "config.json").write_text("{}", encoding="utf-8")
    save_file({"weight": torch.zeros(1)}, folder / "official" / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=NETWORKS)
def said(request, hub, files, tmp_path_factory):
    """Exit status and last line of stderr of every command."""
    network = {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path_factory.mktemp("cache"))} | NETWORKS[request.param]
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("hub_commands.py"), json.dumps(list(COMMANDS.values()))],
        cwd=files,
        env=os.environ | network,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return network["HF_HUB_OFFLINE"] == "1", dict(zip(COMMANDS, lines, strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_network_or_the_id_is_named_and_no_kind_of_model(command, said):
    offline, lines = said
    status, line = lines[command]
    assert status == 1
    assert line.startswith("error: ")
    assert NAME in line or "couldn't connect to" in line
    assert not [words for words in KINDS_OF_MODELS if words in line]
    if offline and command.startswith("convert"):
        assert "HF_HUB_OFFLINE is set" in line
