"""Audio formats of the protocols: PCM16, G.711 and base64, converted piece by piece with resampling.

Source: ITU-T G.711 (u-law, A-law); OpenAI Realtime API (audio/pcm is 24 kHz s16le mono; 16 kHz is our extension).
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from echox.audio import StreamingResampler

PCM_RATES = (24000, 16000)  # the first is the default
G711_RATE = 8000
_BASE64_BLOCK = 4 * 2**18  # characters, a multiple of four
_URL_SAFE = str.maketrans("-_", "+/")
_WHITE_SPACE = b" \n\r\t"
# Characters of base64 that a data: URL may escape (RFC 3986 section 2.1), with hexadecimal digits of either case.
_ESCAPES = tuple((form, chr(code)) for code in b"+/=-_\r\n " for form in {f"%{code:02X}", f"%{code:02x}"})
_ULAW_BIAS, _ULAW_CLIP = 0x84, 32635
_ALAW_TOGGLE = 0x55  # A-law flips every other bit


class AudioFormatObject(TypedDict, total=False):
    """An audio format in JSON; G.711 has no rate there."""

    type: str
    rate: int


@dataclass(frozen=True)
class AudioFormat:
    """An audio format of the protocol: ``type`` is audio/pcm, audio/pcmu or audio/pcma; ``rate`` is in Hz."""

    type: str = "audio/pcm"
    rate: int = PCM_RATES[0]

    @classmethod
    def read(cls, value: object) -> AudioFormat:
        """Read a format that a client requests: ``{"type": "audio/pcm", "rate": 24000}`` or the older ``"pcm16"``.

        Raises:
            ValueError: an unknown type or rate.
        """
        older = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
        if isinstance(value, str):
            value = {"type": older.get(value, value)}
        source = value if isinstance(value, dict) else {"type": None}
        kind = source.get("type", "audio/pcm")
        if kind not in ("audio/pcm", "audio/pcmu", "audio/pcma"):
            raise ValueError(f"expected type audio/pcm, audio/pcmu or audio/pcma, found {str(kind)[:40]!r}")
        rates = PCM_RATES if kind == "audio/pcm" else (G711_RATE,)
        rate = source.get("rate")
        rate = rates[0] if rate is None else rate
        if isinstance(rate, bool) or rate not in rates:
            raise ValueError(f"expected a rate of {' or '.join(map(str, rates))} for {kind}, found {str(rate)[:40]}")
        return cls(kind, int(rate))

    def to_dict(self) -> AudioFormatObject:
        """The JSON object."""
        return {"type": self.type, "rate": self.rate} if self.type == "audio/pcm" else {"type": self.type}

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return 2 if self.type == "audio/pcm" else 1

    def decode(self, data: bytes) -> np.ndarray:
        """Decode bytes of whole samples to float32 (S,)."""
        if self.type == "audio/pcm":
            return np.frombuffer(data, "<i2").astype(np.float32) / 32768.0
        table = _ULAW_TABLE if self.type == "audio/pcmu" else _ALAW_TABLE
        return table[np.frombuffer(data, np.uint8)]

    def encode(self, waveform: np.ndarray) -> bytes:
        """Encode float32 (S,) to bytes; samples beyond [-1, 1] are clipped."""
        pcm = np.clip(np.rint(waveform.astype(np.float64) * 32768.0), -32768, 32767).astype(np.int32)
        if self.type == "audio/pcm":
            return pcm.astype("<i2").tobytes()
        return (_to_ulaw(pcm) if self.type == "audio/pcmu" else _to_alaw(pcm)).tobytes()


def decode_base64(text: object) -> bytes:
    """Decode base64: plain, URL-safe (also without padding), with line breaks, or in a ``data:`` URL.

    Source: RFC 4648 (sections 3.1, 3.2 and 5), RFC 2397.

    Raises:
        ValueError: not a string, or not base64.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected base64 text, found {type(text).__name__}")
    if text[:5].lower() == "data:" or any(character in text for character in "-_ \n\r\t"):
        text = _plain_base64(text)
    ends = text.find("=")
    if 0 <= ends < len(text) - 2:
        raise ValueError("expected base64 text, found padding before its end")
    try:
        # In blocks: one call on 25 MB would block the interpreter, and so every other client, for 80 ms.
        blocks = range(0, len(text), _BASE64_BLOCK) or (0,)
        return b"".join(base64.b64decode(text[start : start + _BASE64_BLOCK], validate=True) for start in blocks)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"expected base64 text, found something else ({error})") from error


