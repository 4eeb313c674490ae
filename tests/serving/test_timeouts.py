"""Work with a deadline: its result, its end, and that whoever ends the task that waits for it is obeyed."""

import asyncio
import importlib.util
from types import SimpleNamespace

import pytest

from echox.serving.protocol.limits import Limits
from echox.serving.service.outbox import Outbox
from echox.serving.webrtc.ice import IceSettings
from echox.timeouts import within

STEPS = range(8)
"""Steps of the event loop between a result and a cancellation: in some of them, both come to the same task."""


async def ends(task):
    """Cancel a task; it has to end."""
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=10)
    assert done, "the cancellation was lost"


async def steps(number):
    for _ in range(number):
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", STEPS)
def test_a_cancellation_at_the_moment_of_the_result_is_not_lost(number):
    async def main():
        inbox = asyncio.Queue()

        async def listen():
            while True:
                await within(60, inbox.get())

        task = asyncio.create_task(listen())
        await steps(5)
        inbox.put_nowait("sound")
        await steps(number)
        await ends(task)
        assert task.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("number", STEPS)
def test_an_outbox_ends_at_the_moment_when_a_message_is_sent(number):
    async def main():
        sent = asyncio.Event()
        outbox = Outbox(lambda text: sent.wait(), 60, 10_000)
        task = asyncio.create_task(outbox.run())
        outbox.put({"type": "echox.pong"})
        await steps(5)
        sent.set()
        await steps(number)
        await ends(task)

    asyncio.run(main())


@pytest.mark.skipif(importlib.util.find_spec("aiortc") is None, reason="aiortc is not installed")
@pytest.mark.parametrize("number", STEPS)
def test_a_call_ends_at_the_moment_when_sound_comes(number):
    import av

    from echox.serving.webrtc.call import Call

    async def main():
        frames = asyncio.Queue()
        call = Call(IceSettings(), Limits())
        track = SimpleNamespace(recv=frames.get)
        call._peer._transceiver = SimpleNamespace(receiver=SimpleNamespace(track=track))
        call._tasks.append(asyncio.create_task(call._until_lost(call._listen())))
        await steps(5)
        frame = av.AudioFrame(format="s16", layout="mono", samples=960)
        frame.sample_rate, frame.pts = 48000, 0
        frames.put_nowait(frame)
        await steps(number)
        done, _ = await asyncio.wait((asyncio.create_task(call.close()),), timeout=10)
        assert done, "the call still listens"

    asyncio.run(main())


def test_what_is_not_done_in_time_is_ended():
    async def main():
        ended = []

        async def work():
            try:
                await asyncio.Event().wait()
            finally:
                ended.append(True)

        with pytest.raises(asyncio.TimeoutError):
            await within(0.01, work())
        assert ended
        task = asyncio.create_task(within(None, work()))
        await steps(3)
        await ends(task)
        assert len(ended) == 2

    asyncio.run(main())


def test_results_and_errors_come_through():
    async def main():
        async def fails():
            raise KeyError("it")

        async def late():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "late"

        assert await within(60, asyncio.sleep(0, "done")) == "done"
        with pytest.raises(KeyError, match="it"):
            await within(60, fails())
        assert await within(0.01, late()) == "late"

    asyncio.run(main())
