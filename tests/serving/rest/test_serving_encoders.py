"""Audio formats: encoding in pieces equals encoding at once, the audio is right, and the first bytes come early."""

import numpy as np
import pytest

from echox.audio import load_audio
from echox.serving.rest.encoders import CONTENT_TYPES, STREAMED, encode, open_encoder

RATES = (16000, 22050, 24000)


def tone(rate, duration_s=2.0):
    return (0.4 * np.sin(2 * np.pi * 220 * np.arange(int(duration_s * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("kind", list(CONTENT_TYPES))
@pytest.mark.parametrize("rate", RATES)
def test_encoding_in_pieces_equals_encoding_at_once(kind, rate):
    sound, encoder = tone(rate), open_encoder(kind, rate)
    pieces = [encoder.write(part) for part in np.array_split(sound, 17)] + [encoder.finish()]
    assert (sum(map(bool, pieces[:-1])) > 2) == (kind in STREAMED)
    if kind.startswith("pcm"):
        back, back_rate = np.frombuffer(b"".join(pieces), "<i2") / 32768, 24000
        whole = np.frombuffer(encode(sound, rate, kind), "<i2") / 32768
    else:
        back, back_rate = load_audio(b"".join(pieces), rate), rate
        whole = load_audio(encode(sound, rate, kind), rate)
    assert len(back) / back_rate == pytest.approx(2.0, abs=0.15)  # ADTS cannot say how much its codec padded
    np.testing.assert_allclose(back, whole, atol=0.02)
    inside = back[back_rate // 4 : -back_rate // 4]
    assert np.sqrt(np.mean(inside**2)) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)
    peak_hz = np.abs(np.fft.rfft(inside)).argmax() * back_rate / len(inside)
    assert peak_hz == pytest.approx(220, abs=2)


@pytest.mark.parametrize("kind", [kind for kind in STREAMED if not kind.startswith("pcm")])
def test_half_a_second_of_audio_is_enough_for_the_first_bytes(kind):
    encoder = open_encoder(kind, 16000)
    assert encoder.write(tone(16000, 0.5)) + encoder.write(tone(16000, 0.2))


@pytest.mark.parametrize("kind", list(CONTENT_TYPES))
def test_empty_audio_is_a_valid_file(kind):
    encode(np.zeros(0, np.float32), 16000, kind)


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="expected one of"):
        open_encoder("midi", 16000)