def _plain_base64(text: str) -> str:
    """Convert the other forms of base64 to the plain one, with memory of a few times the text.

    Raises:
        ValueError: not ASCII, or a ``data:`` URL without base64.
    """
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().rstrip().endswith(";base64"):
            raise ValueError(f"expected base64 text, or a data: URL with ;base64, found {head[:40]!r}")
        if "%" in text:  # rare, and each search reads the whole text
            # unquote of urllib makes an object of each escape, and 25 MB of text would become gigabytes.
            for escape, character in _ESCAPES:
                text = text.replace(escape, character)
    if not text.isascii():
        raise ValueError("expected base64 text, found characters outside ASCII")
    # str.split would make an object of each piece.
    text = text.encode("ascii").translate(None, delete=_WHITE_SPACE).decode("ascii")
    # The URL-safe form may have no padding. In the plain form, padding shows that the text is whole.
    if "-" in text or "_" in text:
        text = text.translate(_URL_SAFE).rstrip("=")
        text += "=" * (-len(text) % 4)
    return text


class WireReader:
    """Converts the bytes of a growing recording to samples at the rate of the model; half a sample is kept for later.

    Args:
        audio_format: format of the bytes.
        to_rate: rate of the samples, Hz.
    """

    def __init__(self, audio_format: AudioFormat, to_rate: int) -> None:
        self.audio_format = audio_format
        self._to_rate = to_rate
        self.reset()

    def reset(self) -> None:
        """Discard the state: the next bytes start a new recording."""
        self._rest = b""
        self._resampler = StreamingResampler(self.audio_format.rate, self._to_rate)

    def read(self, data: bytes) -> np.ndarray:
        """Convert bytes to samples float32 (S,). S may be 0."""
        data = self._rest + data
        whole = len(data) - len(data) % self.audio_format.sample_bytes
        self._rest = data[whole:]
        return self._resampler.process(self.audio_format.decode(data[:whole]))

    def flush(self) -> np.ndarray:
        """The last samples, float32 (S,). The next bytes start a new recording."""
        rest = self._resampler.process(np.zeros(0, np.float32), last=True)
        self.reset()
        return rest


class WireWriter:
    """Converts the samples of one reply to bytes, chunk by chunk.

    Args:
        from_rate: rate of the samples, Hz.
        audio_format: format of the bytes.
    """

    def __init__(self, from_rate: int, audio_format: AudioFormat) -> None:
        self.audio_format = audio_format
        self._resampler = StreamingResampler(from_rate, audio_format.rate)

    def write(self, waveform: np.ndarray, last: bool = False) -> bytes:
        """Convert samples to the bytes that are ready; with ``last``, to all remaining bytes."""
        return self.audio_format.encode(self._resampler.process(waveform, last))


def _to_ulaw(pcm: np.ndarray) -> np.ndarray:
    """16-bit samples (S,) to 8-bit codes (S,)."""
    magnitude = np.minimum(np.abs(pcm), _ULAW_CLIP) + _ULAW_BIAS
    exponent = np.frexp(magnitude.astype(np.float64))[1] - 8  # position of the highest bit, above bit 7
    mantissa = (magnitude >> (exponent + 3)) & 0x0F
    return (~(((pcm < 0) << 7) | (exponent << 4) | mantissa) & 0xFF).astype(np.uint8)


def _to_alaw(pcm: np.ndarray) -> np.ndarray:
    """16-bit samples (S,) to 8-bit codes (S,)."""
    magnitude = np.where(pcm >= 0, pcm, -pcm - 1) >> 3
    exponent = np.maximum(np.frexp(magnitude.astype(np.float64))[1] - 5, 0)  # segments 0 and 1 share a step
    mantissa = (magnitude >> np.maximum(exponent, 1)) & 0x0F
    sign = (pcm >= 0) << 7
    return ((sign | (exponent << 4) | mantissa) ^ _ALAW_TOGGLE).astype(np.uint8)


def _ulaw_table() -> np.ndarray:
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + _ULAW_BIAS) << ((code >> 4) & 7)) - _ULAW_BIAS
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768.0).astype(np.float32)


def _alaw_table() -> np.ndarray:
    code = np.arange(256) ^ _ALAW_TOGGLE
    exponent, low = (code >> 4) & 7, (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, low + 8, (low + 0x108) << np.maximum(exponent - 1, 0))
    return (np.where(code & 0x80, magnitude, -magnitude) / 32768.0).astype(np.float32)


_ULAW_TABLE, _ALAW_TABLE = _ulaw_table(), _alaw_table()
