"""The parts of a call that need no network: offers, addresses, the paced loudspeaker, the microphone without holes."""

import asyncio
import importlib.util

import numpy as np
import pytest

from echox.serving.protocol.events import EventError
from echox.serving.protocol.limits import Limits
from echox.serving.realtime.transport import Disconnected
from echox.serving.service.outbox import Outbox
from echox.serving.webrtc.ice import IceSettings
from echox.serving.webrtc.microphone import FRAME_RATE, MAX_AHEAD_S, Microphone
from echox.serving.webrtc.offer import MAX_CHARS, MAX_CODECS, MAX_FEEDBACK, MAX_LINES, read_offer
from echox.serving.webrtc.playback import FRAME_S, FRAME_SAMPLES, TAIL_S, Playback

needs_aiortc = pytest.mark.skipif(
    importlib.util.find_spec("aiortc") is None, reason="aiortc is not installed (pip install 'echox[webrtc]')"
)
PLACE = {"response_id": "r", "item_id": "i", "output_index": 0, "content_index": 0}

# As Chromium 156 writes it, in short.
OFFER = """v=0
o=- 4611731400430051336 2 IN IP4 127.0.0.1
s=-
t=0 0
a=group:BUNDLE 0 1
a=extmap-allow-mixed
a=msid-semantic: WMS 1b2c
m=audio 9 UDP/TLS/RTP/SAVPF 111 63 0
c=IN IP4 0.0.0.0
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:1 1 udp 2113937151 192.168.7.9 51000 typ host generation 0
a=candidate:2 1 udp 2113937151 0d1c6d1f-0000-4d00-a000-000000000000.local 51001 typ host generation 0
a=candidate:3 1 tcp 1518280447 192.168.7.9 9 typ host tcptype active generation 0
a=ice-ufrag:h1rf
a=ice-pwd:ByHIsHl9dcMKZzFzQVkcxH5q
a=ice-options:trickle
a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08
a=setup:actpass
a=mid:0
a=sendrecv
a=msid:1b2c 3d4e
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 minptime=10;useinbandfec=1
a=rtpmap:63 red/48000/2
a=fmtp:63 111/111
a=rtpmap:0 PCMU/8000
m=application 9 UDP/DTLS/SCTP webrtc-datachannel
c=IN IP4 0.0.0.0
a=ice-ufrag:h1rf
a=ice-pwd:ByHIsHl9dcMKZzFzQVkcxH5q
a=ice-options:trickle
a=fingerprint:sha-256 7B:8B:F0:65:5F:78:E2:51:3B:AC:6F:F3:3F:46:1B:35:DC:B8:5F:64:1A:24:C2:43:F0:A1:58:D0:A1:2C:19:08
a=setup:actpass
a=mid:1
a=sctp-port:5000
a=max-message-size:262144
a=end-of-candidates
""".replace("\n", "\r\n")

# ---------------------------------------------------------------------------------------------- offers


@needs_aiortc
def test_nothing_is_sent_to_addresses_that_a_client_only_names():
    offer = read_offer(OFFER, with_candidates=False)
    assert offer.has_events
    assert offer.max_message_bytes == 262144
    assert "candidate" not in offer.sdp
    kept = read_offer(OFFER, with_candidates=True).sdp
    assert [line.split()[4] for line in kept.splitlines() if "candidate" in line] == ["192.168.7.9"]
    many = OFFER.replace("a=ice-options", "a=candidate:4 1 udp 1 10.0.0.1 5 typ host\r\n" * 40 + "a=ice-options", 1)
    assert read_offer(many, with_candidates=True).sdp.count("a=candidate") == 16


LINE_ENDS = [end for end in ["\r\n", *map(chr, range(0x3000))] if len(f"a{end}b".splitlines()) == 2]


def with_lines(*lines):
    """The offer with more lines about its sound."""
    return OFFER.replace("a=rtpmap:0 ", "\r\n".join([*lines, "a=rtpmap:0 "]))


