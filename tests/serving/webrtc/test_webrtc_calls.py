"""Calls over WebRTC on a real server with nano: an aiortc client over loopback, every event checked."""

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess

import httpx
import numpy as np
import pytest

pytest.importorskip("aiortc", reason="aiortc is not installed (pip install 'echox[webrtc]')")
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtcsctptransport import SCTP_DATA_FIRST_FRAG, WEBRTC_STRING, DataChunk, tsn_plus_one

from call_client import RATE, Microphone, called, offer_of, on_loopback, post
from echox.serving.access.security import AccessPolicy
from echox.serving.protocol.limits import Limits
from echox.serving.webrtc.ice import IceSettings
from serving_help import ENVELOPE, Running, connected, nano, order, question, run, running, user_text
from waiting import wait_until_async

LONG = "Tell me what you know about Brazil?"
SPOKEN = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    *ENVELOPE,
]


@pytest.fixture(autouse=True)
def loopback(monkeypatch):
    on_loopback(monkeypatch)


@pytest.fixture(scope="module")
def server():
    with running(nano(), ice=IceSettings()) as found:
        yield found


async def freed(server, timeout_s=30):
    service = server.service
    await wait_until_async(
        lambda: not service.sessions and not service.session_admission.num_admitted, "the call is over", timeout_s
    )


@contextlib.asynccontextmanager
async def offering():
    """A client that makes an offer, and perhaps never connects; and its offer."""
    peer = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    peer.addTrack(Microphone())
    peer.createDataChannel("oai-events")
    try:
        yield peer, await offer_of(peer)
    finally:
        await peer.close()


async def hang_up(server, location):
    async with httpx.AsyncClient(timeout=30) as http:
        return await http.post(f"{server.url}{location}/hangup")


async def ask(client, text=LONG):
    await client.send("conversation.item.create", item=user_text(text))
    await client.send("response.create")


# ---------------------------------------------------------------------------------------------- conversations


@pytest.mark.slow
def test_a_spoken_question_is_answered_aloud(server):
    async def talk():
        async with called(server, audio={"input": {"transcription": {"model": "x"}}}) as client:
            assert re.fullmatch(r"/v1/realtime/calls/rtc_\w+", client.location)
            assert client.events[0]["session"]["audio"]["input"]["transcription"] == {"model": "x"}
            await client.speak(question(0, RATE, lead_s=0.3))
            await client.until("output_audio_buffer.stopped", 120)
            played = [event for event in client.events if event["type"].startswith("output_audio_buffer")]
            others = [event for event in client.events[1:] if event not in played]
            kinds = [event["type"] for event in others]
            assert [kind for kind in order(others) if "transcription" not in kind] == SPOKEN
            assert "response.output_audio.delta" not in kinds  # it comes as sound
            (response,) = (event["response"] for event in client.of("response.done"))
            assert [event["type"].split(".")[1] for event in played] == ["started", "stopped"]
            assert {event["response_id"] for event in played} == {response["id"]}
            heard = client.of("conversation.item.input_audio_transcription.completed")[0]["transcript"]
            assert "Brazil" in heard
            alone = await asyncio.to_thread(nano().session().reply, question(0, 16000), sampling_rate=16000)
            assert response["output"][0]["content"][0]["transcript"] == alone.text
            await wait_until_async(lambda: client.loud_s > 0.6 * alone.duration_s, "the reply was heard", 20)
            assert client.loud_s <= alone.duration_s + 0.2
        await freed(server)

    run(talk(), 240)


@pytest.mark.slow
def test_an_interruption_stops_the_sound_and_cuts_the_text_to_what_was_sent(server):
    async def talk():
        async with called(server) as client:
            await ask(client)
            await client.until("output_audio_buffer.started", 60)
            await wait_until_async(lambda: client.loud_s > 0.8, "the reply is heard", 60)
            speaking = asyncio.create_task(client.speak(question(2, RATE)))
            await client.until("output_audio_buffer.cleared", 30)
            cleared_at = asyncio.get_running_loop().time()
            await speaking
            await client.until("output_audio_buffer.stopped", 120)
            first, second = client.of("response.created")
            assert client.of("output_audio_buffer.cleared")[0]["response_id"] == first["response"]["id"]
            assert client.of("output_audio_buffer.stopped")[0]["response_id"] == second["response"]["id"]
            between = [at for at, samples in client.frames if at > cleared_at + 0.3 and np.abs(samples).max() > 0.01]
            again = client.of("output_audio_buffer.started")
            assert len(again) == 2
            assert between, "the second reply was heard"
            item_id = client.of("response.output_item.done")[0]["item"]["id"]
            await client.send("conversation.item.retrieve", item_id=item_id)
            kept = (await client.until("conversation.item.retrieved"))["item"]["content"][0]["transcript"]
            said = "".join(
                event["delta"]
                for event in client.of("response.output_audio_transcript.delta")
                if event["item_id"] == item_id
            )
            assert said.startswith(kept.rstrip(". "))
            assert len(kept) < len(said)
            truncated = client.of("conversation.item.truncated")
            if truncated:  # it had been written to its end
                assert 500 <= truncated[0]["audio_end_ms"] <= 5000

    run(talk(), 240)


