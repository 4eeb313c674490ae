"""Every file in examples/ is run as a reader would run it, and what it prints is looked at."""

import base64
import contextlib
import io
import json
import re
import runpy
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import forked
from echox import AudioChunk, EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio, save_audio
from markdown_commands import ROOT
from serving_help import nano, running

EXAMPLES = ROOT / "examples"
SHORT = 60  # lines: what is read at a glance


def run(name, *arguments, folder):
    """What the script printed; it must end well, in a folder of its own."""
    done = forked.run([EXAMPLES / name, *arguments], folder)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def question():
    (cow,) = [path for path in bundled_questions() if "cow" in path.name]
    return cow


@pytest.mark.slow
def test_ask(question, tmp_path):
    printed = run("ask.py", question, folder=tmp_path).decode()
    assert "heard  Do you know the sound of a cow?" in printed
    assert "reply  A cow says moo." in printed
    assert len(load_audio(tmp_path / "answer.wav", 16000)) > 8000


@pytest.mark.slow
def test_ask_without_a_recording(tmp_path):
    assert "reply  The capital of France is Paris." in run("ask.py", folder=tmp_path).decode()


def test_stream_to_player(question, tmp_path):
    sound = np.frombuffer(run("stream_to_player.py", question, folder=tmp_path), "<i2") / 32767
    expected = nano().generate(question).waveform
    assert len(sound) == len(expected)
    assert np.abs(sound - expected).max() < 1e-3


@pytest.mark.slow
def test_realtime_client(question, tmp_path):
    pytest.importorskip("openai")
    with running(nano()) as server:
        printed = run("realtime_client.py", question, f"{server.url}/v1", folder=tmp_path).decode()
    assert "heard  Do you know the sound of a cow?" in printed
    assert "reply  A cow says moo." in printed
    assert len(load_audio(tmp_path / "answer.wav", 16000)) > 8000


class LoudModel:
    """Replies with one waveform, whatever it is asked."""

    def __init__(self, waveform):
        self.waveform = waveform

    @contextlib.contextmanager
    def stream(self, _):
        yield iter([AudioChunk(self.waveform, 16000, "", 0.0)])


class DeafServer:
    """Of the openai library, what the example uses; it keeps the sound that is sent and answers with a silence."""

    def __init__(self):
        self.sent = b""
        self.realtime = self.session = self.input_audio_buffer = self

    def connect(self, model):
        return self

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def update(self, session):
        pass

    async def append(self, audio):
        self.sent += base64.b64decode(audio)

    async def __aiter__(self):
        yield SimpleNamespace(type="response.output_audio.delta", delta=base64.b64encode(bytes(200)).decode())
        yield SimpleNamespace(type="response.done")


def loud(name, tmp_path, monkeypatch, waveform):
    """What an example makes of a waveform at full scale, as 16-bit numbers, and what it should be, as floats."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "loud.wav"])
    save_audio("loud.wav", waveform, 16000)
    if name == "stream_to_player.py":
        played = io.TextIOWrapper(io.BytesIO())
        monkeypatch.setattr(EchoX, "from_pretrained", lambda *_: LoudModel(waveform))
        monkeypatch.setattr(sys, "stdout", played)
        runpy.run_path(str(EXAMPLES / name))
        return np.frombuffer(played.buffer.getvalue(), "<i2"), waveform
    server = DeafServer()
    monkeypatch.setitem(sys.modules, "openai", SimpleNamespace(AsyncOpenAI=lambda **_: server))
    runpy.run_path(str(EXAMPLES / name))
    sent = np.frombuffer(server.sent, "<i2")
    expected = load_audio("loud.wav", 24000)
    return sent[: len(expected)], expected


@pytest.mark.parametrize("name", ["stream_to_player.py", "realtime_client.py"])
@pytest.mark.parametrize("peak", [1.0, 1.6])
def test_loud_sound_is_clipped_and_does_not_wrap(name, peak, tmp_path, monkeypatch):
    square = peak * np.sign(np.sin(2 * np.pi * 200 * np.arange(4800) / 16000 + 0.1))  # resampled, it overshoots
    made, expected = loud(name, tmp_path, monkeypatch, square.astype(np.float32))
    assert np.abs(made / 32767 - np.clip(expected, -1, 1)).max() < 1e-3
    assert np.abs(made).max() >= 32766


@pytest.mark.parametrize("name", ["ask.py", "realtime_client.py"])
@pytest.mark.parametrize("spelling", ["answer.wav", "folder/../answer.wav", "link.wav"])
def test_an_answer_is_not_written_over_its_question(name, spelling, question, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.wav").symlink_to("answer.wav")
    (tmp_path / "answer.wav").write_bytes(question.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, spelling])
    monkeypatch.setitem(sys.modules, "openai", SimpleNamespace())
    with pytest.raises(SystemExit, match=r"answer\.wav: expected another question"):
        runpy.run_path(str(EXAMPLES / name))
    assert (tmp_path / "answer.wav").read_bytes() == question.read_bytes()


@pytest.mark.slow
def test_train_stage(tmp_path):
    printed = run("train_stage.py", folder=tmp_path).decode()
    assert "exact replies to questions that were not trained: 100%" in printed
    assert "When do you open?  We open at nine in the morning." in printed


@pytest.mark.slow
def test_train_stage_on_a_file_of_the_reader(tmp_path):
    rows = [{"question": f"Question {number}?", "answer": "Yes."} for number in range(4)]
    rows.append({"question": "Question 5?", "answer": "Yes.", "split": "heldout"})
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = ["training.steps=2", "training.warmup_steps=1"]
    assert "Question 0?" in run("train_stage.py", "my.jsonl", *steps, folder=tmp_path).decode()


@pytest.mark.slow
def test_score(tmp_path):
    printed = run("score.py", folder=tmp_path).decode()
    assert "right as written  86% of 7" in printed, "nano knows six of seven; it cannot know the weather"
    assert "right as heard    71% of 7" in printed, "the judge hears one reply otherwise"
    assert len((tmp_path / "out/example/score/qa/items.jsonl").read_text().splitlines()) == 7


def test_the_notebook(tmp_path, monkeypatch):
    """Its cells in the interpreter of a notebook, without a kernel; what they print and show is looked at."""
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = json.loads((EXAMPLES / "first_conversation.ipynb").read_text(encoding="utf-8"))
    shell = InteractiveShell()
    printed, shown = "", []
    for cell in (cell for cell in notebook["cells"] if cell["cell_type"] == "code"):
        with capture_output() as output:
            result = shell.run_cell("".join(cell["source"]))
        result.raise_error()
        printed, shown = printed + output.stdout, [*shown, result.result]
    assert "Its capital is Brasilia." in printed
    printed = re.sub(r" \[\d\.\d s of sound\]", "", printed)
    assert "The capital of France is Paris." in printed
    assert "The capital of Spain is Madrid." in printed
    assert any(type(one).__name__ == "Audio" for one in shown)


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_examples_are_short_named_in_their_table_and_without_results(path):
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        assert len(text.splitlines()) <= SHORT
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
        assert sum(len(cell["source"]) for cell in cells) <= SHORT
    if path.name != "README.md":
        assert f"[{path.name}]({path.name})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