WRONG = {
    "empty": "",
    "no SDP": "hello",
    "cut": OFFER[:900],
    "no media": OFFER[: OFFER.index("m=audio")],
    "no audio": OFFER[: OFFER.index("m=audio")] + OFFER[OFFER.index("m=application") :],
    "video": OFFER.replace("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "m=video 9 UDP/TLS/RTP/SAVPF 96"),
    "no Opus": OFFER.replace("opus/48000/2", "speex/16000"),
    "no fingerprint": OFFER.replace("a=fingerprint:sha-256", "a=x"),
    "weak fingerprint": OFFER.replace("a=fingerprint:sha-256", "a=fingerprint:md5"),
    "no role": OFFER.replace("a=setup:actpass\r\n", ""),
    "unknown role": OFFER.replace("a=setup:actpass", "a=setup:boss"),
    "no password": OFFER.replace("a=ice-pwd", "a=ice-p"),
    "short password": OFFER.replace("ByHIsHl9dcMKZzFzQVkcxH5q", "short"),
    "unbundled": OFFER.replace("a=group:BUNDLE 0 1\r\n", ""),
    "one mid twice": OFFER.replace("a=mid:1", "a=mid:0"),
    **{f"long, lines end with {end!r}": OFFER + f"a=x{end}" * MAX_LINES for end in LINE_ENDS},
    "many characters": OFFER + "a=" + "x" * MAX_CHARS,
    "a number that is none": OFFER.replace("a=rtpmap:111", "a=rtpmap:one"),
    "many codecs": with_lines(*["a=rtpmap:0 PCMU/8000"] * MAX_CODECS),
    "much feedback": with_lines(*["a=rtcp-fb:* nack"] * (MAX_FEEDBACK + 1)),
    "a codec that is not there": OFFER.replace("a=fmtp:63", "a=fmtp:64"),
}


@needs_aiortc
@pytest.mark.parametrize("name", WRONG)
def test_wrong_offers_are_refused_with_a_code(name):
    with pytest.raises(EventError, match="sdp: expected") as found:
        read_offer(WRONG[name], with_candidates=True)
    assert (found.value.code, found.value.param) == ("invalid_sdp", "sdp")


@needs_aiortc
def test_the_longest_offer_that_is_read_is_little_work(monkeypatch):
    """However an offer repeats itself, as many parts of it are made as few thousand lines would be."""
    import aiortc.sdp

    made = []
    feedback = aiortc.sdp.RTCRtcpFeedback
    monkeypatch.setattr(aiortc.sdp, "RTCRtcpFeedback", lambda **fields: made.append(1) or feedback(**fields))
    codecs = [f"a=rtpmap:{number} PCMU/8000" for number in range(64, 64 + MAX_CODECS - 3)]
    for line in ("a=rtcp-fb:* nack", "a=rtcp-fb:0 nack", "a=fmtp:0 x=1", "a=ssrc:1 cname:x", "a=extmap:1 x", "a=x"):
        count = min(MAX_FEEDBACK, MAX_LINES - 100)
        assert read_offer(with_lines(*codecs, *[line] * count), with_candidates=True).has_events
    assert len(made) <= 2 * MAX_CODECS * MAX_FEEDBACK


# ---------------------------------------------------------------------------------------------- addresses


def test_settings_of_ice_are_checked():
    IceSettings(("127.0.0.1",), ("stun:stun.example.org", "turn:turn.example.org:3478?transport=tcp"), "me", "secret")
    for servers, user, message in (
        (("turn:turn.example.org",), None, "user name"),
        (("http://example.org",), None, "expected stun:"),
        (("stun:a b",), None, "expected stun:"),
        (("stun:a", "stun:b"), None, "at most one"),
        (("turn:a", "turns:b"), "me", "at most one"),
    ):
        with pytest.raises(ValueError, match=message):
            IceSettings(servers=servers, username=user, password=user)
    with pytest.raises(ValueError, match="address to listen at"):
        IceSettings(())


@needs_aiortc
def test_no_address_is_offered_but_those_of_the_hosts(monkeypatch):
    import aioice.ice

    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["10.1.2.3"] if use_ipv4 else [])
    assert IceSettings(("127.0.0.1",)).addresses() == ["127.0.0.1"]
    assert "10.1.2.3" not in IceSettings(("localhost",)).addresses()
    assert IceSettings(("0.0.0.0", "127.0.0.1")).addresses() == ["10.1.2.3", "127.0.0.1"]
    assert IceSettings(("::",)).addresses() == ["::1"]
    with pytest.raises(ValueError, match="name or address of this machine"):
        IceSettings(("no-such-host.invalid",)).addresses()


