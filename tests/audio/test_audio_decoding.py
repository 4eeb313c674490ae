"""Untrusted files: what is read, what is refused, the limits, and that no other file is opened."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from audio_fuzz import MAX_S, RATE, crafted, encoded, seeds, voice, wav
from echox.audio import encode_audio, load_audio
from echox.audio_decoding import pool as pools
from echox.audio_decoding.containers import recognise
from echox.audio_decoding.downmix import mix_to_mono
from echox.audio_decoding.limits import DecodeLimits
from echox.audio_decoding.pool import DecoderPool, DecodingCancelled, DecodingJob
from serving_help import Limits, nano, running

SPEECH = encode_audio(voice()[:, 0], RATE)
CANARY = "private_note.wav"
HOSTILE = crafted(CANARY)
SEEDS = seeds()
NOT_READ = {"SVX/PCM_16", "NIST/PCM_16", "VOC/PCM_16", "IRCAM/PCM_16", "MAT5/PCM_16"}
NOT_READ |= {"avi/libmp3lame", "mpegts/aac", "flv/aac", "wv/wavpack"}


@pytest.fixture
def pool():
    found = DecoderPool(1)
    found.warm()
    yield found
    found.close()


def decoded(pool, data, job=None):
    return pool.decode(data, RATE, MAX_S, job)


@pytest.mark.parametrize("name", SEEDS)
def test_formats_that_are_read_and_others_that_are_refused(name):
    data = SEEDS[name]
    if name in NOT_READ:
        with pytest.raises(ValueError, match="expected audio"):
            load_audio(data)
        return
    waveform = load_audio(data)
    assert len(waveform) == pytest.approx(0.6 * RATE, rel=0.25)  # some codecs pad their ends
    assert 0.05 < waveform.std() < 0.3


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_at_once_and_read_nothing_else(tmp_path, monkeypatch, name):
    """On f071b06: a crash, the canary's samples, a bound socket, gigabytes, NaN, nothing, or minutes."""
    (tmp_path / CANARY).write_bytes(SPEECH)
    monkeypatch.chdir(tmp_path)
    load_audio(SPEECH)  # a worker is warm
    start = time.monotonic()
    with pytest.raises(ValueError, match="expected") as caught:
        load_audio(HOSTILE[name], max_duration_s=MAX_S)
    assert time.monotonic() - start < 10
    assert CANARY not in str(caught.value)
    np.testing.assert_array_equal(load_audio(SPEECH), load_audio(tmp_path / CANARY))  # and continues


@pytest.mark.parametrize("codec", ["libopus", "aac", "pcm_s16le", "pcm_f32le"])
@pytest.mark.parametrize("layout", ["quad", "5.1", "7.1"])
def test_surround_sound_is_mixed(codec, layout):
    """On f071b06 eight planes of a frame are read as nine, and the process dies."""
    waveform = load_audio(encoded(codec, "matroska", layout=layout))
    assert len(waveform) == pytest.approx(0.6 * RATE, rel=0.1)
    assert 0.05 < waveform.std() < 0.7


def test_an_mp3_longer_than_a_block_is_whole():
    """Libsndfile loses its place in an MP3 where soundfile seeks between blocks."""
    sound = voice(5.0, 48_000, 2)
    buffer = io.BytesIO()
    soundfile.write(buffer, sound, 48_000, format="MP3", subtype="MPEG_LAYER_III")
    waveform = load_audio(buffer.getvalue(), 48_000)
    expected = sound.mean(axis=1)[: len(waveform)]
    assert np.corrcoef(waveform[: len(expected)], expected)[0, 1] > 0.99


def test_opposite_phase_is_heard():
    left = voice()[:, 0]
    buffer = io.BytesIO()
    soundfile.write(buffer, np.stack([left, -left], axis=1), RATE, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(load_audio(buffer.getvalue()), left, atol=1e-6)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_mix_never_loses_the_sound(channels, seed):
    rng = np.random.default_rng(seed)
    gains = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], channels)
    samples = (rng.standard_normal((400, 1)) * gains).astype(np.float32)
    mixed = mix_to_mono(samples)
    assert mixed.shape == (400,)
    loudest = samples.std(axis=0).max()
    assert mixed.std() >= 0.5 * loudest / channels


