"""``echox talk`` through a microphone: any device, none, or one that fails, in a fake of sounddevice."""

import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from echox.audio import load_audio
from echox.cli.main import app
from tiny_echox import tiny_echox, tone


class PortAudioError(Exception):
    """As in sounddevice: an exception of its own kind."""


class FakeSounddevice:
    """Devices that take one sampling rate only; what is named in ``broken`` raises.

    Args:
        rate: of both devices, Hz.
        broken: of "query_devices(input)", "query_devices(output)", "check_input_settings", "InputStream", "start",
            "play".
        turns: what is said, at that rate; the last one again and again.
    """

    PortAudioError = PortAudioError

    def __init__(self, rate=16000, broken=(), turns=None):
        self.rate, self.broken = rate, broken
        self.turns = [tone(1.0, sampling_rate=rate)] if turns is None else turns
        self.played = []
        outer = self

        class InputStream:
            def __init__(self, samplerate, channels, dtype, callback):
                outer.use("InputStream", samplerate)
                turn = outer.turns.pop(0) if len(outer.turns) > 1 else outer.turns[0]
                callback(turn[:, None])

            def __enter__(self):
                outer.use("start")
                return self

            def __exit__(self, *_):
                pass

        self.InputStream = InputStream

    def use(self, name, rate=None):
        if name in self.broken:
            raise PortAudioError(f"{name}: Error querying device -1 [PaErrorCode -9996]")
        if rate is not None and rate != self.rate:
            raise PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    def query_devices(self, device=None, kind=None):
        self.use(f"query_devices({kind})")
        return {"name": "fake", "default_samplerate": float(self.rate)}

    def check_input_settings(self, device=None, channels=None, dtype=None, extra_settings=None, samplerate=None):
        self.use("check_input_settings", samplerate)

    def play(self, waveform, samplerate, blocking):
        self.use("play", samplerate)
        self.played.append(waveform)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_echox().save_pretrained(folder)
    return folder


@pytest.fixture
def talk(folder, tmp_path, monkeypatch):
    def talk(devices, keys="\n\nq\n"):
        monkeypatch.setitem(sys.modules, "sounddevice", devices)
        return CliRunner().invoke(app, ["talk", "-o", str(tmp_path), "--model", str(folder)], input=keys)

    return talk


@pytest.mark.parametrize("rate", [16000, 48000, 44100, 8000])
def test_devices_are_used_at_their_own_rate(talk, rate, tmp_path):
    devices = FakeSounddevice(rate)
    result = talk(devices)
    assert result.exit_code == 0, result.output
    assert "warning" not in result.stderr
    (played,) = devices.played
    assert len(played) / rate == pytest.approx(len(load_audio(tmp_path / "reply-1.wav")) / 16000, abs=1e-3)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_the_model_is_told_the_rate(talk, rate, monkeypatch):
    asked = []

    def answer(session, question, output, **given):
        asked.append(len(question) / given["sampling_rate"])
        raise ValueError("nothing is answered here")

    monkeypatch.setattr("echox.cli.main._answer", answer)
    talk(FakeSounddevice(rate))
    assert asked == [pytest.approx(1.0)]


@pytest.mark.parametrize("broken", ["query_devices(input)", "check_input_settings"])
def test_without_a_microphone_no_model_is_loaded(talk, broken, monkeypatch):
    monkeypatch.setattr("echox.cli.main.load_model", lambda *_: pytest.fail("the model was loaded first"))
    result = talk(FakeSounddevice(broken=[broken]))
    assert result.exit_code == 1
    assert "error: expected a microphone, found none that works" in result.stderr
    assert "python -m sounddevice" in result.stderr


@pytest.mark.parametrize("broken", ["InputStream", "start"])
def test_a_microphone_that_goes_away_says_so(talk, broken):
    result = talk(FakeSounddevice(broken=[broken]))
    assert result.exit_code == 1
    assert "error: expected to record from the microphone at 16000 Hz, found that it fails" in result.stderr
    assert "unexpected" not in result.stderr


@pytest.mark.parametrize("broken", ["query_devices(output)", "play"])
def test_without_speakers_the_conversation_goes_on(talk, broken, tmp_path):
    result = talk(FakeSounddevice(broken=[broken]), "\n\n\n\nq\n")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("warning: not played, expected speakers, found none that work") == 2
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == ["reply-1.wav", "reply-2.wav"]


@pytest.mark.parametrize(
    "keys", ["", "\n", "\n\n", "\n\n\n"], ids=["at once", "speaking", "answered", "speaking again"]
)
def test_ctrl_d_ends_the_conversation(talk, keys):
    devices = FakeSounddevice()
    result = talk(devices, keys)
    assert result.exit_code == 0, result.output
    assert "error" not in result.stderr
    assert len(devices.played) == keys.count("\n") // 2


def test_a_silent_turn_does_not_end_the_conversation(talk, tmp_path):
    devices = FakeSounddevice(turns=[np.zeros(16000, np.float32), tone(1.0)])
    result = talk(devices, "\n\n\n\nq\n")
    assert result.exit_code == 0, result.output
    assert "warning: audio samples: no speech found" in result.stderr
    assert len(devices.played) == 1
    assert [path.name for path in tmp_path.glob("*.wav")] == ["reply-2.wav"]


@pytest.mark.parametrize("error", ["ImportError", "OSError", "type('PortAudioError', (Exception,), {})"])
def test_without_files_or_a_library_that_starts_it_says_so(folder, tmp_path, monkeypatch, error):
    (tmp_path / "sounddevice.py").write_text(f"raise {error}('PortAudio is not here')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    result = CliRunner().invoke(app, ["talk", "--model", str(folder)])
    assert result.exit_code == 1
    assert "expected audio files or a microphone, found neither (PortAudio is not here)" in result.stderr