# ---------------------------------------------------------------------------------------------- the loudspeaker


class Loudspeaker:
    """A playback whose frames are taken by hand, and the events that it sends."""

    def __init__(self):
        self.now_s, self.sent, self.events = 0.0, [], []
        self.playback = Playback()

        async def nowhere(text):
            pass

        self.outbox = Outbox(nowhere, 1.0, 10**6)
        put = self.outbox.put
        self.outbox.put = lambda event, **options: (self.events.append(event), put(event, **options))

    def speech(self, name):
        return self.playback.speech(name, 48000, self.outbox)

    def play(self, duration_s):
        for _ in range(round(duration_s / FRAME_S)):
            frame = self.playback.next_frame(self.now_s)
            self.sent.append(frame)
            self.now_s += FRAME_S

    @property
    def told(self):
        return [(event["type"].split(".")[1], event["response_id"]) for event in self.events]


def tone(duration_s, level=0.5):
    return np.full(int(48000 * duration_s), level, np.float32)


def test_speech_is_played_in_real_time_one_response_after_the_other():
    async def go():
        room = Loudspeaker()
        first, second = room.speech("a"), room.speech("b")
        first.add(tone(0.11), PLACE)
        second.add(tone(0.1, -0.5), PLACE)
        room.play(0.06)
        assert room.told == [("started", "a")]
        assert first.heard_s(room.now_s) == pytest.approx(0.06)
        assert first.sent_s == pytest.approx(0.11)
        assert first.playing(room.now_s)
        second.end()
        room.play(0.1)
        assert room.told == [("started", "a")]  # its end is not known, so the other one waits
        assert first.underruns == 1
        assert first.heard_s(room.now_s) == pytest.approx(0.1)  # what is less than a frame is held back
        first.end()
        room.play(0.2)
        assert room.told == [("started", "a"), ("stopped", "a"), ("started", "b"), ("stopped", "b")]
        sound = np.concatenate([frame for frame in room.sent if frame is not None and frame.any()])
        assert (sound > 0).sum() == int(48000 * 0.11)
        assert (sound < 0).sum() == int(48000 * 0.1)
        assert second.playing(room.now_s)  # on its way to the ear
        room.play(TAIL_S)
        assert not second.playing(room.now_s)
        assert second.underruns == 0

    asyncio.run(go())


def test_speech_that_is_stopped_is_cleared_and_what_was_sent_was_heard():
    async def go():
        room = Loudspeaker()
        playing, waiting = room.speech("a"), room.speech("b")
        playing.add(tone(1.0), PLACE)
        waiting.add(tone(1.0), PLACE)
        playing.end()
        room.play(0.3)
        for speech in (playing, waiting):
            speech.stop(room.now_s)
        assert room.told == [("started", "a"), ("cleared", "a")]  # the client knows nothing of the other
        waiting.add(tone(1.0), PLACE)  # the model needs a moment to stop
        room.play(0.5)
        assert playing.heard_s(room.now_s) == playing.sent_s == pytest.approx(0.3)
        assert waiting.heard_s(room.now_s) == 0
        assert not playing.playing(room.now_s)
        assert not any(frame is not None and frame.any() for frame in room.sent[15:])
        assert len(room.told) == 2

    asyncio.run(go())


