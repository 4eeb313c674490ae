"""Limits of a server: too many clients, clients that disconnect, do not read or are silent; and its shutdown."""

import asyncio
import base64
import contextlib
import gc
import json
import threading
from collections import Counter

import numpy as np
import psutil
import pytest
import websockets

from echox.process_memory import release_free_memory
from echox.serving.access.admission import AdmissionQueue, AdmissionRefused, QueueTimeout
from echox.serving.service.outbox import Outbox, SlowReader
from serving_help import Client, Limits, check_event, connected, nano, question, running, user_text
from waiting import wait_until, wait_until_async

LONG = "Tell me what you know about Brazil?"


async def ask(client, text=LONG):
    await client.send("conversation.item.create", item=user_text(text))
    await client.send("response.create")


async def settled(server, timeout_s=20):
    """Wait until all sessions have ended and the model is idle."""

    def busy():
        return server.service.sessions or server.service.session_admission.num_admitted or nano().scheduler.num_running

    await wait_until_async(lambda: not busy(), "all sessions have ended", timeout_s)


def test_connections_over_the_limit_get_an_error_event():
    async def knock(server, kinds):
        async with websockets.connect(server.ws_url, open_timeout=30) as ws:
            event = check_event(await ws.recv())
            kinds.append(event["type"] if event["type"] != "error" else event["error"]["code"])
            with contextlib.suppress(websockets.ConnectionClosed):
                await ws.recv()
            kinds.append(ws.close_code)

    async def all_of(server):
        async with connected(server) as one, connected(server) as two:
            kinds = []
            await asyncio.gather(*(knock(server, kinds) for _ in range(100)))
            assert kinds.count("session_limit_reached") == 100
            assert kinds.count(1013) == 100
            for client in (one, two):  # and those inside did not notice
                await ask(client, "What is the capital of France?")
                done = await client.until("response.done")
                assert "Paris" in done["response"]["output"][0]["content"][0]["transcript"]
        await settled(server)
        async with connected(server):
            pass

    with running(nano(), Limits(max_sessions=2, max_waiting=4, wait_s=0.3)) as server:
        asyncio.run(all_of(server))
        assert "echox_refused_total" in server.service.metrics.text().decode()


def test_a_waiting_client_is_admitted_next():
    async def all_of(server):
        async with connected(server):
            waiting = asyncio.create_task(websockets.connect(server.ws_url).__aenter__())
            ws = await waiting
            greeting = asyncio.create_task(ws.recv())
            admission = server.service.session_admission
            await wait_until_async(lambda: admission.num_waiting == 1, "the second client waits")
            assert not greeting.done()
        assert check_event(await greeting)["type"] == "session.created"
        await ws.close()

    with running(nano(), Limits(max_sessions=1, wait_s=20)) as server:
        asyncio.run(all_of(server))


def used(process):
    """Memory, threads outside the pools (whose size is bounded, and which grow when needed), connections."""
    pools = ("echox-audio", "echox-decoding", "asyncio")
    threads = [one for one in threading.enumerate() if not one.name.startswith(pools)]
    return process.memory_info().rss, len(threads), len(process.net_connections())


