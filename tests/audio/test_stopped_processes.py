"""Limits of clock time do not go on while the process that waits is stopped, and hold otherwise."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from echox.data.engines import engine
from echox.data.engines.engine import Voice, run_program

STOPPED_S = 3
SPEECH = Path(__file__).parents[2] / "src" / "echox" / "assets" / "questions" / "1_brazil.wav"

DECODING = f"""
    from echox.audio_decoding import pool as pools
    from echox.audio_decoding.limits import DecodeLimits

    pool = pools.DecoderPool(1)
    content = open({str(SPEECH)!r}, "rb").read()
    pool.decode(content, 16_000, 60)
    (worker,) = pool.process_ids
    os.kill(worker, signal.SIGSTOP)
    pools.DecodeLimits.of = lambda *_: DecodeLimits(10, 2.0, 1 << 30)
    stop_soon(worker)
    print(len(pool.decode(content, 16_000, 60)))
"""
SPEAKING = """
    from echox.data.engines import engine

    engine.TIMEOUT_S = 2.0
    stop_soon()
    command = [sys.executable, "-c", "import time; time.sleep(1); print(1)"]
    print(engine.run_program(command, "a text", engine.Voice("a", "b")))
"""
STOP_SOON = """
    import os, signal, sys, threading

    def stop_soon(*others):
        def stop():
            print("stops", *others, flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)

        threading.Timer(0.3, stop).start()
"""


@pytest.mark.parametrize("code", [DECODING, SPEAKING], ids=["decoding", "speaking"])
def test_the_time_in_which_a_process_is_stopped_does_not_count(code):
    code = textwrap.dedent(STOP_SOON) + textwrap.dedent(code)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            said, *workers = process.stdout.readline().split()
            assert said == "stops", process.communicate()[1]
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            time.sleep(STOPPED_S)
            for pid in (*map(int, workers), process.pid):
                os.kill(pid, signal.SIGCONT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert int(output) > 0


def test_a_program_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(engine, "TIMEOUT_S", 0.3)
    began_s = time.monotonic()
    with pytest.raises(TimeoutError, match=r"a/b: no speech for 'a text' in 0.3 s"):
        run_program(["sleep", "600"], "a text", Voice("a", "b"), "given")
    assert time.monotonic() - began_s < 60


def test_the_errors_of_a_program_are_told():
    command = [sys.executable, "-c", "import sys; print(sys.stdin.read(), file=sys.stderr); sys.exit(3)"]
    with pytest.raises(ValueError, match="a/b: could not speak 'a text': what was given"):
        run_program(command, "a text", Voice("a", "b"), "what was given")