def test_a_mix_is_the_mean_where_nothing_cancels():
    samples = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32)
    np.testing.assert_allclose(mix_to_mono(samples), samples.mean(axis=1), atol=1e-6)
    one_sided = samples * np.float32([1, 0])
    np.testing.assert_allclose(mix_to_mono(one_sided), one_sided.mean(axis=1), atol=1e-6)
    assert mix_to_mono(np.zeros((0, 2), np.float32)).shape == (0,)
    with pytest.raises(ValueError, match="at least one channel"):
        mix_to_mono(np.zeros((4, 0), np.float32))


@given(st.binary(max_size=200))
def test_recognising_reads_any_bytes(content):
    found = recognise(content)
    assert found is None or 0 <= found[1] <= len(content)


def test_a_tag_before_the_audio_is_skipped():
    tag = b"ID3\x04\x00\x00\x00\x00\x02\x00" + bytes(256)
    np.testing.assert_array_equal(load_audio(tag + tag + SPEECH), load_audio(SPEECH))


# ------------------------------------------------------------------------------------------------- the processes


def test_a_worker_can_open_nothing_and_knows_no_secret(pool, monkeypatch):
    monkeypatch.setenv("ECHOX_API_KEY", "secret")
    fresh = DecoderPool(1)
    decoded(fresh, SPEECH)
    worker = psutil.Process(fresh.process_ids[0])
    if not Path("/proc/self/limits").exists():
        pytest.skip("no /proc")
    limits = Path(f"/proc/{worker.pid}/limits").read_text(encoding="ascii")
    for name in ("Max open files", "Max file size", "Max core file size"):
        line = next(line for line in limits.splitlines() if line.startswith(name))
        assert line.removeprefix(name).split()[:2] == ["0", "0"]
    assert "ECHOX_API_KEY" not in worker.environ()
    assert not [one for one in worker.open_files() if "/proc/" not in one.path]
    assert "torch" not in Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
    assert worker.memory_info().rss < 120 << 20
    fresh.close()


def test_a_worker_that_hangs_is_killed_and_replaced(pool, monkeypatch):
    decoded(pool, SPEECH)
    (worker,) = pool.process_ids
    os.kill(worker, signal.SIGSTOP)
    monkeypatch.setattr(pools.DecodeLimits, "of", lambda *_: DecodeLimits(1, 0.3, 1 << 30))
    with pytest.raises(ValueError, match="decodes within"):
        decoded(pool, SPEECH)
    monkeypatch.undo()
    assert not psutil.pid_exists(worker)
    assert len(pool.process_ids) == 1
    assert len(decoded(pool, SPEECH))


def test_a_worker_that_crashes_costs_a_refusal(pool):
    decoded(pool, SPEECH)
    (worker,) = pool.process_ids
    os.kill(worker, signal.SIGSTOP)
    threading.Timer(0.2, os.kill, (worker, signal.SIGKILL)).start()
    with pytest.raises(ValueError, match="crashes on"):
        decoded(pool, SPEECH)
    assert len(decoded(pool, SPEECH))
    (worker,) = pool.process_ids
    os.kill(worker, signal.SIGKILL)  # while it is idle
    psutil.wait_procs([psutil.Process(worker)], timeout=10)
    assert len(decoded(pool, SPEECH))


def test_a_job_is_cancelled_before_and_during(pool):
    job = DecodingJob()
    job.cancel()
    with pytest.raises(DecodingCancelled):
        decoded(pool, SPEECH, job)
    decoded(pool, SPEECH)
    (worker,) = pool.process_ids
    os.kill(worker, signal.SIGSTOP)
    job = DecodingJob()
    threading.Timer(0.2, job.cancel).start()
    with pytest.raises(DecodingCancelled):
        decoded(pool, SPEECH, job)
    assert not psutil.pid_exists(worker)
    assert len(decoded(pool, SPEECH))


