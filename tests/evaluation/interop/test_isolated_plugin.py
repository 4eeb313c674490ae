"""EchoX as an isolated model of UltraEval-Audio: their decorator is stood in for, the worker is the real one."""

import contextlib
import importlib
import inspect
import io
import json
import sys
import types

import pytest
import yaml

from echox.evaluation.interop.plugins import ultraeval_registry
from echox.evaluation.interop.plugins.isolated.worker import serve
from echox.evaluation.sets.heldout import embedded_heldout
from echox.evaluation.sets.nano import nano_items

AUDIO_EVALS = {
    "isolate": """
import functools, subprocess

def isolated(script_path, command_args_attr="command_args", pre_command=""):
    def decorate(cls):
        first = cls.__init__

        @functools.wraps(first)
        def started(self, env_path, requirements_path, *args, gpu_id=None, **kwargs):
            first(self, *args, **kwargs)
            words = []
            for name, value in getattr(self, command_args_attr).items():
                words += [f"--{name}"] if value == "" else [f"--{name}", str(value)]
            pipe = subprocess.PIPE
            command = [env_path, "-u", script_path, *words]
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

        cls.__init__ = started
        return cls

    return decorate
""",
    "models.model": """
class OfflineModel:
    def __init__(self, is_chat, sample_params=None):
        self.is_chat, self.sample_params = is_chat, sample_params or {}

    def inference(self, prompt, **kwargs):
        return self._inference(prompt, **{**self.sample_params, **kwargs})
""",
    "process.base": """
class Process:
    pass
""",
}
"""What our classes use of their package, in the form of its version 1.1."""
OURS = ("echox.evaluation.interop.plugins.ultraeval", "echox.evaluation.interop.plugins.isolated.ultraeval")


@pytest.fixture
def audio_evals(monkeypatch):
    """A stand-in of their package, and our modules that import it; both are gone afterwards."""
    for name in OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in ("audio_evals", "audio_evals.models", "audio_evals.process"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    for name, source in AUDIO_EVALS.items():
        module = types.ModuleType(f"audio_evals.{name}")
        exec(source, module.__dict__)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield
    for name in OURS:
        sys.modules.pop(name, None)


@pytest.fixture
def question():
    """Their form of a spoken question that nano was made for."""
    (item,) = nano_items(embedded_heldout(), limit=1)["heldout_seen_voices"]
    return [{"role": "user", "contents": [{"type": "audio", "value": str(item.audios[0])}]}]


def start(**arguments):
    module = importlib.import_module("echox.evaluation.interop.plugins.isolated.ultraeval")
    return module.IsolatedEchoX(env_path=sys.executable, requirements_path="none.txt", **arguments)


def stop(model):
    """End a worker as they do, and close what it was read from."""
    with contextlib.suppress(BrokenPipeError):
        model.process.stdin.close()
    ended = model.process.wait(timeout=60)
    model._reader.join(timeout=60)
    model.process.stdout.close()
    model.process.stderr.close()
    return ended


def test_the_registry_names_arguments_that_the_classes_take(audio_evals):
    seen = set()
    for file in ultraeval_registry().rglob("*.yaml"):
        for name, entry in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            module, _, cls = entry["class"].rpartition(".")
            if module in OURS:
                taken = inspect.signature(getattr(importlib.import_module(module), cls).__init__, follow_wrapped=False)
                whole = inspect.signature(getattr(importlib.import_module(module), cls).__init__)
                assert set(entry["args"]) <= set(taken.parameters) | set(whole.parameters), name
                seen.add(cls)
    assert seen == {"EchoXModel", "EchoXSpeechToText", "IsolatedEchoX"}


def test_it_accepts_a_gpu_so_that_their_pool_is_used(audio_evals):
    module = importlib.import_module("echox.evaluation.interop.plugins.isolated.ultraeval")
    assert "gpu_id" in inspect.signature(module.IsolatedEchoX.__init__, follow_wrapped=False).parameters


def test_an_isolated_echox_answers_fails_and_says_when_it_ended(audio_evals, question, tmp_path):
    model = start(audio_dir=str(tmp_path / "audio"))
    reply = json.loads(model.inference(question))
    assert reply["text"].strip()
    assert (tmp_path / "audio" / "000000.wav").stat().st_size > 1000
    assert reply["audio"].endswith("000000.wav")
    missing = [{"role": "user", "contents": [{"type": "audio", "value": "absent.wav"}]}]
    with pytest.raises(RuntimeError, match=r"absent\.wav"):
        model.inference(missing)
    assert json.loads(model.inference(question))["text"] == reply["text"]  # and goes on
    model.process.terminate()
    model.process.wait(timeout=60)
    with pytest.raises(RuntimeError, match="it has ended"):
        model.inference(question)
    stop(model)


@pytest.mark.slow
def test_a_worker_that_cannot_start_says_why(audio_evals, question):
    model = start(model="no such folder")
    with pytest.raises(RuntimeError, match=r"(?s)it has ended; its last words:.*no such folder"):
        model.inference(question)
    assert stop(model) != 0


@pytest.mark.slow
def test_an_isolated_judge_hears_what_was_said(audio_evals, question, tmp_path):
    model = start(audio_dir=str(tmp_path))
    reply = json.loads(model.inference(question))
    assert stop(model) == 0
    judge = start(judge="embedded")
    asked = {"audio": reply["audio"], "generate_kwargs": {}}  # their prompt of recognisers
    assert set(judge.inference(asked).split()) & set(reply["text"].lower().replace(".", "").split())
    with pytest.raises(RuntimeError, match="no file"):
        judge.inference({"audio": "absent.wav"})
    with pytest.raises(RuntimeError, match="one recording"):
        judge.inference([{"role": "user", "contents": [{"type": "text", "value": "Hi."}]}])
    assert stop(judge) == 0


def test_lines_that_are_no_requests_are_answered_by_their_error():
    replies = io.StringIO()
    serve(lambda request: request["prompt"].upper(), io.StringIO('1->{"prompt": "a"}\n2->not json\n3\n'), replies)
    lines = [line.partition("->") for line in replies.getvalue().splitlines()]
    assert [name for name, _, _ in lines] == ["1", "2", "3"]
    assert json.loads(lines[0][2]) == {"output": "A"}
    assert all("error" in json.loads(text) for _, _, text in lines[1:])
