"""A real server for the tests: uvicorn in a thread on a free port, the nano model, and clients for it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import socket
import threading
import typing
from collections.abc import AsyncIterator, Awaitable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
import websockets

from echox.api import EchoX
from echox.api.loading import bundled_questions
from echox.audio import load_audio
from echox.serving.access.security import AccessPolicy
from echox.serving.protocol.limits import Limits
from echox.serving.server import create_app, make_server
from echox.serving.service.service import Service
from echox.serving.webrtc.ice import IceSettings
from waiting import wait_until

T = TypeVar("T")
torch.set_num_threads(1)
ENVELOPE = [
    "response.created",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
    "deltas",
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "conversation.item.done",
    "response.output_item.done",
    "response.done",
    "rate_limits.updated",
]
"""The events of one spoken reply, as `order` gives them."""


@functools.cache
def nano() -> EchoX:
    return EchoX.from_pretrained("nano")


class Running:
    """A server in a thread; `stop` is what SIGTERM does."""

    def __init__(
        self,
        model: EchoX,
        limits: Limits | None = None,
        policy: AccessPolicy | None = None,
        vad: str = "silero",
        end_of_turn: str | None = None,
        ice: IceSettings | None = None,
        ends_early: bool = True,
        app: Any = None,
        **uvicorn_options: Any,
    ) -> None:
        self.service = Service(model, "nano", limits, vad, end_of_turn, ends_early)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        app = create_app(self.service, policy, ice) if app is None else app
        self.server = make_server(app, self.service, "127.0.0.1", self.port, **uvicorn_options)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.server.started, "the server has started")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/v1/realtime?model=nano"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(40)
        assert not self.thread.is_alive(), "the server did not stop"


@contextlib.contextmanager
def running(*args: Any, **options: Any) -> Iterator[Running]:
    server = Running(*args, **options)
    try:
        yield server
    finally:
        server.stop()


@functools.cache
def event_classes() -> dict[str, Any]:
    from openai.types.realtime import RealtimeServerEvent

    union = typing.get_args(RealtimeServerEvent)[0]
    found = {}
    for cls in typing.get_args(union):
        for name in typing.get_args(cls.model_fields["type"].annotation):
            found[name] = cls
    return found


@functools.cache
def response_event_classes() -> dict[str, Any]:
    """The types of the events of a streamed response, by name."""
    from openai.types.responses import ResponseStreamEvent

    classes = typing.get_args(typing.get_args(ResponseStreamEvent)[0])
    return {typing.get_args(cls.model_fields["type"].annotation)[0]: cls for cls in classes}


def response_events(text: str) -> list[dict[str, Any]]:
    """The events of a streamed response, each checked strictly against the client's own type; numbered in order."""
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        response_event_classes()[event["type"]].model_validate_json(json.dumps(event), strict=True)
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def check_event(text: str) -> dict[str, Any]:
    """Validate a server event strictly against the client's own type, and return it."""
    event: dict[str, Any] = json.loads(text)
    assert event["event_id"]
    if not event["type"].startswith("echox."):
        cls = event_classes()[event["type"]]
        text = text.replace('"rate":16000', '"rate":24000')  # our extension, in types that know one rate
        cls.model_validate_json(text, strict=True)
        if event["type"].startswith("session."):
            from openai.types import realtime

            session = json.loads(text)["session"]
            kinds = {
                "realtime": realtime.RealtimeSessionCreateRequest,
                "transcription": realtime.RealtimeTranscriptionSessionCreateRequest,
            }
            kinds[session["type"]].model_validate_json(json.dumps(session), strict=True)
    return event


class Client:
    """A realtime client that checks every event it gets."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def next(self, timeout_s: float = 30.0) -> dict[str, Any]:
        event = check_event(await asyncio.wait_for(self.socket.recv(), timeout_s))
        self.events.append(event)
        return event

    async def until(self, kind: str, timeout_s: float = 30.0) -> dict[str, Any]:
        while True:
            event = await self.next(timeout_s)
            if event["type"] == kind:
                return event
            assert event["type"] != "error" or kind == "error", event

    async def say(self, samples: np.ndarray, rate: int = 24000, chunk_s: float = 0.1, pace: float = 0.0) -> None:
        """Send sound, in chunks; `pace` 1 is real time."""
        data = pcm16(samples)
        step = 2 * int(rate * chunk_s)
        for start in range(0, len(data), step):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(data[start : start + step]).decode())
            if pace:
                await asyncio.sleep(chunk_s * pace)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def sound(self) -> np.ndarray:
        """All speech that came, float32 (S,)."""
        data = b"".join(base64.b64decode(event["delta"]) for event in self.of("response.output_audio.delta"))
        return np.frombuffer(data, "<i2").astype(np.float32) / 32768


@contextlib.asynccontextmanager
async def connected(server: Running, manual: bool = False, **options: Any) -> AsyncIterator[Client]:
    """A client after its greeting; `manual`: turns by hand."""
    event_classes()  # imported, which takes seconds, before the server counts how long its client is idle
    async with websockets.connect(server.ws_url, max_size=2**26, **options) as ws:
        client = Client(ws)
        assert (await client.next())["type"] == "session.created"
        if manual:
            audio = {"input": {"turn_detection": None}}
            await client.send("session.update", session={"type": "realtime", "audio": audio})
            await client.until("session.updated")
        yield client


def run(work: Awaitable[T], timeout_s: float = 60.0) -> T:
    """What comes of what a client does, which has to end in time."""
    return asyncio.run(asyncio.wait_for(work, timeout_s))


def pcm16(samples: np.ndarray) -> bytes:
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype("<i2").tobytes()


def question(number: int, rate: int = 24000, lead_s: float = 0.0, tail_s: float = 0.0) -> np.ndarray:
    """A bundled spoken question with silence around it."""
    speech = load_audio(bundled_questions()[number], rate)
    return np.concatenate([np.zeros(int(lead_s * rate), np.float32), speech, np.zeros(int(tail_s * rate), np.float32)])


def user_text(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def order(events: list[dict[str, Any]]) -> list[str]:
    """Event types with repetitions of a reply's deltas collapsed."""
    found: list[str] = []
    for event in events:
        kind = event["type"]
        if kind.startswith("response.") and kind.endswith(".delta"):
            kind = "deltas"
        if not (found and found[-1] == kind == "deltas"):
            found.append(kind)
    return found


__all__ = ["ENVELOPE", "Client", "Limits", "Running", "connected", "nano", "order", "question", "running", "user_text"]
