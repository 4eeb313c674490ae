"""Starting a server: wrong options are reported before the model is loaded."""

import contextlib
import re
import signal
import socket
import urllib.request
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

import forked
from echox import EchoX
from echox.api.precision import DTYPES, QUANTIZATIONS, named_precision
from echox.cli.main import app
from echox.serving.access.ports import bind
from echox.serving.launch import ServerOptions, run_local
from waiting import wait_until


@pytest.fixture
def taken():
    """A port that another program listens at."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model is a failure of the test."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(EchoX, "from_pretrained", load)


@pytest.mark.parametrize("command", ["serve", "ui"])
def test_a_port_in_use_is_reported_before_the_model_is_loaded(command, taken, no_model, monkeypatch):
    monkeypatch.delenv("ECHOX_API_KEY", raising=False)
    found = CliRunner().invoke(app, [command, "--port", str(taken)])
    assert found.exit_code == 1
    assert re.search(
        rf"port {taken} of .*: expected a free port, found: .*choose another one with --port", found.output
    )
    assert "a model was loaded" not in found.output


def test_a_host_name_of_another_machine_is_refused(no_model):
    with pytest.raises(ValueError, match="expected a name or address of this machine"):
        bind("no-such-name.invalid", 8000)


def test_a_reserved_port_is_closed_until_the_server_listens():
    listeners = bind("127.0.0.1", 0)
    port = listeners[0].getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    listeners[0].listen()
    with pytest.raises(ValueError, match="expected a free port"):
        bind("127.0.0.1", port)
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("command", ["reply", "talk", "serve", "ui"])
@pytest.mark.parametrize(("option", "known"), [("--dtype", DTYPES), ("--quantization", QUANTIZATIONS)])
def test_an_unknown_precision_is_refused_with_the_known_ones(command, option, known, monkeypatch, no_model, tmp_path):
    monkeypatch.delenv("ECHOX_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    question = {"reply": ["--text", "Hello."], "talk": ["question.wav"], "serve": ["--port", "0"], "ui": []}[command]
    found = CliRunner().invoke(app, [command, *question, option, "int3"])
    assert found.exit_code == 1
    assert f"expected one of {', '.join(known)}, found 'int3'" in " ".join(found.output.split())


def test_precisions_by_name():
    assert named_precision(None, None) == {}
    assert named_precision("bfloat16", None) == {"dtype": torch.bfloat16}
    four = named_precision("float16", "nf4")["quantization_config"]
    assert (four.load_in_4bit, four.bnb_4bit_quant_type, four.bnb_4bit_compute_dtype) == (True, "nf4", torch.float16)
    assert named_precision(None, "int8")["quantization_config"].load_in_8bit
    with pytest.raises(ValueError, match="leave one out"):
        named_precision("int8", "nf4")


def test_the_precision_reaches_the_model():
    service = ServerOptions(device="cpu", dtype="bfloat16").service()
    assert {weight.dtype for weight in service.model.model.s2t.parameters()} == {torch.bfloat16}


def test_the_printed_address_can_be_connected_to_at_once(monkeypatch, capsys):
    class AtOnce:
        """A server that has not started yet when a client has read the address."""

        def run(self, sockets):
            port = re.search(r"http://127.0.0.1:(\d+)", capsys.readouterr().out)[1]
            with socket.create_connection(("127.0.0.1", int(port)), timeout=5):
                pass

    service = SimpleNamespace(name="nano", vad_name="silero")
    monkeypatch.setattr(ServerOptions, "service", lambda options: service)
    monkeypatch.setattr("echox.serving.launch.create_app", lambda *_: None)
    monkeypatch.setattr("echox.serving.launch.make_server", lambda *_: AtOnce())
    run_local(ServerOptions("nano", "nano"), "127.0.0.1", 0)


def test_the_command_prints_its_free_port(tmp_path, monkeypatch):
    monkeypatch.delenv("ECHOX_API_KEY", raising=False)
    printed = tmp_path / "printed"
    command = ["echox", "serve", "--port", "0", "--threads", "1"]
    server = forked.start(command, tmp_path, printed, tmp_path / "log")
    try:
        wait_until(lambda: printed.exists() and "\n" in printed.read_text(), "the server says where it is", 250)
        line = printed.read_text()
        assert "(voice activity: silero)" in line
        address = re.search(r"http://\S+", line)[0]
        assert _status(f"{address}/ready") == 200
    finally:
        server.terminate()
        server.join(60)
        assert server.exitcode in (0, -signal.SIGTERM)


def _status(url):
    found = []

    def answers():
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=10) as answer:
            found.append(answer.status)
        return bool(found)

    wait_until(answers, f"{url} answers", 120)
    return found[-1]
