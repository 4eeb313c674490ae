"""A slow network: a TCP proxy that passes on so many bytes a second of what clients send."""

import asyncio
import contextlib
import socket
import threading

_STEP_S = 0.02


async def _pass_on(reader, writer, bytes_per_s=None):
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(int(bytes_per_s * _STEP_S) if bytes_per_s else 65536):
            writer.write(data)
            await writer.drain()
            if bytes_per_s:
                await asyncio.sleep(len(data) / bytes_per_s)
    with contextlib.suppress(ConnectionError):
        writer.close()


@contextlib.contextmanager
def slow(port, bytes_per_s):
    """The port of a proxy to a port of this machine."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)  # what it has not taken is not on its way
        listener.bind(("127.0.0.1", 0))

        async def meet(reader, writer):
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(
                _pass_on(reader, there_writer, bytes_per_s), _pass_on(there_reader, writer), return_exceptions=True
            )

        loop = asyncio.new_event_loop()
        proxy = loop.run_until_complete(asyncio.start_server(meet, sock=listener, limit=16384))
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            loop.call_soon_threadsafe(proxy.close)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()
