"""Damaged and hostile audio files by the thousand, through every way into the package.

``python tests/audio/audio_fuzz.py --minutes 60`` runs long; `test_audio_fuzz.py` runs minutes of the same. What is
looked for: an answer that is neither samples nor a refusal in words, a server error, a hang, growth of memory,
descriptors or processes. Files that end a worker are counted and kept with ``--keep FOLDER``; the process that serves
never notices.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import contextlib
import gzip
import io
import json
import logging
import os
import random
import struct
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import av
import httpx
import numpy as np
import psutil
import soundfile
import websockets

from echox.audio import encode_audio, load_audio
from echox.audio_decoding.limits import MAX_RATE_HZ, MIN_RATE_HZ

RATE = 16_000
MAX_S = 20.0
SLOWEST_S = 40.0  # for one file: the bounds of a 20 s file, on a busy machine


def voice(duration_s: float = 0.6, rate: int = RATE, channels: int = 1) -> np.ndarray:
    """(S, C) of a buzzing tone in noise."""
    time_s = np.arange(int(duration_s * rate)) / rate
    sound = 0.3 * np.sign(np.sin(2 * np.pi * 130 * time_s)) * np.hanning(len(time_s))
    noise = np.random.default_rng(0).standard_normal((len(time_s), channels))
    return (sound[:, None] + 0.01 * noise).astype(np.float32)


SNDFILE_SEEDS = [
    *(("WAV", one) for one in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")),
    *(("WAV", one) for one in ("IMA_ADPCM", "MS_ADPCM", "GSM610")),
    *(("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT")),
    *(("AU", "PCM_16"), ("CAF", "PCM_16"), ("CAF", "ALAC_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")),
    *(("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("SVX", "PCM_16"), ("NIST", "PCM_16")),
    *(("VOC", "PCM_16"), ("IRCAM", "PCM_16"), ("MAT5", "PCM_16")),
]
FFMPEG_SEEDS = [
    *(("aac", "mp4"), ("aac", "adts"), ("aac", "matroska"), ("alac", "ipod"), ("pcm_s16be", "mov")),
    *(("libopus", "webm"), ("libopus", "ogg"), ("pcm_f32le", "matroska"), ("libmp3lame", "mp3"), ("mp2", "mp2")),
    *(("wmav2", "asf"), ("libmp3lame", "avi"), ("ac3", "matroska"), ("flac", "flac"), ("libopencore_amrnb", "amr")),
    *(("aac", "mpegts"), ("aac", "flv"), ("aac", "3gp"), ("wavpack", "wv")),
]


def encoded(codec: str, container: str, rate: int = 48_000, layout: str = "stereo", duration_s: float = 0.6) -> bytes:
    """A file made by FFmpeg."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        channels = stream.layout.nb_channels
        samples = np.ascontiguousarray(voice(duration_s, rate, channels)).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="flt", layout=layout)
        frame.sample_rate = rate
        converter = av.AudioResampler(stream.format.name, layout, rate, frame_size=stream.frame_size or 1024)
        for piece in [*converter.resample(frame), *converter.resample(None)]:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def seeds() -> dict[str, bytes]:
    """Good files of many formats by name; those that this machine's libraries can write."""
    found = {}
    for container, codec in SNDFILE_SEEDS:
        buffer = io.BytesIO()
        rate, channels = (8_000, 1) if codec == "GSM610" else (RATE, 2)
        with contextlib.suppress(soundfile.SoundFileError, ValueError):
            soundfile.write(buffer, voice(0.6, rate, channels), rate, format=container, subtype=codec)
            found[f"{container}/{codec}"] = buffer.getvalue()
    for codec, container in FFMPEG_SEEDS:
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            mono = codec == "libopencore_amrnb"
            found[f"{container}/{codec}"] = encoded(codec, container, *((8_000, "mono") if mono else ()))
    return found


INTERESTING = [0, 1, 2, 7, 8, 9, 16, 64, 255, 256, 32767, 32768, 65535, 655_350, 2**31 - 1, 2**31, 2**32 - 1]