@pytest.mark.slow
def test_a_client_clears_what_is_played(server):
    async def talk():
        async with called(server) as client:
            await client.send("output_audio_buffer.clear")  # there is nothing: no event, no error
            await ask(client)
            await client.until("output_audio_buffer.started", 60)
            await wait_until_async(lambda: client.loud_s > 0.3, "the reply is heard", 60)
            await client.send("response.cancel")
            await client.send("output_audio_buffer.clear")
            while not client.of("output_audio_buffer.cleared"):  # an error comes first if the reply is all made
                await client.next(30)
            before = client.loud_s
            truncated = client.of("conversation.item.truncated")
            assert len(truncated) == 1
            assert 300 <= truncated[0]["audio_end_ms"] < 4000
            await asyncio.sleep(1.0)  # fixed time: nothing more is heard in it
            assert client.loud_s - before < 0.4
            await ask(client, "What is the capital of France?")
            await client.until("output_audio_buffer.stopped", 60)
            assert [event["error"]["code"] for event in client.of("error")] in ([], ["response_cancel_not_active"])

    run(talk(), 240)


# ---------------------------------------------------------------------------------------------- ends


@pytest.mark.parametrize("how", ["leaves", "lost", "hung up", "never comes"])
def test_a_call_that_is_over_frees_everything(how):
    async def talk(server):
        if how == "never comes":
            async with offering() as (_, offer):
                for _ in range(2):
                    assert (await post(server, offer)).status_code == 201
                    assert server.service.session_admission.num_admitted == 1
                    await freed(server)
            return
        async with called(server) as client:
            assert len(server.service.sessions) == 1
            if how == "lost":
                await ask(client)
                await client.until("response.created")
                for protocol in client.peer.getSenders()[0].transport.transport._connection._protocols:
                    protocol.transport.abort()
                await freed(server)
            elif how == "hung up":
                assert (await hang_up(server, client.location)).status_code == 200
                await freed(server)
                gone = await hang_up(server, client.location)
                assert (gone.status_code, gone.json()["error"]["code"]) == (404, "call_not_found")
                await wait_until_async(lambda: client.peer.connectionState == "closed", "the client knows", 20)
        await freed(server)
        assert server.service.model.scheduler.num_running == 0

    with running(
        nano(), Limits(lost_s=1.5, connect_s=1.0 if how == "never comes" else 30), ice=IceSettings()
    ) as server:
        run(talk(server), 120)


def test_an_open_microphone_does_not_keep_an_idle_call():
    async def talk(server):
        async with called(server) as client:
            assert (await client.until("error", 60))["error"]["code"] == "session_idle"
            await freed(server)

    with running(nano(), Limits(idle_s=1.5), ice=IceSettings()) as server:
        run(talk(server), 120)


@pytest.mark.slow
def test_at_shutdown_a_reply_is_played_to_its_end():
    async def talk(server):
        async with called(server) as client:
            await ask(client, "What is the capital of France?")
            await client.until("output_audio_buffer.started", 60)
            server.server.should_exit = True
            await client.until("output_audio_buffer.stopped", 60)
            async with offering() as (_, offer):
                assert (await post(server, offer)).json()["error"]["code"] == "server_shutting_down"

    with running(nano(), ice=IceSettings()) as server:
        run(talk(server), 120)


# ---------------------------------------------------------------------------------------------- refusals and limits