def test_little_is_sent_in_silence():
    async def go():
        room = Loudspeaker()
        speech = room.speech("a")
        speech.add(tone(0.2), PLACE)
        speech.end()
        room.play(10.0)
        assert sum(frame is not None for frame in room.sent) == pytest.approx(10 + 10 + 10 / 0.4, abs=2)
        assert all(len(frame) == FRAME_SAMPLES for frame in room.sent if frame is not None)

    asyncio.run(go())


# ---------------------------------------------------------------------------------------------- the microphone


def frames(count, begin=0, level=0.5):
    return [(np.full(960, level, np.float32), 960 * (begin + number)) for number in range(count)]


def received(microphone, *found, now_s):
    return np.concatenate([microphone.hear(frame, at, now_s) for frame, at in found])


def test_lost_frames_are_silence_of_the_same_length():
    microphone = Microphone(0.0)
    sound = received(microphone, *frames(50), *frames(50, begin=75), now_s=3.0)
    assert len(sound) / 16000 == pytest.approx(2.5, abs=0.05)
    assert np.abs(sound[17000:23000]).max() < 0.01
    assert sound[30000:38000].min() > 0.45


@pytest.mark.parametrize("counts", [True, False])
def test_a_client_that_sends_nothing_is_silent_and_its_time_is_counted_once(counts):
    """Whether its timestamps go on meanwhile, or not (Chromium), and however late the server notices."""
    microphone, sound, now_s, at = Microphone(0.0), 0, 10.0, 0
    assert not len(microphone.miss(10.0))  # nothing has come at all
    for _ in range(3):
        for frame, _ in frames(50):
            now_s += FRAME_S
            sound += len(microphone.hear(frame, at, now_s))
            at += len(frame)
        for _ in range(290):  # half a minute
            now_s += 0.103
            sound += len(microphone.miss(now_s))
        now_s += 0.09
        at += counts * int((290 * 0.103 + 0.09) * FRAME_RATE)
        assert sound / 16000 == pytest.approx(now_s - 10.0, abs=0.15)


def test_sound_that_comes_late_does_not_put_a_call_ahead_of_its_time():
    microphone, sound, now_s, found = Microphone(0.0), 0, 10.0, iter(frames(1000))

    def talk(count, step_s=FRAME_S):
        nonlocal sound, now_s
        for _ in range(count):
            now_s += step_s
            sound += len(microphone.hear(*next(found), now_s))

    for _ in range(5):
        talk(50)
        for _ in range(5):  # the network, or the server, stands still
            now_s += 0.1
            sound += len(microphone.miss(now_s))
        talk(25, 0.0)
        for _ in range(10):  # nothing was sent
            now_s += 0.1
            sound += len(microphone.miss(now_s))
        assert sound / 16000 == pytest.approx(now_s - 10.0, abs=0.05)


def test_a_server_that_was_stopped_catches_up_in_steps():
    microphone = Microphone(0.0)
    received(microphone, *frames(1), now_s=1.0)
    steps = [len(microphone.miss(3601.0)) / 16000 for _ in range(1300)]
    assert max(steps) <= 3.1
    assert sum(steps) == pytest.approx(3600, abs=0.1)


def test_more_sound_than_time_is_dropped():
    microphone = Microphone(0.0)
    sound = received(microphone, *frames(1000), now_s=1.0)
    assert len(sound) / 16000 <= 1.0 + MAX_AHEAD_S
    far = [(frame, 2**31 + at) for frame, at in frames(5)]
    assert len(received(microphone, *far, now_s=1.5)) / 16000 <= 0.6
    assert FRAME_RATE == 48000


