"""Clients that write raw bytes, and a measurement of the server's event loop."""

import asyncio
import contextlib
import socket
import time

HEAD = b"POST /v1/audio/speech HTTP/1.1\r\nHost: localhost\r\n"


@contextlib.contextmanager
def crowd(port, count, first_bytes):
    """So many connections, each of which has sent a little."""
    with contextlib.ExitStack() as stack:
        found = []
        for _ in range(count):
            found.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 10)))
            with contextlib.suppress(OSError):
                found[-1].sendall(first_bytes)
        yield found


def raw(port, data, timeout_s=10.0):
    """All that the server answers, until it closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
        answer = b""
        try:
            while part := client.recv(65536):
                answer += part
        except TimeoutError:
            return answer, False
        except OSError:  # reset, because it did not read what came behind
            pass
        return answer, True


@contextlib.contextmanager
def measured_lag(server, lags):
    """The longest time, s, in which the server's event loop did nothing else, goes to `lags`.

    Of that, only processor time of this process counts: on a busy machine the loop is late without being blocked.
    """
    loop, done = server.service._upkeep.get_loop(), []

    async def watch():
        longest = 0.0
        while not done:
            began, worked_s = time.monotonic(), time.process_time()
            await asyncio.sleep(0.005)  # fixed time: what is late beyond it is the lag
            late_s = time.monotonic() - began - 0.005
            longest = max(longest, min(late_s, time.process_time() - worked_s))
        return longest

    watching = asyncio.run_coroutine_threadsafe(watch(), loop)
    try:
        yield
    finally:
        done.append(True)
        lags.append(watching.result(60))
