"""What one client may ask of the server: every size, count and time has an end (imports nothing heavy)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server; what goes beyond is refused in words, and nothing grows without end.

    Attributes:
        max_connections: open TCP connections; fewer where the process may open fewer files. At the bound, the
            connection that has kept the server waiting longest is closed.
        max_client_share: part of the connections, places and upload bytes that one client address may use (this
            machine itself may use all; behind a proxy on it, the address in X-Forwarded-For counts).
        header_s: from the connection, or the last response, to the end of a request's header.
        body_s: for a request's body to arrive; it takes no place before.
        max_sessions: realtime conversations at the same time.
        max_requests: HTTP requests that use the model at the same time.
        max_waiting: clients that wait for one of these places; the next one is refused at once.
        wait_s: how long a client waits for a place before it is refused.
        max_message_bytes: one WebSocket message. 16 MiB holds the protocol's 15 MiB of appended audio.
        max_buffer_s: audio of one turn.
        max_upload_bytes: the body of one HTTP request. max_upload_s: its audio, decoded.
        max_uploading_bytes: the bodies of all requests that are being received or read.
        max_text_bytes: the body of one HTTP request without audio.
        max_speech_chars: text to be spoken by one request.
        max_decoders: processes that decode uploads, one file each at a time.
        max_items: conversation items kept; the oldest go first. max_history_s: likewise the sound in them.
        max_text_chars: all text of one item, and instructions. max_history_chars: of all items of a conversation, of
            which the oldest go first, and of all messages of one request, which is refused.
        max_session_s: life of a realtime session. idle_s: without a message from the client.
        send_s: a client that does not take one message for so long is dropped.
        max_unsent_bytes: what may wait for a slow reader before it is dropped.
        max_output_tokens: of one reply, whatever the client asks for; None: the model's own setting.
        drain_s: time for running replies to finish at shutdown.

    Raises:
        ValueError: a bound is not positive, or a share is more than 1.
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
    max_session_s: float = 3600.0
    idle_s: float = 600.0
    send_s: float = 20.0
    max_unsent_bytes: int = 16 * 2**20
    max_output_tokens: int | None = None
    drain_s: float = 20.0

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None or (item.name in ("max_waiting", "wait_s", "drain_s") and value == 0):
                continue
            if not value > 0:
                raise ValueError(f"{item.name}: expected more than 0, found {value}")
        if self.max_client_share > 1:
            raise ValueError(f"max_client_share: expected at most 1 (all), found {self.max_client_share}")