def mutated(rng: random.Random, files: list[bytes]) -> bytes:
    """One to four changes of one file, some with a part of another."""
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice([1, 1, 2, 4])):
        kind = rng.randrange(9)
        place = rng.randrange(len(data)) if rng.random() < 0.5 else rng.randrange(min(len(data), 200))
        if kind == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            for other in rng.sample(range(len(data)), min(20, len(data))):
                data[other] = rng.randrange(256)
        elif kind == 2:
            del data[max(place, 1) :]
        elif kind == 3:
            size, order = rng.choice([2, 4, 8]), rng.choice(["little", "big"])
            value = rng.choice(INTERESTING) % (1 << (8 * size))
            data[place : place + size] = value.to_bytes(size, order)
        elif kind == 4:
            other = rng.choice(files)
            data[place:] = other[rng.randrange(len(other)) :]
        elif kind == 5:
            data[place:place] = data[place : place + rng.randrange(1, 2000)] * rng.choice([1, 3, 50])
        elif kind == 6:
            data[place : place + rng.randrange(1, 400)] = bytes(rng.randrange(1, 400))
        elif kind == 7:
            data[place:place] = rng.choice(files)[:400]
        else:
            data[place : place + rng.randrange(1, 100)] = rng.randbytes(rng.randrange(1, 100))
        if not data:
            data = bytearray(b"\x00")
    return bytes(data[: 2 << 20])


def wav(samples: np.ndarray, rate: int, code: int = 1, channels: int = 1) -> bytes:
    """A RIFF file with any header."""
    data = samples.tobytes()
    width = samples.itemsize * channels
    form = struct.pack(
        "<4sIHHIIHH", b"fmt ", 16, code, channels, rate, rate * width % 2**32, width % 2**16, 8 * samples.itemsize
    )
    body = form + struct.pack("<4sI", b"data", len(data)) + data
    return struct.pack("<4sI4s", b"RIFF", 4 + len(body), b"WAVE") + body


def flac_at(rate: int) -> bytes:
    """A FLAC file whose header claims another rate."""
    buffer = io.BytesIO()
    soundfile.write(buffer, voice(2.0), RATE, format="FLAC", subtype="PCM_16")
    data = bytearray(buffer.getvalue())
    fields = int.from_bytes(data[18:26], "big")  # STREAMINFO: 20 bits of rate, 3 of channels, 5 of width, 36 of samples
    fields = fields & ((1 << 44) - 1) | rate << 44
    data[18:26] = fields.to_bytes(8, "big")
    return bytes(data)


def crafted(canary: str) -> dict[str, bytes]:
    """Files made to harm, by name; none may be answered with samples.

    Args:
        canary: path of an audio file that nobody uploaded.
    """
    text = {
        "concat": f"ffconcat version 1.0\nfile {canary}\n",
        "concat of a descriptor": "ffconcat version 1.0\nfile proc/self/fd/3\n",
        "concat by URL": f"ffconcat version 1.0\nfile 'file:{canary}'\n",
        "playlist": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{canary}\n#EXT-X-ENDLIST\n",
        "playlist by URL": "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        "session description": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\n"
        "c=IN IP4 127.0.0.1\nt=0 0\nm=audio 49170 RTP/AVP 0\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet '
        f'mimeType="audio/mp4"><Representation id="0"><BaseURL>{canary}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>",
        "image description": f"# ImageMagick\n{canary}",
        "metadata": ";FFMETADATA1\ntitle=x\n",
        "rtsp": "RTSP/1.0 200 OK\r\n\r\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{canary}"/></svg>',
    }
    files = {name: body.encode() for name, body in text.items()}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("zeros.wav", bytes(8 << 20))
    files["zip"] = archive.getvalue()
    files["gzip"] = gzip.compress(wav(np.zeros(4 << 20, np.int16), RATE))
    for layout, codec in (("7.1(wide)+TBC", "pcm_s16le"), ("hexadecagonal", "aac"), ("hexadecagonal", "pcm_s16le")):
        with contextlib.suppress(ValueError, av.error.FFmpegError):
            files[f"{layout} {codec}"] = encoded(codec, "matroska", layout=layout)
    for channels in (9, 10, 16, 64, 255, 1024):
        files[f"{channels} channels"] = wav(np.zeros(channels * 800, np.int16), RATE, channels=channels)
    for rate in (1, 100, MIN_RATE_HZ - 1, MAX_RATE_HZ + 1, 655_350, 2**31 - 1, 2**32 - 1):
        files[f"{rate} Hz"] = wav(np.zeros(100, np.int16), rate)
    files["FLAC at 655350 Hz"] = flac_at(655_350)
    files["floats of 3e38"] = wav(np.full(4800, 3e38, np.float32), 48_000, code=3)
    files["floats of 1e300"] = wav(np.full(4800, 1e300), 48_000, code=3)
    files["not a number"] = wav(np.full(4800, np.nan, np.float32), RATE, code=3)
    files["one sample at 192 kHz"] = wav(np.zeros(1, np.int16), 192_000)
    files["too long"] = wav(np.zeros(int((MAX_S + 1) * 8000), np.uint8), 8_000)
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(600 * RATE, np.int16), RATE, format="FLAC")
    files["ten minutes of silence"] = buffer.getvalue()
    tag = b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f"
    files["a tag of 256 MiB"] = tag + bytes(1000)
    files["tags without end"] = b"ID3\x04\x00\x00\x00\x00\x00\x00" * 5000
    files["all sync"] = b"\xff\xfb\x90\x64" * 20_000
    files["all pages"] = b"OggS\x00" * 20_000
    files["all boxes"] = b"\x00\x00\x00\x08moov" * 20_000
    files["boxes in boxes"] = b"".join(struct.pack(">I4s", 8 * (20_000 - n), b"moov") for n in range(20_000))
    files["EBML without end"] = b"\x1a\x45\xdf\xa3" + b"\x01\xff\xff\xff\xff\xff\xff\xff" * 10_000
    with contextlib.suppress(ValueError, av.error.FFmpegError):
        files["movie that refers"] = _with_reference(encoded("pcm_s16be", "mov"), canary)
    for size in (1, 2, 3, 4, 11, 12, 15, 16, 44):
        files[f"{size} bytes"] = wav(np.zeros(10, np.int16), RATE)[:size]
    return files


