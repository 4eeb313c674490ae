"""Supported audio formats, recognised by the first bytes of a file, never by its name or by FFmpeg's detection.

FFmpeg's guess also finds playlists, session descriptions and lists of files, which make it open what they name.

Sources: the magic numbers of RFC 9639 (FLAC), RFC 3533 (Ogg), RFC 4867 (AMR), RFC 9559 (Matroska), ISO/IEC 14496-12
(MP4), ISO/IEC 11172-3 (MPEG audio), EBU Tech 3306 (RF64), https://id3.org/id3v2.4.0-structure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Container:
    """A file format.

    Attributes:
        name: for people.
        demuxer: FFmpeg's name of what reads it.
        libsndfile: libsndfile reads it, too, and is asked first.
    """

    name: str
    demuxer: str
    libsndfile: bool = False


WAV = Container("WAV", "wav", libsndfile=True)
WAVE64 = Container("Wave64", "w64", libsndfile=True)
AIFF = Container("AIFF", "aiff", libsndfile=True)
AU = Container("AU", "au", libsndfile=True)
CAF = Container("CAF", "caf", libsndfile=True)
FLAC = Container("FLAC", "flac", libsndfile=True)
OGG = Container("Ogg", "ogg", libsndfile=True)
MPEG_AUDIO = Container("MP3", "mp3")  # libsndfile fails when soundfile seeks between blocks
ADTS = Container("AAC", "aac")
MP4 = Container("MP4 or M4A", "mov")
MATROSKA = Container("WebM or Matroska", "matroska")
ASF = Container("WMA", "asf")
AMR = Container("AMR", "amr")

_SIGNATURES: tuple[tuple[re.Pattern[bytes], Container], ...] = tuple(
    (re.compile(pattern, re.DOTALL), container)
    for pattern, container in (
        (rb"(?:RIFF|RIFX|RF64|BW64)....WAVE", WAV),
        (rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00", WAVE64),
        (rb"FORM....AIF[FC]", AIFF),
        (rb"\.snd|dns\.", AU),
        (rb"caff\x00", CAF),
        (rb"fLaC", FLAC),
        (rb"OggS\x00", OGG),
        (rb"....(?:ftyp|moov|mdat|wide|free|skip)", MP4),
        (rb"\x1a\x45\xdf\xa3", MATROSKA),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ASF),
        (rb"#!AMR(?:-WB)?\n", AMR),
        (rb"\xff[\xf0\xf1\xf8\xf9]", ADTS),
    )
)

_ID3_HEADER_BYTES = 10
_MAX_TAGS = 8
_MPEG_SEARCH_BYTES = 1 << 16  # recordings of a stream begin in the middle of a frame, others with zeros
_MPEG_SYNC = re.compile(rb"\xff[\xe2-\xff]")
# Kilobits per second by index 1 to 14, of MPEG 1 layers I, II, III, and of MPEG 2 layer I and layers II and III.
_KBITS_1_1 = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448)
_KBITS_1_2 = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)
_KBITS_1_3 = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBITS_2_1 = (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_KBITS_2_23 = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG_1_RATES = (44_100, 48_000, 32_000)


def recognise(content: bytes) -> tuple[Container, int] | None:
    """The format of a file, and where its audio begins after ID3 tags; None: no supported format."""
    start = _after_id3(content)
    head = content[start : start + 16]
    for pattern, container in _SIGNATURES:
        if pattern.match(head):
            return container, start
    first_frame = _first_mpeg_frame(content, start)
    return None if first_frame is None else (MPEG_AUDIO, first_frame)


def _after_id3(content: bytes) -> int:
    """Where the content begins after ID3v2 tags (which may hold pictures); the end, for a tag that is longer."""
    start = 0
    for _ in range(_MAX_TAGS):
        tag = content[start : start + _ID3_HEADER_BYTES]
        if len(tag) < _ID3_HEADER_BYTES or not tag.startswith(b"ID3") or any(byte & 0x80 for byte in tag[6:]):
            break
        size = tag[6] << 21 | tag[7] << 14 | tag[8] << 7 | tag[9]
        footer = _ID3_HEADER_BYTES if tag[5] & 0x10 else 0
        start = min(start + _ID3_HEADER_BYTES + size + footer, len(content))
    return start


def _first_mpeg_frame(content: bytes, start: int) -> int | None:
    """Where the first MPEG audio frame begins that is followed by another one, or by the end."""
    for match in _MPEG_SYNC.finditer(content, start, start + _MPEG_SEARCH_BYTES):
        place = match.start()
        length = _mpeg_frame_bytes(content[place : place + 4])
        if length is None:
            continue
        following = content[place + length : place + length + 4]
        if _mpeg_frame_bytes(following) is not None or (place == start and len(following) < 4):
            return place
    return None


def _mpeg_frame_bytes(header: bytes) -> int | None:
    """Length of the MPEG audio frame with this 4-byte header; None: no such header, or a free bit rate."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)  # version: 3 is MPEG 1, 2 MPEG 2, 0 MPEG 2.5
    kbits_index, rate_index, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or kbits_index in (0, 15) or rate_index == 3:
        return None
    if version == 3:
        kbits = (_KBITS_1_1, _KBITS_1_2, _KBITS_1_3)[layer - 1][kbits_index - 1]
    else:
        kbits = (_KBITS_2_1 if layer == 1 else _KBITS_2_23)[kbits_index - 1]
    rate = _MPEG_1_RATES[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    if layer == 1:
        return (12_000 * kbits // rate + padding) * 4
    samples_per_byte = 72_000 if layer == 3 and version != 3 else 144_000
    return samples_per_byte * kbits // rate + padding
