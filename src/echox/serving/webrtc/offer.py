"""The SDP offer of a client: checked before anything is made of it, and rid of what the server must not follow.

Source: RFC 8866 (SDP), RFC 9429 (JSEP), RFC 8839 (ICE in SDP), RFC 8841 (data channels in SDP).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from echox.serving.protocol.events import EventError, shorten

if TYPE_CHECKING:
    from aiortc.sdp import MediaDescription, SessionDescription

MAX_CHARS = 64_000
MAX_LINES = 500
"""As aiortc counts them. An offer of a browser for one track and a data channel has some 100."""
MAX_CODECS = MAX_FEEDBACK = 64
"""Browsers name some ten codecs for sound and one kind of feedback: each line of one may concern all of the other."""
MAX_CANDIDATES = 16
_DEFAULT_MESSAGE_BYTES = 65_536  # RFC 8841 section 6.1
_UFRAG, _PASSWORD = re.compile(r"[A-Za-z0-9+/]{4,256}"), re.compile(r"[A-Za-z0-9+/]{22,256}")
_DIGESTS = ("sha-256", "sha-384", "sha-512")


@dataclass(frozen=True)
class Offer:
    """An offer that can be answered.

    Attributes:
        sdp: its text.
        has_events: it has a data channel.
        max_message_bytes: largest message that the client takes on it.
    """

    sdp: str
    has_events: bool
    max_message_bytes: int


def read_offer(text: str, with_candidates: bool) -> Offer:
    """Read an offer of one audio track and, perhaps, a data channel.

    Args:
        text: SDP.
        with_candidates: keep addresses that the client names, some and no names. Without them the server sends nothing
            to an address before that address has shown that it knows the secret of this offer. They are needed where
            the server itself is reached through STUN or TURN.

    Raises:
        EventError: no SDP, or an offer of something else (code "invalid_sdp").
    """
    _check_size(text)
    description = _parse(text)
    audio = [media for media in description.media if media.kind == "audio"]
    events = [media for media in description.media if media.kind == "application"]
    others = [media.kind for media in description.media if media.kind not in ("audio", "application")]
    if len(audio) != 1 or len(events) > 1 or others:
        kinds = ", ".join(media.kind for media in description.media) or "nothing"
        raise _refusal("one section of audio and at most one of a data channel", kinds)
    codecs = [codec.mimeType.lower() for codec in audio[0].rtp.codecs]
    if "audio/opus" not in codecs:
        raise _refusal("the codec Opus", ", ".join(codecs) or "none")
    for media in description.media:
        _check_security(media)
    bundles = [group.items for group in description.group if group.semantic == "BUNDLE"]
    mids = [media.rtp.muxId for media in description.media]
    if "" in mids or len(set(mids)) < len(mids) or not bundles or set(bundles[0]) != set(mids):
        raise _refusal("all sections in one BUNDLE group", "others")
    capabilities = events[0].sctpCapabilities if events else None
    largest = _DEFAULT_MESSAGE_BYTES if capabilities is None else capabilities.maxMessageSize
    return Offer(_without_addresses(text, with_candidates), bool(events), largest or 2**31)


def _check_size(text: str) -> None:
    """Raises EventError: it would take long to read it."""
    if len(text) > MAX_CHARS:
        raise _refusal(f"at most {MAX_CHARS} characters", str(len(text)))
    lines = text.splitlines()  # as aiortc does, which knows ten ways to end a line
    for begin, most in (("", MAX_LINES), ("a=rtpmap:", MAX_CODECS), ("a=rtcp-fb:", MAX_FEEDBACK)):
        count = sum(line.startswith(begin) for line in lines)
        if count > most:
            raise _refusal(f"at most {most} lines {begin}".rstrip(), str(count))


def _parse(text: str) -> SessionDescription:
    """Raises EventError: not SDP."""
    from aiortc.sdp import SessionDescription

    try:
        if not text.startswith("v=0"):
            raise ValueError("no version")
        return SessionDescription.parse(text)
    except (ValueError, AssertionError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise _refusal("an SDP offer", f"something else ({type(error).__name__})") from error


def _check_security(media: MediaDescription) -> None:
    """Raises EventError: what is needed for ICE and DTLS is missing."""
    ice = media.ice
    if ice is None or not _UFRAG.fullmatch(ice.usernameFragment or "") or not _PASSWORD.fullmatch(ice.password or ""):
        raise _refusal(f"ice-ufrag and ice-pwd for {shorten(media.kind)}", "none, or malformed ones")
    prints = [] if media.dtls is None else [one for one in media.dtls.fingerprints if one.algorithm.lower() in _DIGESTS]
    if not prints:
        raise _refusal(f"setup and a fingerprint ({', '.join(_DIGESTS)}) for {shorten(media.kind)}", "none")


def _without_addresses(text: str, with_candidates: bool) -> str:
    """The offer without candidates, or with some of those that are addresses: names would have to be looked up."""
    kept, count = [], 0
    for line in text.splitlines():
        if line.startswith("a=end-of-candidates"):  # others become known by themselves, when they send
            continue
        if line.startswith("a=candidate:"):
            if not with_candidates or count >= MAX_CANDIDATES or not _is_usable(line):
                continue
            count += 1
        kept.append(line)
    return "\r\n".join(kept) + "\r\n"


def _is_usable(candidate: str) -> bool:
    """Whether a line ``a=candidate:`` names an address for UDP."""
    fields = candidate.split()
    try:
        return fields[2].lower() == "udp" and bool(ipaddress.ip_address(fields[4]))
    except (IndexError, ValueError):
        return False


def _refusal(expected: str, found: str) -> EventError:
    return EventError(f"sdp: expected {expected}, found {found}", "invalid_sdp", "sdp")