def _with_reference(movie: bytes, target: str) -> bytes:
    """A QuickTime file whose samples lie in another file: its data reference is an alias to a path."""
    place = movie.find(b"dref")
    size = int.from_bytes(movie[place - 4 : place], "big")
    alias = b"\x00" * 40 + struct.pack(">HH", 18, len(target)) + target.encode()
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    box = struct.pack(">I4sII", 16 + len(entry), b"dref", 0, 1) + entry
    return movie[: place - 4] + box + movie[place - 4 + size :]


# ---------------------------------------------------------------------------------------------------- ways in


class Finding(AssertionError):
    """Something that must not happen."""


def through_python(data: bytes) -> str:
    """`load_audio`: samples, or a ValueError that says what was expected."""
    try:
        samples = load_audio(data, RATE, max_duration_s=MAX_S)
    except ValueError as error:
        if "expected" not in str(error) or "\n" in str(error):
            raise Finding(f"a refusal without words: {error}") from error
        return "refused"
    if not (samples.size and np.isfinite(samples).all() and len(samples) <= MAX_S * RATE + 1):
        raise Finding(f"samples {samples.shape}, finite {np.isfinite(samples).all()}")
    return "decoded"


def _checked(response: httpx.Response) -> str:
    if response.status_code not in (200, 400, 413):
        raise Finding(f"status {response.status_code}: {response.text[:300]}")
    if response.status_code != 200 and not response.json()["error"]["message"]:
        raise Finding(f"a refusal without words: {response.text[:300]}")
    return "decoded" if response.status_code == 200 else "refused"


def through_transcriptions(url: str, data: bytes) -> str:
    """An upload."""
    files = {"file": ("a.wav", data)}
    return _checked(httpx.post(f"{url}/v1/audio/transcriptions", files=files, timeout=SLOWEST_S))


def through_chat(url: str, data: bytes) -> str:
    """Audio inside a chat message."""
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}
    body = {"model": "nano", "max_tokens": 2, "messages": [{"role": "user", "content": [part]}]}
    return _checked(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=SLOWEST_S))


def through_websocket(url: str, data: bytes) -> str:
    """A realtime item, whose audio is raw samples, whatever the bytes are."""

    async def ask() -> str:
        async with websockets.connect(url.replace("http", "ws") + "/v1/realtime?model=nano") as socket:
            part = {"type": "input_audio", "audio": base64.b64encode(data).decode()}
            item = {"type": "message", "role": "user", "content": [part]}
            await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
            while True:
                event = json.loads(await asyncio.wait_for(socket.recv(), SLOWEST_S))
                if event["type"] == "error":
                    if event["error"]["type"] == "server_error":
                        raise Finding(str(event))
                    return "refused"
                if event["type"].startswith("conversation.item"):
                    return "decoded"

    return asyncio.run(ask())