def in_a_process(code):
    code = (
        "import os\nimport numpy as np\nfrom echox.audio_decoding import worker\n"
        f"from echox.audio_decoding.limits import DecodeLimits\n{code}"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_computing_time_and_memory_have_an_end():
    assert in_a_process("worker._bound(DecodeLimits(1, 9, 1 << 30))\nwhile True: pass").returncode == -signal.SIGXCPU
    if not Path("/proc/self/statm").exists():
        pytest.skip("this system does not bound the address space")
    found = in_a_process(
        "worker._Memory.statm = os.open('/proc/self/statm', os.O_RDONLY)\nworker._bound(DecodeLimits(9, 9, 1 << 20))\n"
        "try: np.zeros(64 << 20)\nexcept MemoryError: print('bounded')"
    )
    assert found.stdout == "bounded\n", found.stderr


def test_a_script_needs_no_main_guard_and_leaves_no_process(tmp_path):
    (tmp_path / "a.wav").write_bytes(SPEECH)
    script = tmp_path / "script.py"
    script.write_text(
        "from echox.audio import load_audio\nfrom echox.audio_decoding.pool import shared_pool\n"
        "print(len(load_audio('a.wav')), *shared_pool().process_ids)\n",
        encoding="utf-8",
    )
    found = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=True)
    samples, *workers = map(int, found.stdout.split())
    assert samples == len(voice())
    deadline = time.monotonic() + 10
    while any(psutil.pid_exists(worker) for worker in workers):
        assert time.monotonic() < deadline, "a worker outlived the script"
        time.sleep(0.02)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_workers_of_its_own():
    load_audio(SPEECH)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(load_audio(SPEECH), load_audio(SPEECH)) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(load_audio(SPEECH)) == len(voice())


def test_many_threads_share_few_workers():
    shared = DecoderPool(2)
    found = []
    threads = [threading.Thread(target=lambda: found.append(len(decoded(shared, SPEECH)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [len(voice())] * 8
    assert len(shared.process_ids) <= 2
    shared.close()
    with pytest.raises(RuntimeError, match="closed"):
        decoded(shared, SPEECH)


def test_what_is_wrong_with_a_pool_is_said(monkeypatch):
    with pytest.raises(ValueError, match="at least 1"):
        DecoderPool(0)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(RuntimeError, match="expected to start a process"):
        decoded(DecoderPool(1), SPEECH)


def test_what_was_decoded_is_kept_where_no_worker_can_be_replaced(pool, monkeypatch):
    assert len(decoded(pool, SPEECH))  # the worker runs
    monkeypatch.setattr(pools, "_JOBS", 2)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert len(decoded(pool, SPEECH))
    assert pool.busy == 0
    with pytest.raises(RuntimeError, match="expected to start a process"):
        decoded(pool, SPEECH)
    monkeypatch.undo()
    assert len(decoded(pool, SPEECH))


# ------------------------------------------------------------------------------------------------- the server


def test_a_decoding_ends_with_its_client():
    with running(nano(), Limits(max_decoders=1)) as server:
        assert (
            httpx.post(
                f"{server.url}/v1/audio/transcriptions", files={"file": ("a.wav", HOSTILE["1 Hz"])}, timeout=60
            ).status_code
            == 400
        )
        (worker,) = server.service.decoders.process_ids
        os.kill(worker, signal.SIGSTOP)
        request = httpx.Request("POST", f"{server.url}/v1/audio/transcriptions", files={"file": ("a.wav", SPEECH)})
        head = [f"POST {request.url.path} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers.items())]
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall("\r\n".join([*head, "", ""]).encode() + request.read())
            deadline = time.monotonic() + 10
            while not server.service.decoders.busy:
                assert time.monotonic() < deadline, "the upload was not taken"
                time.sleep(0.01)
        while psutil.pid_exists(worker):
            assert time.monotonic() < deadline, "the decoding went on without its client"
            time.sleep(0.02)
        found = httpx.post(f"{server.url}/v1/audio/transcriptions", files={"file": ("a.wav", HOSTILE["1 Hz"])})
        assert found.status_code == 400
        assert "4000 to 192000 Hz" in found.json()["error"]["message"]


def test_samples_just_inside_the_bounds_are_read():
    for rate in (4_000, 192_000):
        assert len(load_audio(wav(np.zeros(rate, np.int16), rate))) == pytest.approx(RATE, abs=1)
    loud = load_audio(wav(np.full(800, 2.0**31, np.float32), RATE, code=3))
    assert np.isfinite(loud).all()
