"""Decoding by content, atomic writing of WAV and FLAC, resampling off-line and streaming."""

import errno
import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from echox.audio import (
    StreamingResampler,
    WavWriter,
    encode_audio,
    load_audio,
    resample,
    save_audio,
)
from tolerance import assert_equal_up_to_rounding

RATE = 16000


def tone(duration_s=0.5, rate=RATE, frequency_hz=440.0, amplitude=0.5):
    time_s = np.arange(int(duration_s * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)


def dominant_hz(waveform, rate=RATE):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return np.argmax(spectrum) * rate / len(waveform)


def write_with_av(path, codec, container, rate=44100, channels="stereo"):
    """Encode half a second of 440 Hz; skip where this FFmpeg has no such encoder."""
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(str(path), "w", format=container) as output:
        try:
            stream = output.add_stream(codec, rate=rate, layout=channels)
        except (av.error.FFmpegError, ValueError) as error:
            pytest.skip(f"this PyAV cannot encode {codec}: {error}")
        samples = tone(rate=rate)
        planes = np.tile(samples, (2 if channels == "stereo" else 1, 1))
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=channels)
        frame.sample_rate = rate
        resampler = av.AudioResampler(
            format=stream.format.name, layout=channels, rate=rate, frame_size=stream.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_16"),
        ("WAV", "PCM_24"),
        ("WAV", "PCM_32"),
        ("WAV", "FLOAT"),
        ("WAV", "DOUBLE"),
        ("WAV", "ULAW"),
        ("FLAC", "PCM_24"),
        ("AIFF", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
@pytest.mark.parametrize(("rate", "channels"), [(RATE, 1), (48000, 2)])
def test_formats_rates_and_channels(tmp_path, format, subtype, rate, channels):
    if not soundfile.check_format(format, subtype):
        pytest.skip(f"this libsndfile has no {format}/{subtype}")
    path = tmp_path / "tone.bin"
    soundfile.write(path, np.tile(tone(rate=rate)[:, None], channels), rate, format=format, subtype=subtype)
    waveform = load_audio(path)
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert len(waveform) == pytest.approx(RATE / 2, rel=0.15)  # lossy codecs pad their ends
    assert dominant_hz(waveform) == pytest.approx(440, abs=4)
    assert waveform[1000:7000].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.05)  # the mean of the channels


@pytest.mark.parametrize(
    ("codec", "container", "channels"),
    [
        ("aac", "mp4", "stereo"),
        ("aac", "adts", "mono"),
        ("libopus", "webm", "stereo"),
        ("libvorbis", "matroska", "stereo"),
        ("libmp3lame", "mp3", "stereo"),
        ("pcm_s16le", "mov", "stereo"),
    ],
)
def test_what_only_ffmpeg_reads(tmp_path, codec, container, channels):
    path = tmp_path / "tone.wav"  # the suffix lies
    write_with_av(path, codec, container, rate=48000, channels=channels)
    waveform = load_audio(path)
    assert len(waveform) == pytest.approx(RATE / 2, rel=0.2)
    assert dominant_hz(waveform) == pytest.approx(440, abs=4)
    assert waveform[1000:7000].std() == pytest.approx(0.5 / np.sqrt(2), rel=0.05)  # the mean of the channels


@pytest.mark.parametrize("name", ["tone.mp3", "tone.raw", "tone.txt", "tone"])
def test_suffix_is_never_trusted(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(encode_audio(tone(), RATE))
    assert len(load_audio(path)) == RATE // 2


def test_paths_bytes_and_file_objects_agree(tmp_path):
    path = tmp_path / "tone.wav"
    save_audio(path, tone(), RATE)
    expected = load_audio(path)
    content = path.read_bytes()
    np.testing.assert_array_equal(load_audio(str(path)), expected)
    np.testing.assert_array_equal(load_audio(content), expected)
    np.testing.assert_array_equal(load_audio(io.BytesIO(content)), expected)
    with path.open("rb") as file:
        np.testing.assert_array_equal(load_audio(file), expected)


def test_stereo_is_averaged(tmp_path):
    left, right = tone(), tone(frequency_hz=880)
    soundfile.write(tmp_path / "two.wav", np.stack([left, right], axis=1), RATE, subtype="FLOAT")
    assert_equal_up_to_rounding(load_audio(tmp_path / "two.wav"), (left + right) / 2)


def bad_sources(folder: Path):
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is not audio. " * 50)
    (folder / "zeros.mp3").write_bytes(bytes(4096))
    (folder / "header.wav").write_bytes(encode_audio(tone(), RATE)[:20])
    (folder / "nothing.wav").write_bytes(encode_audio(np.zeros(0, np.float32), RATE))
    broken = tone()
    broken[4000] = np.nan
    soundfile.write(folder / "nan.wav", broken, RATE, subtype="FLOAT")
    return {
        folder / "absent.wav": "found nothing; check the path",
        folder: "found a folder",
        folder / "empty.wav": "empty file",
        folder / "text.wav": "expected audio",
        folder / "zeros.mp3": "expected audio",
        folder / "header.wav": "expected audio",
        folder / "nothing.wav": "0 samples",
        folder / "nan.wav": "expected finite samples, found nan at 0.250 s",
    }


def test_bad_sources_are_refused_in_one_clear_line(tmp_path):
    for path, words in bad_sources(tmp_path).items():
        with pytest.raises(ValueError, match=words) as caught:
            load_audio(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "empty"),
        (b"no", "expected audio"),
        (io.StringIO("x"), "mode 'rb'"),
        (7, "found int"),
        ("/dev/zero", "device"),
    ],
)
def test_bad_bytes_and_objects(source, words):
    with pytest.raises(ValueError, match=words):
        load_audio(source)