def through_page(model: object, folder: Path, data: bytes) -> str:
    """A file dropped on the Gradio page."""
    import gradio

    from echox.serving.gradio_page import answer

    path = folder / "upload.mp4"
    path.write_bytes(data)
    turn = answer(model, str(path), "", None, "", 0.0, 1.0, 0.0, 2, 0, False)  # type: ignore[arg-type]
    try:
        next(turn)
    except gradio.Error:
        return "refused"
    finally:
        turn.close()
    return "decoded"


class Watch:
    """Growth of this process and its children."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.start = self.now()

    def now(self) -> dict[str, int]:
        """Megabytes, descriptors and children at this moment."""
        children = [one for one in self._process.children() if one.status() != psutil.STATUS_ZOMBIE]
        return {
            "rss_mb": self._process.memory_info().rss >> 20,
            "descriptors": self._process.num_fds(),
            "children": len(children),
            "largest_child_mb": max([one.memory_info().rss >> 20 for one in children], default=0),
        }

    def check(self) -> dict[str, int]:
        """The same, which must not have grown much."""
        now = self.now()
        for name, room in (("rss_mb", 250), ("descriptors", 40), ("children", 6)):
            if now[name] > self.start[name] + room:
                raise Finding(f"growth of {name}: {self.start} -> {now}")
        return now


def fuzz(ways: dict[str, Callable[[bytes], str]], minutes: float, seed: int, keep: Path | None = None) -> dict:
    """Run until the time is over or something is found.

    Args:
        ways: by name, what takes a file and returns "decoded" or "refused".
        minutes: how long.
        seed: of the mutations.
        keep: folder for files that ended a worker.
    """
    rng, files = random.Random(seed), list(seeds().values())
    ended = _Ended()
    logging.getLogger("echox.audio_decoding.pool").addHandler(ended)
    counts: collections.Counter[str] = collections.Counter()
    slowest, crashes, watch = 0.0, 0, None
    end = time.monotonic() + 60 * minutes
    number = 0
    while time.monotonic() < end:
        data = mutated(rng, files)
        name = rng.choices(list(ways), [20 if one == "python" else 1 for one in ways])[0]
        start, before = time.monotonic(), ended.count
        try:
            counts[f"{name} {ways[name](data)}"] += 1
        except Exception as error:
            path = (keep or Path(tempfile.gettempdir())) / f"finding-{seed}-{number}"
            path.write_bytes(data)
            raise Finding(f"{name}, file kept as {path}: {type(error).__name__}: {error}") from error
        took = time.monotonic() - start
        slowest = max(slowest, took)
        if took > SLOWEST_S:
            raise Finding(f"{name}: one file took {took:.1f} s")
        if ended.count > before:
            crashes += 1
            if keep is not None:
                (keep / f"crash-{seed}-{number}").write_bytes(data)
        number += 1
        if number == 200:
            watch = Watch()
        elif number % 500 == 0 and watch is not None:
            print(json.dumps({"files": number, **watch.check()}), flush=True)
    grown = watch.check() if watch is not None else {}
    start_sizes = watch.start if watch is not None else {}
    return {
        "formats": len(files),
        "files": number,
        "slowest_s": round(slowest, 2),
        "workers_ended": crashes,
        "start": start_sizes,
        "end": grown,
        **dict(sorted(counts.items())),
    }


class _Ended(logging.Handler):
    """Counts workers that ended amid a file."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1
        print(record.getMessage(), flush=True)


def main() -> None:
    """Fuzz for so many minutes and print figures; an exception is a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    from serving_help import Limits, nano, running

    with tempfile.TemporaryDirectory() as name, running(nano(), Limits(max_upload_s=MAX_S)) as server:
        folder = Path(name)
        (folder / "canary.wav").write_bytes(encode_audio(voice()[:, 0], RATE))
        os.chdir(folder)
        ways = {
            "python": through_python,
            "transcriptions": lambda data: through_transcriptions(server.url, data),
            "chat": lambda data: through_chat(server.url, data),
            "websocket": lambda data: through_websocket(server.url, data),
            "page": lambda data: through_page(nano(), folder, data),
        }
        for way, take in ways.items():
            for case, data in crafted("canary.wav").items():
                # The page takes longer files; what a WebSocket brings is raw samples, whatever it is.
                if take(data) != "refused" and way != "websocket" and (way, case) != ("page", "too long"):
                    raise Finding(f"{way}: {case} was decoded")
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
        print(json.dumps({"seed": options.seed, **fuzz(ways, options.minutes, options.seed, options.keep)}))


if __name__ == "__main__":
    main()