@needs_aiortc
def test_opus_sounds_as_it_was():
    import av

    from echox.serving.webrtc.opus import OpusEncoder

    encoder, decoder = OpusEncoder(), av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout, decoder.format = 48000, "mono", "s16"
    wave = (0.3 * np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)).astype(np.float32)
    packets = [encoder.encode(wave[start : start + FRAME_SAMPLES]) for start in range(0, 48000, FRAME_SAMPLES)]
    assert max(map(len, packets)) < 400
    back = np.concatenate(
        [frame.to_ndarray()[0] / 32768 for data in packets for frame in decoder.decode(av.Packet(data))]
    )
    spectrum = np.abs(np.fft.rfft(back[9600:33600]))
    assert spectrum.argmax() * 2 == 440
    assert np.abs(back[9600:]).max() == pytest.approx(0.3, abs=0.05)


# ---------------------------------------------------------------------------------------------- packets without end


class Ice:
    """ICE of a server on a socket that sends nowhere, and its guard."""

    def __init__(self):
        from aioice import Candidate, Connection
        from aioice.ice import StunProtocol

        from echox.serving.webrtc.packet_guard import PacketGuard

        self.connection, self.excesses, self.now_s = Connection(ice_controlling=False), [], 0.0
        self.connection.remote_username, self.connection.remote_password = "them", "p" * 22
        self.connection._early_checks_done = True
        self.protocol = StunProtocol(self.connection)
        self.protocol.local_candidate = Candidate("1", 1, "udp", 1, "127.0.0.1", 9, "host")
        self.protocol.transport = self
        self.connection._protocols.append(self.protocol)
        self.guard = PacketGuard(self.connection, self.excesses.append, lambda: self.now_s)

    def sendto(self, data, addr):
        pass

    def check(self, port, known=True):
        """A check of connectivity from a port, by somebody who knows the secret of the answer, or not."""
        from aioice import stun

        check = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
        check.attributes["USERNAME"] = f"{self.connection.local_username}:them"
        check.attributes["PRIORITY"] = 1
        check.add_message_integrity((self.connection.local_password if known else "x" * 22).encode())
        self.protocol.datagram_received(bytes(check), ("127.0.0.1", port))

    async def stop(self):
        for pair in self.connection._check_list:
            pair.task.cancel()
        await asyncio.gather(*(pair.task for pair in self.connection._check_list), return_exceptions=True)


@needs_aiortc
def test_checks_from_ever_new_addresses_end_the_call():
    from echox.serving.webrtc.packet_guard import MAX_ADDRESSES

    async def flood():
        ice = Ice()
        for port in range(1000, 1000 + 3 * MAX_ADDRESSES):
            for _ in range(3):  # browsers repeat their checks
                ice.check(port)
            assert bool(ice.excesses) == (port >= 1000 + MAX_ADDRESSES)
        assert len(ice.connection._remote_candidates) == MAX_ADDRESSES + 1  # nothing more was read
        assert len(ice.excesses) == 1
        await ice.stop()

    asyncio.run(flood())


@needs_aiortc
def test_strangers_who_send_from_many_addresses_end_no_call():
    async def knock():
        ice = Ice()
        for port in range(1000, 1200):
            ice.check(port, known=False)
        assert not ice.excesses
        assert not ice.connection._remote_candidates

    asyncio.run(knock())


