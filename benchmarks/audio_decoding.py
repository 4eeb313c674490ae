"""What a request pays for having its audio decoded in another process: start, round trip, memory.

python benchmarks/audio_decoding.py
"""

from __future__ import annotations

import argparse
import io
from typing import Any

import numpy as np
import psutil
import soundfile
from harness import Measured, milliseconds, run, times_s

from echox.audio import encode_audio
from echox.audio_decoding.decoders import decode
from echox.audio_decoding.pool import DecoderPool

RATE_HZ, MAX_S = 16_000, 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=50, help="files of each kind (default: 50)")


def recordings() -> dict[str, bytes]:
    """Three seconds of noise in two formats."""
    sound = (0.1 * np.random.default_rng(0).standard_normal((3 * 48_000, 2))).astype(np.float32)
    opus = io.BytesIO()
    soundfile.write(opus, sound, 48_000, format="OGG", subtype="OPUS")
    return {"wav_3_s_mono": encode_audio(sound[: 3 * RATE_HZ, 0], RATE_HZ), "opus_3_s_stereo": opus.getvalue()}


def measure(options: argparse.Namespace) -> Measured:
    files = recordings()
    pool = DecoderPool(1)
    try:
        (first_s,) = times_s(lambda: pool.decode(files["wav_3_s_mono"], RATE_HZ, MAX_S), 1)
        memory = psutil.Process(pool.process_ids[0]).memory_full_info()
        figures: dict[str, Any] = {
            "first_file_ms": round(1e3 * first_s),
            "worker_resident_mb": round(memory.rss / 1e6, 1),
            "worker_unique_mb": round(memory.uss / 1e6, 1),
        }
        for name, data in files.items():
            ways = {
                "worker": lambda data=data: pool.decode(data, RATE_HZ, MAX_S),
                "in_process": lambda data=data: decode(data, RATE_HZ, MAX_S),
            }
            figures[name] = {way: milliseconds(times_s(work, options.repeats)) for way, work in ways.items()}
    finally:
        pool.close()
    return Measured(figures)


if __name__ == "__main__":
    run(__doc__, add_arguments, measure)