@settings(max_examples=40, deadline=None)
@given(st.binary(min_size=1, max_size=300))
def test_random_bytes_never_raise_anything_but_value_error(content):
    try:
        load_audio(content)
    except ValueError as error:
        assert "expected" in str(error)


def test_duration_limit_counts_decoded_samples_and_never_cuts(tmp_path):
    save_audio(tmp_path / "second.wav", tone(1.0), RATE)
    assert len(load_audio(tmp_path / "second.wav", max_duration_s=1.0)) == RATE
    with pytest.raises(ValueError, match=r"at most 0\.9 s"):
        load_audio(tmp_path / "second.wav", max_duration_s=0.9)
    write_with_av(tmp_path / "half.m4a", "aac", "mp4")
    with pytest.raises(ValueError, match=r"at most 0\.1 s"):
        load_audio(tmp_path / "half.m4a", max_duration_s=0.1)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".WAV"])
def test_save_then_load_is_exact_at_16_bits(tmp_path, suffix):
    path = tmp_path / f"tone{suffix}"
    waveform = np.round(tone() * 32768).astype(np.float32) / 32768
    save_audio(path, waveform, RATE)
    np.testing.assert_array_equal(load_audio(path), waveform)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]  # nothing half-made is left


def test_loud_samples_are_clipped_not_wrapped(tmp_path):
    save_audio(tmp_path / "loud.wav", np.array([2.0, -2.0], np.float32), RATE)
    np.testing.assert_allclose(load_audio(tmp_path / "loud.wav"), [32767 / 32768, -1.0])


def test_bad_output_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.wav or \.flac"):
        save_audio(tmp_path / "reply.mp3", tone(), RATE)
    with pytest.raises(ValueError, match="finite"):
        save_audio(tmp_path / "reply.wav", np.array([np.inf], np.float32), RATE)
    with pytest.raises(ValueError, match="mono"):
        save_audio(tmp_path / "reply.wav", np.zeros((2, 2), np.float32), RATE)
    with pytest.raises(ValueError, match="float samples"):
        save_audio(tmp_path / "reply.wav", np.zeros(4, np.int16), RATE)
    with pytest.raises(ValueError, match="sampling rate"):
        save_audio(tmp_path / "reply.wav", tone(), 0)
    with pytest.raises(OSError, match="cannot write"):
        save_audio(tmp_path / "absent" / "reply.wav", tone(), RATE)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_leaves_no_half_written_file(tmp_path, monkeypatch):
    path = tmp_path / "reply.wav"
    save_audio(path, tone(0.1), RATE)
    before = path.read_bytes()

    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"No space left on device; free some space.*reply\.wav"):
        save_audio(path, tone(), RATE)
    writer = WavWriter(path, RATE)
    writer.write(tone())
    with pytest.raises(OSError, match="free some space"):
        writer.close()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_wav_writer_is_playable_after_every_write_and_named_at_the_end(tmp_path):
    path = tmp_path / "reply.wav"
    whole = tone(1.0)
    with WavWriter(path, RATE) as writer:
        for start in range(0, len(whole), 5000):
            writer.write(whole[start : start + 5000])
            assert len(load_audio(writer.part_path)) == writer.samples
            assert not path.exists()
    assert writer.duration_s == 1.0
    assert path.read_bytes() == encode_audio(whole, RATE)
    assert list(tmp_path.iterdir()) == [path]
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(whole)


def test_wav_writer_keeps_the_old_file_when_interrupted(tmp_path):
    path = tmp_path / "reply.wav"
    save_audio(path, tone(0.1), RATE)
    with pytest.raises(KeyboardInterrupt), WavWriter(path, RATE) as writer:
        writer.write(tone())
        raise KeyboardInterrupt
    assert len(load_audio(path)) == RATE // 10
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match=r"ending in \.wav"):
        WavWriter(tmp_path / "reply.flac", RATE)


def test_resample_keeps_length_and_pitch():
    for rate in (8000, 11025, 22050, 44100, 48000):
        waveform = resample(tone(rate=rate), rate, RATE)
        assert len(waveform) == pytest.approx(RATE / 2, abs=1)
        assert dominant_hz(waveform) == pytest.approx(440, abs=3)
    assert resample(np.zeros(0, np.float32), 8000, RATE).shape == (0,)


@pytest.mark.parametrize(("from_rate", "to_rate"), [(44100, 16000), (16000, 48000), (16000, 16000)])
@pytest.mark.parametrize("chunk", [1, 160, 999, 100000])
def test_streaming_resampler_equals_offline(from_rate, to_rate, chunk):
    waveform = tone(0.2, rate=from_rate) + 0.1 * np.random.default_rng(0).standard_normal(from_rate // 5).astype(
        "float32"
    )
    stream = StreamingResampler(from_rate, to_rate)
    parts = [stream.process(waveform[start : start + chunk]) for start in range(0, len(waveform), chunk)]
    parts.append(stream.process(np.zeros(0, np.float32), last=True))
    streamed, offline = np.concatenate(parts), resample(waveform, from_rate, to_rate)
    assert abs(len(streamed) - len(offline)) <= 1
    shared = min(len(streamed), len(offline))
    assert_equal_up_to_rounding(streamed[:shared], offline[:shared])
    with pytest.raises(ValueError, match="finished"):
        stream.process(waveform)