@needs_aiortc
@pytest.mark.parametrize(
    "packet", [b"\x80" + bytes(30), b"", bytes(20), b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12)]
)
def test_more_packets_than_any_call_needs_end_it_whatever_they_are(packet):
    from echox.serving.webrtc.packet_guard import PACKETS_AT_ONCE, PACKETS_PER_S

    async def flood():
        ice = Ice()
        for second in range(10):
            ice.now_s = second
            for _ in range(PACKETS_PER_S // 4):
                ice.protocol.datagram_received(packet, ("127.0.0.1", 5))
        assert not ice.excesses
        for _ in range(PACKETS_AT_ONCE + PACKETS_PER_S * 10):
            ice.protocol.datagram_received(packet, ("127.0.0.1", 5))
        assert ice.excesses == ["too many packets"]

    asyncio.run(flood())


# ---------------------------------------------------------------------------------------------- messages without end


def sctp_of_a_server():
    """SCTP without a network: what it would send is dropped; the messages that it has put together; its excesses."""
    from aiortc import RTCSctpTransport

    from echox.serving.webrtc.data_guard import DataGuard

    class Nowhere:
        state = "connected"

        async def _send_data(self, data):
            pass

    sctp, messages, excesses = RTCSctpTransport(Nowhere()), [], []
    sctp._remote_port, sctp._last_received_tsn = 5000, 0

    async def keep(stream_id, kind, data):
        messages.append(data)

    sctp._receive = keep
    DataGuard(sctp, excesses.append)
    return sctp, messages, excesses


async def give(sctp, tsn, size, flags=0, stream_id=1, sequence=0):
    """Let a fragment come."""
    from aiortc.rtcsctptransport import DataChunk, serialize_packet

    chunk = DataChunk(flags=flags)
    chunk.tsn, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data = (
        tsn,
        stream_id,
        sequence,
        51,
        bytes(size),
    )
    await sctp._handle_data(serialize_packet(5000, 5000, sctp._local_verification_tag, chunk))


LAST, FIRST, UNORDERED = 1, 2, 4
WITHOUT_END = {
    "of full packets": (lambda n: {"tsn": n, "size": 1160, "flags": FIRST * (n == 1)}, 262_144 // 1160 + 1),
    "of tiny fragments": (lambda n: {"tsn": n, "size": 1, "flags": FIRST * (n == 1)}, 1025),
    "whose begin is lost": (lambda n: {"tsn": n + 1, "size": 1160}, 262_144 // 1160 + 1),
    "messages after a lost one": (lambda n: {"tsn": n + 1, "size": 9, "flags": FIRST | LAST, "sequence": n}, 1025),
    "unordered, with holes": (lambda n: {"tsn": 2 * n, "size": 9, "flags": FIRST | LAST | UNORDERED}, 1025),
    "on many streams": (lambda n: {"tsn": n, "size": 9, "flags": FIRST, "stream_id": n}, 17),
}


@needs_aiortc
@pytest.mark.parametrize("name", WITHOUT_END)
def test_what_never_ends_is_cut_off_while_it_comes(name):
    fragment, most = WITHOUT_END[name]

    async def receive():
        sctp, _, excesses = sctp_of_a_server()
        for count in range(1, 2 * most):
            await give(sctp, **fragment(count))
            assert bool(excesses) == (count >= most)
        assert len(excesses) == 1
        assert not sctp._inbound_streams  # nothing of it is kept

    asyncio.run(receive())


@needs_aiortc
def test_long_messages_come_whole_also_after_a_lost_packet():
    async def receive():
        sctp, messages, excesses = sctp_of_a_server()
        fragments = 220  # nearly 256 KiB, three times
        for tsn in range(2, 3 * fragments + 1):
            place = (tsn - 1) % fragments
            flags = FIRST * (place == 0) | LAST * (place == fragments - 1)
            await give(sctp, tsn, 1160, flags, sequence=(tsn - 1) // fragments)
        assert not messages
        await give(sctp, 1, 1160, FIRST)
        assert [len(message) for message in messages] == [1160 * fragments] * 3
        assert not excesses

    asyncio.run(receive())


@needs_aiortc
@pytest.mark.parametrize("message", ["", "A", b"A", "\U0001f600" * 1000, np.zeros(320, np.float32)])
def test_what_a_session_has_no_time_for_is_bounded_and_ends_the_call(message):
    from echox.serving.webrtc.call import Call

    async def flood():
        call = Call(IceSettings(), Limits(max_message_bytes=100_000))
        count, most = 0, 100_000 // 30  # the shortest message takes 33 bytes
        while not call._peer.lost.is_set() and count <= most:
            call._put(message)
            count += 1
        assert count <= most
        with pytest.raises(Disconnected):
            await call.receive()
        await call.close()

    asyncio.run(flood())
