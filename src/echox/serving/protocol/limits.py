"""Limits of a server: of every size, number and time that a client can influence. Imports nothing heavy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

_MAY_BE_0 = ("max_waiting", "wait_s", "drain_s", "max_speculations")


@dataclass(frozen=True)
class Limits:
    """Limits of a server. What exceeds them is refused with a message, and nothing grows without limit.

    Attributes:
        max_connections: open TCP connections; fewer if the process may open fewer files. At this limit, the
            connection that has kept the server waiting longest is closed.
        max_client_share: part of the connections, sessions, requests and upload bytes that one client address may use
            (this machine may use all; behind a proxy on it, the address in X-Forwarded-For counts).
        header_s: time from the connection, or from the last response, to the end of a request's header.
        body_s: time for a request's body to arrive. The request is admitted only after that.
        max_sessions: realtime conversations at the same time.
        max_requests: HTTP requests that use the model at the same time.
        max_waiting: clients that wait to be admitted; the next one is refused at once.
        wait_s: time that a client waits to be admitted before it is refused.
        max_message_bytes: size of one WebSocket message. 16 MiB holds the protocol's 15 MiB of appended audio.
        max_buffer_s: length of the audio of one turn.
        max_upload_bytes: size of the body of one HTTP request.
        max_upload_s: length of the decoded audio of one HTTP request.
        max_uploading_bytes: size of the bodies of all requests that are being received or read.
        max_text_bytes: size of the body of one HTTP request without audio.
        max_speech_chars: length of the text that one request lets the model speak; the words that are said for it
            (for "½", "one half") may be twice as long.
        max_decoders: processes that decode uploads, one file each at a time.
        max_items: items kept in a conversation; the oldest are removed first.
        max_history_s: length of the audio kept in a conversation; the oldest items are removed first.
        max_text_chars: length of all text of one item, and of instructions.
        max_history_chars: length of the text kept in a conversation; the oldest items are removed first. A request
            with more text in all messages is refused.
        max_tools: tools that a session or a request declares.
        max_tools_chars: length of their names, descriptions and schemas together.
        max_parts: parts of all items in the input of one response: each recording costs some milliseconds.
        max_stored_responses: responses of ``/v1/responses`` that are kept for ``previous_response_id``.
        max_stored_bytes: their size, above all of the recordings in them. If there are more, the oldest of the client
            address that takes most is dropped.
        stored_s: time that they are kept.
        max_session_s: duration of a realtime session.
        idle_s: time without a message from the client, or, in a call, without speech.
        connect_s: time from the answer to an offer (WebRTC) to the open data channel.
        lost_s: time without a packet of a call, after which its client is taken for lost.
        send_s: time in which a client must receive a part of what it is sent; otherwise it is disconnected.
        min_bytes_per_s: what a client that reads must receive on average of a long message or answer, beside `send_s`.
        max_unsent_bytes: bytes that may wait for a slow client; with more it is disconnected.
        max_partial_share: part of the time that transcripts of turns that are still spoken may take, for all sessions
            together; they are made one at a time.
        max_speculations: replies that are begun in the pauses of one turn, before it is over; 0: none.
        max_output_tokens: tokens of one reply, whatever the client requests; None: the model's own setting.
        drain_s: time for running replies to finish at shutdown.

    Raises:
        ValueError: a limit is not positive, or a share is more than 1.
    """

    max_connections: int = 512
    max_client_share: float = 0.5
    header_s: float = 10.0
    body_s: float = 30.0
    max_sessions: int = 8
    max_requests: int = 8
    max_waiting: int = 16
    wait_s: float = 5.0
    max_message_bytes: int = 16 * 2**20
    max_buffer_s: float = 120.0
    max_upload_bytes: int = 25 * 2**20
    max_upload_s: float = 300.0
    max_uploading_bytes: int = 256 * 2**20
    max_text_bytes: int = 2**20
    max_speech_chars: int = 4096
    max_decoders: int = 2
    max_items: int = 200
    max_history_s: float = 900.0
    max_text_chars: int = 20_000
    max_history_chars: int = 1_000_000
    max_tools: int = 64
    max_tools_chars: int = 32_000
    max_parts: int = 512
    max_stored_responses: int = 1000
    max_stored_bytes: int = 128 * 2**20
    stored_s: float = 3600.0
    max_session_s: float = 3600.0
    idle_s: float = 600.0
    connect_s: float = 15.0
    lost_s: float = 10.0
    send_s: float = 20.0
    min_bytes_per_s: int = 16 * 1024
    max_unsent_bytes: int = 16 * 2**20
    max_partial_share: float = 0.25
    max_speculations: int = 4
    max_output_tokens: int | None = None
    drain_s: float = 20.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None or (item.name in _MAY_BE_0 and value == 0):
                continue
            if not value > 0:
                raise ValueError(f"{item.name}: expected more than 0, found {value}")
        for name in ("max_client_share", "max_partial_share"):
            if getattr(self, name) > 1:
                raise ValueError(f"{name}: expected at most 1 (all), found {getattr(self, name)}")