@pytest.mark.parametrize("count", [12, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_clients_that_disconnect_during_a_reply_leave_nothing_behind(count):
    alone = nano().generate({"role": "user", "content": LONG}, speak=False).text

    async def vanish(server):
        ws = await websockets.connect(server.ws_url, max_size=None, open_timeout=60)
        client = Client(ws)
        await ask(client)
        await client.until("response.output_audio.delta", 60)
        ws.transport.abort()

    async def all_of(server):
        process = psutil.Process()
        async with connected(server) as steady:
            await asyncio.gather(*(vanish(server) for _ in range(4)))
            gc.collect()
            before = used(process)
            for _ in range(count // 4):
                await asyncio.gather(*(vanish(server) for _ in range(4)))
                await ask(steady)  # the others are unharmed
                done = await steady.until("response.done")
                assert done["response"]["output"][0]["content"][0]["transcript"] == alone
                for event in [e["item"] for e in steady.of("conversation.item.done")]:
                    await steady.send("conversation.item.delete", item_id=event["id"])
                    await steady.until("conversation.item.deleted")
                steady.events.clear()
            gc.collect()
            admission, scheduler = server.service.session_admission, nano().scheduler
            await wait_until_async(lambda: admission.num_admitted == 1 and not scheduler.num_running, "one is left")
            after = used(process)
            megabytes = [round(found[0] / 1e6) for found in (before, after)]
            print(f"{count} killed: memory {megabytes} MB, threads {before[1]} -> {after[1]}")
            assert after[0] - before[0] < 60e6
            assert after[1] <= before[1] + 2
            assert after[2] <= before[2] + 2
        await settled(server)

    with running(nano()) as server:
        asyncio.run(all_of(server))


def test_free_memory_is_returned_to_the_system(monkeypatch):
    if not release_free_memory():
        pytest.skip("this C library gives nothing back when asked")
    monkeypatch.setattr("echox.serving.service.service._RELEASE_MEMORY_S", 0.1)
    process = psutil.Process()
    with running(nano()):
        blocks = [np.ones(8000, np.float64) for _ in range(2000)]  # 128 MB, in pieces that glibc keeps to itself
        before = process.memory_info().rss  # the service gives back what is free at any moment from here on
        del blocks[::2]
        kept = blocks[::4]
        del blocks
        wait_until(lambda: before - process.memory_info().rss >= 60e6, f"less than {before / 1e6 - 60:.0f} MB")
        assert all(block[0] == 1 for block in kept)


def test_at_shutdown_replies_finish_and_clients_are_informed():
    async def all_of(server):
        async with connected(server) as client:
            await ask(client)
            await client.until("response.output_audio.delta")
            server.server.should_exit = True
            done = await client.until("response.done")
            assert done["response"]["status"] == "completed"
            await client.send("response.create")
            with pytest.raises(websockets.ConnectionClosed):
                while True:
                    await client.next()
            assert client.socket.close_code == 1012

    with running(nano()) as server:
        asyncio.run(all_of(server))


def test_at_shutdown_a_reply_that_takes_too_long_ends_with_response_done():
    async def all_of(server):
        async with connected(server) as client:
            await ask(client)
            await client.until("response.created")
            server.server.should_exit = True
            done = await client.until("response.done")
            assert done["response"]["status"] in ("cancelled", "completed")

    with running(nano(), Limits(drain_s=0)) as server:
        asyncio.run(all_of(server))


def test_a_session_ends_when_idle_or_too_long():
    async def idle(server):
        async with connected(server) as client:
            return (await client.until("error"))["error"]["code"]

    async def acting(server):
        async with connected(server) as client:
            with contextlib.suppress(websockets.ConnectionClosed):
                for _ in range(8):
                    await client.send("input_audio_buffer.clear")
                    await asyncio.sleep(0.2)  # fixed time: the client acts at this pace
            while client.events[-1]["type"] != "error":
                await client.next()
            return client.events[-1]["error"]["code"]

    with running(nano(), Limits(idle_s=0.5, max_session_s=60)) as server:
        assert asyncio.run(idle(server)) == "session_idle"
    with running(nano(), Limits(idle_s=20, max_session_s=1.2)) as server:
        assert asyncio.run(acting(server)) == "session_expired"


def test_a_message_that_is_too_long_closes_cleanly_and_a_full_buffer_is_an_error():
    async def all_of(server):
        async with connected(server, manual=True) as client:
            second = "A" * (48000 * 4 // 3)
            for _ in range(2):
                await client.send("input_audio_buffer.append", audio=second)
            await client.send("input_audio_buffer.append", audio=second, event_id="third")
            error = (await client.until("error"))["error"]
            assert (error["code"], error["event_id"]) == ("input_audio_buffer_full", "third")
            await client.socket.send("x" * 2_000_000)
            with pytest.raises(websockets.ConnectionClosed):
                await client.next()
            assert client.socket.close_code == 1009

    with running(nano(), Limits(max_message_bytes=1_000_000, max_buffer_s=2.5)) as server:
        asyncio.run(all_of(server))


def test_old_items_are_removed():
    async def all_of(server):
        async with connected(server) as client:
            for number in range(4):
                await client.send("conversation.item.create", item={**user_text("x"), "id": str(number)})
            assert (await client.until("conversation.item.deleted"))["item_id"] == "0"

    with running(nano(), Limits(max_items=3)) as server:
        asyncio.run(all_of(server))


def spoken(seconds, parts=1):
    sound = {"type": "input_audio", "audio": base64.b64encode(bytes(int(48000 * seconds))).decode()}
    return {"type": "message", "role": "user", "content": [sound] * parts}


def test_the_oldest_audio_is_removed_and_one_item_is_limited():
    async def all_of(server):
        async with connected(server) as client:
            for number in range(4):
                await client.send("conversation.item.create", item={**spoken(1), "id": str(number)})
            assert (await client.until("conversation.item.deleted"))["item_id"] == "0"
            await client.send("conversation.item.create", item=spoken(1, parts=3))
            assert (await client.until("error"))["error"]["code"] == "audio_too_long"
            await client.send("response.create", response={"input": [spoken(1)] * 4})
            assert (await client.until("error"))["error"]["code"] == "audio_too_long"
            text = {"type": "input_text", "text": "x" * 60}
            await client.send("conversation.item.create", item={**user_text("x"), "content": [text] * 2})
            assert (await client.until("error"))["error"]["code"] == "string_too_long"

    with running(nano(), Limits(max_buffer_s=2, max_history_s=3.5, max_text_chars=100)) as server:
        asyncio.run(all_of(server))


def test_replies_count_towards_the_item_limit():
    async def all_of(server):
        async with connected(server) as client:
            for _ in range(4):
                greeting = {"instructions": "Say hello.", "output_modalities": ["text"], "max_output_tokens": 1}
                await client.send("response.create", response=greeting)
                await client.until("response.done")
            (session,) = server.service.sessions
            assert len(session.conversation.items) == 2
            assert len(client.of("conversation.item.deleted")) == 2

    with running(nano(), Limits(max_items=2)) as server:
        asyncio.run(all_of(server))


def test_a_slow_reader_is_dropped():
    async def stuck(_):
        await asyncio.Event().wait()

    async def slow():
        outbox = Outbox(stuck, send_s=0.05, max_unsent_bytes=10_000)
        outbox.put({"type": "a"})
        with pytest.raises(SlowReader, match="not sent within"):
            await outbox.run()

    async def full():
        outbox = Outbox(stuck, send_s=60, max_unsent_bytes=1000)
        sending = asyncio.create_task(outbox.run())
        with pytest.raises(SlowReader, match="bytes wait"):
            for _ in range(100):
                outbox.put({"type": "x" * 50})
                await asyncio.sleep(0)
        outbox.put({"type": "nothing more"})
        sending.cancel()

    asyncio.run(slow())
    asyncio.run(full())


def test_a_client_that_reads_much_is_not_a_slow_reader():
    async def all_of(server):
        async with connected(server) as client:
            await client.send("conversation.item.create", item={**spoken(2), "id": "a"})
            for _ in range(20):  # 2.5 MB, of which 0.4 may wait
                await client.send("conversation.item.retrieve", item_id="a")
            for _ in range(20):
                await client.until("conversation.item.retrieved")

    with running(nano(), Limits(max_unsent_bytes=400_000)) as server:
        asyncio.run(all_of(server))


def test_many_short_recordings_do_not_fill_the_shared_queue(monkeypatch):
    """Of a session one recording and one window of a recording are transcribed at a time, whatever waits.

    Counted where the server asks for transcripts: the queue itself also has those that were cancelled or have ended,
    until the end of the model's round.
    """
    at_once, most = Counter(), Counter()

    async def all_of(server):
        transcribe = server.service.transcribe

        async def counted(audio, keep=True):
            kind = "recording" if keep else "window"
            at_once[kind] += 1
            most[kind] = max(most[kind], at_once[kind])
            try:
                return await transcribe(audio, keep)
            finally:
                at_once[kind] -= 1

        monkeypatch.setattr(server.service, "transcribe", counted)
        async with connected(server, manual=True) as client:
            audio = {"input": {"transcription": {"model": "x"}}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            sound = question(0)[:12000]
            for number in range(12):
                await client.say(sound + np.float32(1e-3) * number)
                await client.send("input_audio_buffer.commit")
            told = ("completed", "failed")
            while sum(event["type"].rsplit(".")[-1] in told for event in client.events) < 12:
                await client.next()

    with running(nano()) as server:
        asyncio.run(all_of(server))
    assert most["recording"] == 1
    assert most["window"] <= 1
    assert not any(at_once.values())


def test_interrupted_audio_is_not_sent():
    async def all_of():
        sent = []

        async def send(text):
            sent.append(json.loads(text)["type"])

        outbox = Outbox(send, 1, 10_000)
        for number in range(3):
            outbox.put({"type": f"sound {number}"}, audio_of="r")
        outbox.put({"type": "text"})
        outbox.drop_audio("r")
        work = asyncio.create_task(outbox.run())
        await outbox.wait_until_sent()
        work.cancel()
        assert sent == ["text"]

    asyncio.run(all_of())


def test_an_admission_queue_is_bounded_and_in_order():
    async def all_of():
        queue = AdmissionQueue(1, 2, 0.2)
        await queue.acquire()
        first = asyncio.create_task(queue.acquire())
        second = asyncio.create_task(queue.acquire())
        await wait_until_async(lambda: queue.num_waiting == 2, "both wait")
        with pytest.raises(AdmissionRefused):  # the queue is full
            await queue.acquire()
        queue.release()
        await first
        with pytest.raises(QueueTimeout):
            await second
        third = asyncio.create_task(queue.acquire())
        await wait_until_async(lambda: queue.num_waiting == 1, "the third waits")
        third.cancel()
        await asyncio.gather(third, return_exceptions=True)
        assert (queue.num_admitted, queue.num_waiting) == (1, 0)
        queue.release()
        assert queue.num_admitted == 0

    asyncio.run(all_of())


def test_the_request_timeout_does_not_close_websockets():
    async def talk(server):
        async with connected(server) as client:
            with pytest.raises(asyncio.TimeoutError):
                await client.next(4.0)  # body_s and the two seconds of grace are over
            await client.send("response.cancel")
            assert (await client.until("error"))["error"]["code"] == "response_cancel_not_active"

    with running(nano(), Limits(header_s=0.5, body_s=0.5)) as server:
        asyncio.run(talk(server))
