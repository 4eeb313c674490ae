"""Audio formats of the protocols: G.711 against the reference, resampling with state, base64."""

import base64
import contextlib
import importlib.util
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echox.audio import resample
from echox.serving.protocol.wire import AudioFormat, WireReader, WireWriter, decode_base64
from tolerance import assert_equal_up_to_rounding

FORMATS = [
    AudioFormat("audio/pcm", 24000),
    AudioFormat("audio/pcm", 16000),
    AudioFormat("audio/pcmu", 8000),
    AudioFormat("audio/pcma", 8000),
]


def tone(rate, duration_s=0.5):
    times_s = np.arange(int(rate * duration_s)) / rate
    return (0.5 * np.sin(2 * np.pi * 440 * times_s)).astype(np.float32)


@pytest.mark.skipif(importlib.util.find_spec("audioop") is None, reason="audioop left Python 3.13")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("kind", "name"), [("audio/pcmu", "ulaw"), ("audio/pcma", "alaw")])
def test_g711_is_the_reference(kind, name):
    import audioop

    fmt = AudioFormat(kind, 8000)
    codes = bytes(range(256))
    decoded = np.frombuffer(getattr(audioop, f"{name}2lin")(codes, 2), "<i2")
    np.testing.assert_array_equal(np.rint(fmt.decode(codes) * 32768).astype(int), decoded)
    pcm = np.arange(-32768, 32768, 4, dtype="<i2")  # audioop drops the two low bits before it looks
    ours = np.frombuffer(fmt.encode(pcm / 32768), np.uint8)
    theirs = np.frombuffer(getattr(audioop, f"lin2{name}")(pcm.tobytes(), 2), np.uint8)
    assert (ours != theirs).mean() < 0.001
    back = fmt.decode(ours.tobytes()) * 32768
    reference = np.frombuffer(getattr(audioop, f"{name}2lin")(theirs.tobytes(), 2), "<i2")
    assert np.abs(back - pcm).max() <= np.abs(reference - pcm.astype(int)).max()


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_encode_then_decode(fmt):
    wave = tone(fmt.rate)
    back = fmt.decode(fmt.encode(wave))
    assert len(back) == len(wave)
    signal_to_noise_db = 10 * np.log10(np.mean(wave**2) / np.mean((back - wave) ** 2))
    assert signal_to_noise_db > (80 if fmt.type == "audio/pcm" else 35)
    if fmt.type != "audio/pcm":  # every code is its own best answer
        codes = bytes(range(256))
        again = fmt.decode(fmt.encode(fmt.decode(codes)))
        np.testing.assert_array_equal(again, fmt.decode(codes))


def test_loud_samples_are_clipped():
    for fmt in FORMATS:
        loud = fmt.decode(fmt.encode(np.array([2.0, -2.0], np.float32)))
        assert loud[0] > 0.95
        assert loud[1] < -0.95


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=8), st.sampled_from(FORMATS))
def test_any_split_gives_the_same_audio(cuts, fmt):
    data = fmt.encode(tone(fmt.rate))
    reader, parts, place = WireReader(fmt, 16000), [], 0
    for cut in [*cuts, len(data)]:
        parts.append(reader.read(data[place : place + cut]))
        place += cut
    parts.append(reader.read(data[place:]))
    joined = np.concatenate([*parts, reader.flush()])
    assert_equal_up_to_rounding(joined, resample(fmt.decode(data), fmt.rate, 16000))


def test_half_a_sample_is_kept_for_the_next_bytes():
    reader = WireReader(AudioFormat("audio/pcm", 16000), 16000)
    assert len(reader.read(b"\x01")) == 0
    assert reader.read(b"\x00\x02") == pytest.approx([1 / 32768])
    reader.reset()
    assert reader.read(b"\x05\x00") == pytest.approx([5 / 32768])


@pytest.mark.parametrize("fmt", FORMATS, ids=str)
def test_writing_in_chunks_equals_writing_at_once(fmt):
    wave = tone(16000)
    writer = WireWriter(16000, fmt)
    chunks = [writer.write(wave[start : start + 1234]) for start in range(0, len(wave), 1234)]
    data = b"".join([*chunks, writer.write(np.zeros(0, np.float32), last=True)])
    assert data == fmt.encode(resample(wave, 16000, fmt.rate))


@pytest.mark.parametrize(
    "value",
    [
        {"type": "audio/opus"},
        {"type": "audio/pcm", "rate": 44100},
        {"type": "audio/pcmu", "rate": 16000},
        {},
        7,
        None,
        "mp3",
        {"type": "audio/pcm", "rate": True},
        {"type": ["audio/pcm"]},
    ],
)
def test_unknown_formats_are_refused(value):
    if value == {}:
        assert AudioFormat.read(value) == AudioFormat()
        return
    with pytest.raises(ValueError, match="expected"):
        AudioFormat.read(value)


def test_older_names():
    assert AudioFormat.read("pcm16") == AudioFormat()
    assert AudioFormat.read("g711_ulaw") == AudioFormat("audio/pcmu", 8000)
    assert AudioFormat.read({"type": "audio/pcm"}).rate == 24000


@pytest.mark.parametrize("wrap", ["lines", "url", "url without padding", "data", "data escaped", "everything"])
def test_base64_in_all_its_forms(wrap):
    data = bytes(range(256)) * 3 + b"x"
    plain, safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    forms = {
        "lines": "\r\n".join(plain[start : start + 76] for start in range(0, len(plain), 76)) + "\n",
        "url": safe,
        "url without padding": safe.rstrip("="),
        "data": f"data:audio/wav;base64,{plain}",
        "data escaped": "data:;base64," + plain.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        "everything": f"DATA:audio/wav;codecs=1;BASE64,{safe[:100]}\n{safe[100:]}",
    }
    assert decode_base64(forms[wrap]) == data


NO_BASE64 = [
    "a",
    "ab",
    "????",
    "aGk",
    "data:,aGk=",
    "data:audio/wav,aGk=",
    "a=b=",
    "_=a=",
    7,
    None,
    "é",
    "é-",
    "data:;base64,%41%42%43%44",
]


@pytest.mark.parametrize("text", NO_BASE64)
def test_base64_is_strict(text):
    with pytest.raises(ValueError, match="expected base64"):
        decode_base64(text)


@pytest.mark.parametrize("piece", ["A", "AA ", "A\n", "%2B", "%41", "-", "="])
@pytest.mark.parametrize("head", ["", "data:;base64,"])
def test_reading_base64_takes_a_few_times_its_size(head, piece):
    """An object for each escape or line would make gigabytes of one upload."""
    text = head + piece * (2**21 // len(piece))
    tracemalloc.start()
    try:
        with contextlib.suppress(ValueError):
            decode_base64(text)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 5 * len(text)
