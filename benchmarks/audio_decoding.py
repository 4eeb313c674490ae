"""What a request pays for having its audio decoded in another process: start, round trip, memory. Prints JSON."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable

import numpy as np
import psutil
import soundfile

from echox.audio import encode_audio
from echox.audio_decoding.decoders import decode
from echox.audio_decoding.pool import DecoderPool

RATE, MAX_S = 16_000, 300.0


def milliseconds(work: Callable[[], object], times: int = 50) -> dict[str, float]:
    """Median and 95th percentile."""
    found = []
    for _ in range(times):
        start_s = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - start_s))
    return {"median_ms": round(float(np.median(found)), 2), "p95_ms": round(float(np.quantile(found, 0.95)), 2)}


def main() -> None:
    sound = (0.1 * np.random.default_rng(0).standard_normal((3 * 48_000, 2))).astype(np.float32)
    opus = io.BytesIO()
    soundfile.write(opus, sound, 48_000, format="OGG", subtype="OPUS")
    files = {"wav, 3 s, mono, 16 kHz": encode_audio(sound[: 3 * RATE, 0], RATE), "opus, 3 s, stereo": opus.getvalue()}
    pool = DecoderPool(1)
    start_s = time.perf_counter()
    pool.decode(files["wav, 3 s, mono, 16 kHz"], RATE, MAX_S)
    report: dict[str, object] = {"first_file_ms": round(1e3 * (time.perf_counter() - start_s))}
    memory = psutil.Process(pool.process_ids[0]).memory_full_info()
    report["worker_rss_mb"], report["worker_unique_mb"] = memory.rss >> 20, memory.uss >> 20
    for name, data in files.items():
        report[name] = {
            "worker": milliseconds(lambda data=data: pool.decode(data, RATE, MAX_S)),
            "in_process": milliseconds(lambda data=data: decode(data, RATE, MAX_S)),
        }
    pool.close()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