def test_what_is_no_offer_is_refused_with_a_code(server):
    async def knock():
        async with offering() as (_, good):
            pass
        address = f"{server.url}/v1/realtime/calls"
        async with httpx.AsyncClient(timeout=30) as http:

            async def refusal(**request):
                found = await http.post(address, **request)
                return found.status_code, found.json()["error"]["code"]

            sdp = {"Content-Type": "application/sdp"}
            assert await refusal(content="hello", headers=sdp) == (400, "invalid_sdp")
            assert await refusal(content=b"\xff", headers=sdp) == (400, "invalid_sdp")
            assert await refusal(content=good[: len(good) // 2], headers=sdp) == (400, "invalid_sdp")
            assert await refusal(content=good, headers={"Content-Type": "text/plain"}) == (
                415,
                "unsupported_media_type",
            )
            assert await refusal(json={"sdp": good}) == (415, "unsupported_media_type")
            assert await refusal(files={"session": (None, "{}")}) == (400, "missing_required_parameter")
            form = {"sdp": (None, good), "session": (None, '{"output_modalities": ["smell"]}')}
            assert await refusal(files=form) == (400, "invalid_value")
            assert await refusal(files={**form, "session": (None, "[]")}) == (400, "invalid_json")
            assert (await http.get(address)).status_code == 405
        assert server.service.session_admission.num_admitted == 0

    run(knock())


def test_a_full_server_refuses_and_takes_the_next_call_when_one_has_ended():
    async def knock(server):
        async with called(server):
            async with offering() as (_, offer):
                found = await post(server, offer)
            assert (found.status_code, found.json()["error"]["code"]) == (503, "session_limit_reached")
            assert found.headers["retry-after"]
        await freed(server)
        async with called(server):
            pass

    with running(nano(), Limits(max_sessions=1, max_waiting=0), ice=IceSettings()) as server:
        run(knock(server), 120)


def test_a_client_that_leaves_while_it_waits_for_a_place_gets_none():
    async def knock(server):
        places = server.service.session_admission
        async with connected(server), offering() as (_, offer):
            waiting = asyncio.create_task(post(server, offer))
            await wait_until_async(lambda: places.num_waiting == 1, "it waits")
            waiting.cancel()
            await wait_until_async(lambda: places.num_waiting == 0, "nobody waits")
        await freed(server)

    with running(nano(), Limits(max_sessions=1, wait_s=100), ice=IceSettings()) as server:
        run(knock(server), 60)


def test_a_retrieved_item_that_is_too_long_for_the_client_comes_without_its_sound():
    """@openai/agents retrieves each turn after its transcript; 262,144 bytes are four seconds of sound."""

    async def talk(server):
        quiet = {"input": {"turn_detection": None, "transcription": {"model": "x"}}}
        async with called(server, audio=quiet) as client:
            for sound, whole in ((question(0)[-36000:], True), (question(0, tail_s=6.0), False)):
                await client.send("input_audio_buffer.clear")  # of what the microphone has heard
                await client.until("input_audio_buffer.cleared")
                await client.say(sound, chunk_s=1.0)
                await client.send("input_audio_buffer.commit")
                item_id = (await client.until("input_audio_buffer.committed"))["item_id"]
                done = await client.until("conversation.item.input_audio_transcription.completed", 60)
                await client.send("conversation.item.retrieve", item_id=item_id, event_id="r")
                (content,) = (await client.until("conversation.item.retrieved"))["item"]["content"]
                assert content["transcript"] == done["transcript"]
                assert ("audio" in content) == whole
        await freed(server)

    with running(nano(), ice=IceSettings()) as server:  # others have stopped the model that all share
        run(talk(server), 120)


@pytest.mark.parametrize("fragment_bytes", [1160, 1])
def test_a_message_without_end_ends_the_call(server, fragment_bytes):
    async def talk():
        async with called(server) as client:
            sctp, stream_id = client.peer.sctp, client.socket.channel.id
            chunk = DataChunk(flags=SCTP_DATA_FIRST_FRAG)
            chunk.tsn, chunk.stream_id, chunk.stream_seq = sctp._local_tsn, stream_id, 0
            chunk.protocol, chunk.user_data = WEBRTC_STRING, b"A" * fragment_bytes
            with contextlib.suppress(ConnectionError):  # it waits for no acknowledgement, and for no window
                while server.service.sessions:
                    await sctp._send_chunk(chunk)
                    chunk.flags, chunk.tsn = 0, tsn_plus_one(chunk.tsn)
                    await asyncio.sleep(0.001)  # fixed time: the pace of a client that sends and sends
            await freed(server)

    run(talk(), 120)


def test_the_answer_names_no_address_but_those_of_the_server(server):
    async def knock():
        async with offering() as (_, offer):
            found = await post(server, offer)
        answer = found.text
        assert set(re.findall(r"\d+\.\d+\.\d+\.\d+", answer)) <= {"127.0.0.1", "0.0.0.0"}
        candidates = re.findall(r"a=candidate:.*", answer)
        assert candidates
        assert all(" 127.0.0.1 " in line and "typ host" in line for line in candidates)
        assert "opus/48000/2" in answer
        assert "PCMU" not in answer
        await hang_up(server, found.headers["location"])
        await freed(server)

    run(knock())


class StunServer(asyncio.DatagramProtocol):
    """Tells everybody the same public address."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        from aioice import stun

        request = stun.parse_message(data)
        answer = stun.Message(request.message_method, stun.Class.RESPONSE, transaction_id=request.transaction_id)
        answer.attributes["XOR-MAPPED-ADDRESS"] = ("203.0.113.5", 40000)
        self.transport.sendto(bytes(answer), addr)


def test_a_stun_server_adds_the_public_address_and_hides_the_servers_own_behind_it():
    async def knock():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(StunServer, local_addr=("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        ice = IceSettings(servers=(f"stun:127.0.0.1:{port}",))
        server = await asyncio.to_thread(Running, nano(), ice=ice)
        try:
            async with offering() as (_, offer):
                found = await post(server, offer)
        finally:
            await asyncio.to_thread(server.stop)
            transport.close()
        (line,) = set(re.findall(r"a=candidate:.*srflx.*", found.text))
        assert " 203.0.113.5 40000 typ srflx raddr 0.0.0.0 rport 9" in line

    run(knock())


@contextlib.contextmanager
def turn_server(folder):
    """A relay on a free port of loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    here = [f"--{what}=127.0.0.1" for what in ("listening-ip", "relay-ip")]
    files = ["--log-file=stdout", f"--pidfile={folder / 'pid'}", f"--userdb={folder / 'users'}"]
    user = ["--lt-cred-mech", "--user=me:secret", "--realm=test", "--allow-loopback-peers"]
    command = ["turnserver", "-n", "--no-cli", "--no-tls", "--no-dtls", f"--listening-port={port}"]
    with subprocess.Popen([*command, *here, *user, *files], stdout=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("turnserver") is None, reason="turnserver is not installed (apt install coturn)")
@pytest.mark.parametrize("way", ["udp", "tcp"])
def test_a_call_goes_through_a_turn_server(tmp_path, way):
    async def talk(server):
        async with offering() as (peer, offer):
            answer = (await post(server, offer)).text
            relayed = [line for line in answer.splitlines() if not ("a=candidate" in line and "typ relay" not in line)]
            assert any("typ relay raddr 0.0.0.0 rport 9" in line for line in relayed)
            await peer.setRemoteDescription(RTCSessionDescription("\r\n".join(relayed) + "\r\n", "answer"))
            await wait_until_async(lambda: server.service.sessions, "the call has begun", 30)
        await freed(server)

    with turn_server(tmp_path) as port:
        ice = IceSettings(servers=(f"turn:127.0.0.1:{port}?transport={way}",), username="me", password="secret")
        with running(nano(), ice=ice) as server:
            run(talk(server), 120)


def test_a_server_without_webrtc_says_so():
    with running(nano()) as server:
        found = httpx.post(
            f"{server.url}/v1/realtime/calls", content="v=0", headers={"Content-Type": "application/sdp"}
        )
        assert (found.status_code, found.json()["error"]["code"]) == (501, "webrtc_unavailable")
        assert httpx.get(f"{server.url}/about.json").json()["webrtc"] is False


# ---------------------------------------------------------------------------------------------- keys


def test_a_client_secret_opens_calls_until_it_expires_and_nothing_else(monkeypatch):
    async def knock(server):
        async with httpx.AsyncClient(timeout=30, headers={"Authorization": "Bearer secret"}) as http:
            body = {"session": {"type": "realtime", "instructions": "Be brief."}, "expires_after": {"seconds": 60}}
            made = await http.post(f"{server.url}/v1/realtime/client_secrets", json=body)
            key = made.json()["value"]
        async with offering() as (_, offer):
            pass
        assert (await post(server, offer)).status_code == 401
        async with called(server, key) as client:
            assert client.events[0]["session"]["instructions"] == "Be brief."
            async with httpx.AsyncClient(headers={"Authorization": f"Bearer {key}"}) as http:
                for path in (f"{client.location}/hangup", "/v1/chat/completions", "/v1/realtime/client_secrets"):
                    refused = await http.post(server.url + path, json={})
                    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "client_secret_scope")
                assert (await http.get(f"{server.url}/v1/realtime/calls")).status_code == 403
        async with called(server, key, instructions="Be long.") as client:
            assert client.events[0]["session"]["instructions"] == "Be long."
        async with called(server, key) as client:  # one call does not change another
            assert client.events[0]["session"]["instructions"] == "Be brief."
        monkeypatch.setattr(server.service.client_secrets, "_clock", lambda: 2**40)
        expired = await post(server, offer, key)
        assert (expired.status_code, expired.json()["error"]["code"]) == (401, "invalid_client_secret")

    with running(nano(), policy=AccessPolicy("secret"), ice=IceSettings()) as server:
        run(knock(server), 120)


def test_the_stock_client_makes_and_ends_a_call(server):
    from openai import AsyncOpenAI

    async def talk():
        client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any")
        async with client, offering() as (peer, offer):
            session = {"type": "realtime", "instructions": "Be brief."}
            response = await client.realtime.calls.create(sdp=offer, session=session)
            call_id = response.response.headers["location"].rpartition("/")[2]
            await peer.setRemoteDescription(RTCSessionDescription(response.text, "answer"))
            await wait_until_async(lambda: len(server.service.sessions) == 1, "the call has begun", 30)
            await client.realtime.calls.hangup(call_id)
            await freed(server)

    run(talk(), 120)
